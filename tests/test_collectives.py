"""What eight devices tell each other in a step, counted in the compiled program: gradients, statistics and routes."""

import dataclasses
import functools
import math
import re

import jax
import pytest

import helpers
from codinet_jax.config import default
from codinet_jax.runtime import sharding
from codinet_jax.training import stages
from codinet_jax.training.state import num_params

L, M, n = 16, 2, 4
VARIANTS: dict[str | None, str] = {'halting': 'act', 'exits': 'early_exit'}  # routers of one method
COLLECTIVE = re.compile(
    r'= (.*?) (all-reduce|all-gather|(?:ragged-)?all-to-all|collective-(?:permute|broadcast)|reduce-scatter)'
    r'(?:-start)?\('
)
# Of every norm: a scale, a bias; and so many channels there are in all.
NORMS = ((4, 1), (4, 2 * 2), (8, 2), (8, 2))
NORM_CHANNELS = sum(channels * count for channels, count in NORMS)


@functools.cache
def collectives(router: str | None, number: int = 1, norm_groups: int = 1) -> list[tuple[str, str, tuple[int, ...]]]:
    """Kind, element type and shape of everything that leaves a device in a stage's step."""
    mesh = sharding.data_mesh(8)
    changes = {'loss.target_cost': None} if router in VARIANTS else {}  # their tiny networks have no such cost
    config = helpers.tiny_config(batch_size=L, num_views=M, **changes)
    config = default.with_variant(config, VARIANTS.get(router, 'codinet'))
    stage = helpers.tiny_stages(config, router)[number - 1]
    step = dataclasses.replace(stage.step, model=stage.step.model.clone(norm_groups=norm_groups))
    batch = sharding.put(mesh, *helpers.noise_images(L))
    step_fn = stages.compiled(step, mesh)
    lowered = step_fn.lower(helpers.scattered_state(stage, mesh), *batch)
    program: str = lowered.compile(compiler_options=helpers.QUICK_OPTIONS).as_text()
    return [
        (kind, dtype, tuple(int(size) for size in dims.split(',') if size))
        for shapes, kind in COLLECTIVE.findall(program)
        for dtype, dims in re.findall(r'(\w+)\[([\d,]*)\]', shapes)
    ]


def num_elements(router: str | None, kind: str, **step: int) -> int:
    return sum(math.prod(shape) for of_kind, _, shape in collectives(router, **step) if of_kind == kind)


def size_of(router: str | None) -> int:
    return num_params(helpers.shapes(helpers.tiny_network(router))['params'])


@pytest.mark.parametrize('number', [1, 2])
def test_a_static_step_sums_gradients_and_statistics_and_nothing_else(number: int) -> None:
    assert {kind for kind, _, _ in collectives(None, number)} == {'all-reduce'}
    # Forward, a mean and a mean square for each channel of a norm. Backward needs two sums a channel: one is the
    # gradient of the bias, and one more. Loss and accuracy are two numbers.
    assert num_elements(None, 'all-reduce', number=number) == size_of(None) + 3 * NORM_CHANNELS + 2


def test_norms_by_device_say_only_what_the_running_statistics_need() -> None:
    assert {kind for kind, _, _ in collectives(None, norm_groups=8)} == {'all-reduce'}
    assert num_elements(None, 'all-reduce', norm_groups=8) == size_of(None) + 2 * NORM_CHANNELS + 2


@pytest.mark.parametrize('number', [1, 2])
def test_of_images_only_routes_are_gathered(number: int) -> None:
    moved = [collective for collective in collectives('linear', number) if collective[0] != 'all-reduce']
    assert {kind for kind, _, _ in moved} == {'all-gather'}
    # The centres of the routes for the pairs of Eq. 9; and of each row a hash, or two, by which routes are counted.
    assert sum(math.prod(shape) for _, _, shape in moved) <= L * (n + 2 * M)


@pytest.mark.parametrize('number', [1, 2])
def test_routing_adds_little_to_what_is_summed(number: int) -> None:
    routers = size_of('linear') - size_of(None)
    added = num_elements('linear', 'all-reduce', number=number) - num_elements(None, 'all-reduce', number=number)
    # Routers' gradients in stage 1; a route or two of each image, a hash of each row, a dozen means.
    assert added <= (routers if number == 1 else 0) + L * (n + 2 * M) + 3 * n + 12


@pytest.mark.parametrize('router', [None, 'linear', *VARIANTS])
def test_no_pixel_and_no_activation_travels(router: str | None) -> None:
    sizes = {leaf.shape for leaf in jax.tree.leaves(helpers.shapes(helpers.tiny_network(router)))}
    weights = sizes | {shape[1:] for shape in sizes}
    for _, dtype, shape in collectives(router):
        assert dtype != 'u8'
        assert len(shape) < 4 or shape in weights, 'of rank four there are only gradients'
