"""The kernels for CPUs: convolutions and both gradients against XLA's, as made for several processors, with one thread
and with more, on one device and on several; and that training goes by them where there is a compiler."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import compilers
from codinet_jax.config import left_open, setup
from codinet_jax.kernels import cpu_convolution, library, plain, simd
from codinet_jax.runtime import waiting
from codinet_jax.runtime.errors import InputError
from compilers import compiled
from configs import cifar10_r20, digits_r14

pytestmark = compiled

# Batch, height, width, channels in and out, kernel, stride.
SHAPES = {
    'stem': (3, 16, 16, 3, 16, 3, 1),
    'first stage, two groups of images': (11, 32, 32, 16, 16, 3, 1),
    'second stage': (2, 16, 16, 32, 32, 3, 1),
    'third stage': (9, 8, 8, 64, 64, 3, 1),
    'halving': (2, 16, 16, 16, 32, 3, 2),
    'halving an odd size': (2, 15, 15, 32, 64, 3, 2),
    'a third vector of channels': (2, 9, 7, 5, 48, 3, 1),
    'few columns, an odd number of rows': (2, 15, 13, 5, 48, 3, 1),
    'fewer columns': (2, 7, 6, 3, 16, 3, 1),
    'more columns, an odd number': (1, 3, 31, 3, 16, 3, 1),
    'joins': (2, 8, 8, 64, 64, 1, 1),
    'projection': (2, 9, 9, 16, 32, 1, 2),
    'a large window': (1, 12, 20, 3, 32, 7, 2),
    'a window larger than the image': (2, 2, 1, 16, 16, 5, 1),
    'far apart': (1, 9, 9, 16, 16, 3, 4),
    'no image': (0, 8, 8, 16, 16, 3, 1),
}


def integers(shape: tuple[int, ...], seed: int) -> jax.Array:
    """So small that sums are exact in float32, in whatever order."""
    return jnp.asarray(np.random.default_rng(seed).integers(-8, 9, shape), jnp.float32)


def arguments(case: str) -> tuple[jax.Array, jax.Array, tuple[Any, Any]]:
    batch_size, height, width, channels, outputs, kernel, stride = SHAPES[case]
    x, w = integers((batch_size, height, width, channels), 0), integers((kernel, kernel, channels, outputs), 1)
    return x, w, ((stride, stride), ((kernel // 2, kernel // 2),) * 2)


def all_three(convolve: Any, case: str) -> list[np.ndarray]:
    """What comes of a convolution, and the gradients of its input and its kernel."""
    x, w, how = arguments(case)

    def run(x: jax.Array, w: jax.Array) -> Any:
        y, back = jax.vjp(lambda x, w: convolve(x, w, *how, dimension_numbers=plain.NHWC), x, w)
        return y, *back(integers(y.shape, 2))

    return [np.asarray(part) for part in jax.jit(run)(x, w)]


@pytest.fixture(params=compilers.PROCESSORS)
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernels as they are made for one."""
    compilers.register_for(request.param, simd, ('TARGET', 'GRADIENT_TARGET'), monkeypatch)
    return str(request.param)


@pytest.mark.parametrize('case', SHAPES)
def test_it_is_a_convolution_and_so_are_both_gradients(processor: str, case: str) -> None:
    x, w, (strides, _) = arguments(case)
    assert simd.supports(x, w, strides)
    for ours, theirs in zip(
        all_three(cpu_convolution.by_kernels(), case), all_three(lax.conv_general_dilated, case), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ('x', 'w', 'strides'),
    [
        ((2, 8, 8, 16), (3, 3, 16, 24), (1, 1)),
        ((2, 8, 8, 16), (3, 3, 16, 16), (1, 2)),
        ((2, 8, 8, 512), (3, 3, 512, 512), (1, 1)),
    ],
    ids=['channels', 'strides', 'weights'],
)
def test_what_they_do_not_know_goes_by_xla(x: Any, w: Any, strides: tuple[int, int]) -> None:
    convolve = cpu_convolution.by_kernels()
    made = jax.make_jaxpr(lambda x, w: convolve(x, w, strides, ((1, 1), (1, 1)), dimension_numbers=plain.NHWC))
    assert simd.TARGET not in str(made(*(jnp.zeros(shape, jnp.float32) for shape in (x, w))))


def test_half_precision_goes_by_xla() -> None:
    x, w = jnp.zeros((2, 8, 8, 16), jnp.bfloat16), jnp.zeros((3, 3, 16, 16), jnp.bfloat16)
    assert not simd.supports(x, w, (1, 1))


@pytest.mark.parametrize('num_devices', [1, 2, 8])
def test_a_batch_is_computed_where_it_lies(num_devices: int) -> None:
    """And what the devices make of a kernel's gradient is added up."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:num_devices]), ('data',))
    rows, everywhere = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in (('data',), ()))
    x, w = integers((16, 8, 8, 16), 0), integers((3, 3, 16, 32), 1)
    dy = integers((16, 8, 8, 32), 2)

    def run(convolve: Any, x: jax.Array, w: jax.Array, dy: jax.Array) -> Any:
        y, back = jax.vjp(lambda x, w: convolve(x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=plain.NHWC), x, w)
        return y, *back(dy)

    step = jax.jit(
        lambda *arrays: run(cpu_convolution.by_kernels(), *arrays),
        in_shardings=(rows, everywhere, rows),
        out_shardings=(rows, rows, everywhere),
    )
    program = step.lower(x, w, dy).compile()
    text = program.as_text()
    found = program(jax.device_put(x, rows), jax.device_put(w, everywhere), jax.device_put(dy, rows))
    for ours, theirs in zip(found, run(lax.conv_general_dilated, x, w, dy), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [word for word in ('all-gather', 'all-to-all', 'collective-permute') if f'{word}(' in text] == []
    assert (text.count('all-reduce(') == 1) == (num_devices > 1)


def test_a_compilation_cache_tells_apart_what_differs_in_padding_alone() -> None:
    """What a program was compiled of does not say how a call is made on each device; on one device it does."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ('data',))
    rows, everywhere = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in (('data',), ()))
    x, w = integers((4, 8, 8, 16), 0), integers((3, 3, 16, 16), 1)
    simd.LIBRARY.register('cpu')
    for padding in (((0, 1), (0, 1)), ((1, 0), (1, 0))):
        call = jax.jit(
            lambda x, w, padding=padding: simd.convolution(x, w, 2, padding),
            in_shardings=(rows, everywhere),
            out_shardings=rows,
        )
        found = call(jax.device_put(x, rows), jax.device_put(w, everywhere))
        wanted = lax.conv_general_dilated(x, w, (2, 2), padding, dimension_numbers=plain.NHWC)
        np.testing.assert_array_equal(found, wanted)


OF_A_GRADIENT = """
import os, sys
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:int(sys.argv[1])])
import jax, numpy as np
from codinet_jax.kernels import simd
simd.LIBRARY.register('cpu')
x, dy = (np.random.default_rng(i).normal(size=(40, 16, 16, 16)).astype(np.float32) for i in range(2))
w = simd.kernel_gradient(x, dy, (3, 3), 1, ((1, 1), (1, 1)))
sys.stdout.buffer.write(np.asarray(w).tobytes() + np.asarray(simd.convolution(x, w, 1, ((1, 1), (1, 1)))).tobytes())
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason='there is one core')
def test_sums_are_the_same_with_any_number_of_threads() -> None:
    simd.LIBRARY.build('cpu')
    environment = {name: value for name, value in os.environ.items() if name != 'JAX_NUM_CPU_DEVICES'}
    once, twice = (
        subprocess.run(
            [sys.executable, '-c', OF_A_GRADIENT, str(cores)], check=True, capture_output=True, env=environment
        ).stdout
        for cores in (1, 2)
    )
    assert len(once) > 40 * 16 * 16 * 16 * 4 and once == twice


def test_numbers_that_are_none_stay_none() -> None:
    x, w, how = arguments('second stage')
    y = cpu_convolution.by_kernels()(x.at[1, 3, 4, 5].set(jnp.nan), w, *how, dimension_numbers=plain.NHWC)
    is_nan = np.isnan(np.asarray(y)).any(-1)
    assert is_nan[1, 2:5, 3:6].all() and is_nan.sum() == 9


def test_shapes_that_do_not_fit_are_refused() -> None:
    simd.LIBRARY.register('cpu')
    x, w = jnp.zeros((2, 8, 8, 16), jnp.float32), jnp.zeros((3, 3, 16, 16), jnp.float32)
    same = ((1, 1), (1, 1))
    with pytest.raises(Exception, match='images and kernel do not fit'):
        jax.block_until_ready(simd.convolution(x[..., :8], w, 1, same))
    with pytest.raises(Exception, match='no multiple of 16'):
        jax.block_until_ready(simd.convolution(x, w[..., :8], 1, same))
    with pytest.raises(Exception, match='no such padding'):
        jax.block_until_ready(simd.convolution(x, w, 1, ((-1, 3), (1, 1))))


# --- What trains by them. ---


def test_a_network_trains_by_them_where_a_compiler_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    named, of_digits = setup.read(cifar10_r20.get_config()), setup.read(digits_r14.get_config())
    for each in (named, of_digits):
        assert each.fastest_convolution() == 'simd'
        assert each.training_model().convolution is cpu_convolution.by_kernels()
    monkeypatch.setattr(cpu_convolution, 'is_built', lambda: False)
    assert named.training_model().convolution is cpu_convolution.conv_general_dilated
    assert of_digits.training_model().convolution is None


def test_without_a_compiler_a_run_says_what_it_misses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(library, 'find_compiler', lambda recipe: None)
    monkeypatch.setattr(simd, 'LIBRARY', dataclasses.replace(simd.LIBRARY, name='never_built'))
    cpu_convolution.by_kernels.cache_clear()
    cpu_convolution.is_built.cache_clear()
    try:
        assert not cpu_convolution.is_built() and not cpu_convolution.is_built()
        assert capsys.readouterr().out.count('install it') == 1
        with pytest.raises(InputError, match=r'built by g\+\+: install it'):
            cpu_convolution.by_kernels()
    finally:
        cpu_convolution.by_kernels.cache_clear()
        cpu_convolution.is_built.cache_clear()


@pytest.mark.parametrize(
    ('asked', 'begun', 'found'), [(None, 'xla', 'xla'), (None, None, 'simd'), ('xla', 'simd', 'xla')]
)
def test_a_run_goes_on_with_what_it_began_with(asked: str | None, begun: str | None, found: str) -> None:
    config, before = cifar10_r20.get_config(), cifar10_r20.get_config()
    config.model.convolution, before.model.convolution = asked, begun
    config.data_dir = before.data_dir = str(Path(__file__).parent)
    settings = left_open.found(config, before if begun else None)
    assert settings['model.convolution'] == found


def test_a_run_that_these_began_is_told_where_it_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    config, before = cifar10_r20.get_config(), cifar10_r20.get_config()
    before.model.convolution = 'simd'
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    with pytest.raises(InputError, match=r'begun with model\.convolution=simd, which is for CPUs: go on there, or'):
        left_open.found(config, before)


def test_a_processor_has_a_library_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    here = simd.LIBRARY.build('cpu')
    monkeypatch.setattr(library, '_processor', lambda: 'flags: fewer')
    assert simd.LIBRARY._built('cpu') != here


def test_who_waits_for_a_library_is_told_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, for stdout may be answers."""
    monkeypatch.setenv('CODINET_JAX_CACHE', str(tmp_path))
    monkeypatch.setattr(waiting, 'SECONDS_QUIET', 0.01)
    (tmp_path / 'call.cpp').write_text('#include <regex>')
    slow = dataclasses.replace(simd.LIBRARY, title='test kernel', sources=tmp_path, headers=(), targets=())
    assert slow.build('cpu').exists()
    said = capsys.readouterr()
    assert said.out == '' and said.err.startswith('g++ builds the test kernel, once for this machine ...')
    assert slow.build('cpu').exists() and capsys.readouterr().err == ''


def test_they_are_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    config = cifar10_r20.get_config()
    config.model.convolution = 'simd'
    named = setup.read(config)
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    with pytest.raises(InputError, match='simd is for CPUs'):
        named.training_model()
