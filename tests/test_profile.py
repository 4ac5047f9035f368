"""The profile's parts add up, its rates follow from them, and its trace is one that viewers open."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

import helpers
from codinet_jax.config.setup import Setup
from codinet_jax.runtime.errors import InputError
from codinet_jax.training import profiling

PEAK = 0.5


@pytest.fixture(autouse=True, scope='module')
def quickly_compiled() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, 'jit', helpers.quick_jit)
        yield


@pytest.fixture(scope='module')
def found(root: Path) -> dict[str, Any]:
    return profiling.profile(setup(root), 2, 4, root / 'trace', PEAK, lambda line: None)


def setup(root: Path, **changes: Any) -> Setup:
    return helpers.tiny_setup(**{'data_dir': str(root / 'tfds')} | changes)


def test_the_parts_of_a_step_add_up_and_rates_follow(found: dict[str, Any], root: Path) -> None:
    seconds, batch = found['seconds'], setup(root).recipe.batch_size
    assert all(value > 0 for value in seconds.values())
    assert max(seconds[part] for part in ('input', 'host', 'device')) <= seconds['step']
    # Their medians need not be of one step; on a machine that does nothing else they would be.
    assert sum(seconds[part] for part in ('input', 'host', 'device')) < 3 * seconds['step']
    assert found['images_per_second'] == pytest.approx(batch / seconds['step'])
    assert (found['stage'], found['steps'], found['num_devices']) == (2, 4, jax.device_count())


def test_model_flops_are_three_forward_passes_of_every_view(found: dict[str, Any], root: Path) -> None:
    table, recipe = setup(root).costs, setup(root).recipe
    views = recipe.batch_size * recipe.num_views
    forward = 2 * (table.fixed_macs + sum(table.blocks_n)) * views
    expected = 3 * forward / found['seconds']['step'] / jax.device_count() / 1e12
    assert found['tflops_per_device'] == pytest.approx(expected)
    assert found['model_flops_utilisation'] == pytest.approx(expected / PEAK)


def test_memory_holds_at_least_the_state(found: dict[str, Any], root: Path) -> None:
    leaves = jax.tree.leaves(helpers.shapes(setup(root).model)['params'])
    assert found['compiled_bytes'] > 2 * 4 * sum(leaf.size for leaf in leaves), 'parameters and their momentum'


def test_the_trace_opens_as_a_chrome_trace_and_knows_the_step(found: dict[str, Any], root: Path) -> None:
    del found
    (path,) = (root / 'trace').rglob('perfetto_trace.json.gz')
    with gzip.open(path) as file:
        names = {event.get('name', '') for event in json.load(file)['traceEvents']}
    assert any('convolution' in name or 'fusion' in name for name in names)
    assert list((root / 'trace').rglob('*.xplane.pb')), "TensorBoard's profiler reads this"


def test_a_person_reads_milliseconds_and_rates(found: dict[str, Any]) -> None:
    text = profiling.readable(found)
    assert f'step {found["seconds"]["step"] * 1e3:.1f} ms' in text and f'of {PEAK:g}' in text
    unknown = profiling.readable(found | {'peak_tflops': None, 'model_flops_utilisation': None})
    assert '--peak_tflops' in unknown


@pytest.mark.parametrize(
    ('kind', 'peak'),
    [
        ('NVIDIA H100 80GB HBM3', 989),
        ('NVIDIA H100 PCIe', 756),
        ('NVIDIA A100-SXM4-40GB', 312),
        ('TPU v5 lite', 197),
        ('TPU v5', 459),
        ('cpu', None),
    ],
)
def test_peaks_go_by_the_longest_name_that_fits(kind: str, peak: float | None) -> None:
    assert profiling.peak_of(kind) == peak


@pytest.mark.parametrize(('kind', 'peak'), [('NVIDIA H100 80GB HBM3', 494.5), ('TPU v5', None)])
def test_float32_has_a_peak_of_its_own_or_none(kind: str, peak: float | None) -> None:
    assert profiling.peak_of(kind, 'float32') == peak


def test_random_pixels_need_no_data(root: Path) -> None:
    somewhere = setup(root, data_dir=str(root / 'nowhere'))
    found = profiling.profile(somewhere, num_steps=2, peak_tflops=PEAK, report=lambda line: None, with_data=False)
    assert found['seconds']['step'] > 0


def test_what_cannot_be_trained_cannot_be_profiled(root: Path) -> None:
    with pytest.raises(InputError, match='batch_size 12'):
        profiling.profile(setup(root, batch_size=12))
