"""The fused kernel, run thread by thread on the CPU: against the network under masked execution, and against the same
arithmetic in plain JAX, rounded where the kernel rounds."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import cifar_networks
from cifar_networks import Network
from codinet_jax.inference import fused
from codinet_jax.inference.fused import cuda
from codinet_jax.inference.program import program
from codinet_jax.kernels import library
from codinet_jax.runtime.errors import InputError
from compilers import by_nvcc, compiled
from configs import cifar10_r20, cifar100_r32, digits_r14, imagenet_r50
from experiments.measure import fused_check
from helpers import quick_jit

pytestmark = pytest.mark.usefixtures('own_cache')
THRESHOLD = np.float32(0.5)


def network_of(depth: int, router: str | None = 'linear', config: Any = cifar10_r20, **changes: Any) -> Network:
    return cifar_networks.network_of(depth, router, config, **{'model.dtype': 'bfloat16'} | changes)


def answers(network: Network, images: np.ndarray, noise: np.ndarray | None, seed: int = 0) -> tuple[Any, Any, Any]:
    """Of the kernel, of its twin and of the network in bfloat16; the former two with pooled means."""
    folded, inputs = fused_check.random_folded(network.model, seed), (images, THRESHOLD, noise)
    ours = jax.jit(cuda.program(*network, means=True, platform='cpu'))(cuda.pack(*network, folded), *inputs)
    twin = quick_jit(lambda *each: fused_check.twin(*network, *each))(folded, *inputs)
    return ours, twin, quick_jit(program(*network, 'masked'))(folded, *inputs)


def assert_right(network: Network, images: np.ndarray, noise: np.ndarray | None, seed: int = 0) -> None:
    ours, twin, masked = answers(network, images, noise, seed)
    apart = fused_check.agreement(ours, twin, 0.5)
    # A sum in another order may round the other way, and one such number in thousands is what remains.
    assert apart['same'] == 1 and apart['logits'] < 2e-3 and apart['v'] < 1e-3
    for k, z_BxC in enumerate(twin[2]):
        np.testing.assert_allclose(ours[2][:, k, : z_BxC.shape[1]], z_BxC, rtol=0, atol=5e-3 * np.max(z_BxC))
    apart = fused_check.agreement(ours, masked, 0.5)
    assert apart['same'] == 1 and apart['logits'] < 2e-2 and apart['v'] < 1e-2


# --- What it computes. ---


@compiled
@pytest.mark.parametrize('run_rate', fused_check.CASES)
@pytest.mark.parametrize('depth', [8, 20])
def test_a_routed_network_is_computed_as_under_masked_execution(depth: int, run_rate: float | None) -> None:
    network = network_of(depth)
    assert_right(network, *fused_check.random_inputs(network.model, 4, run_rate, seed=depth))


@compiled
@pytest.mark.parametrize('depth', [8, 14])
def test_a_static_network_is_computed(depth: int) -> None:
    network = network_of(depth, None)
    assert_right(network, *fused_check.random_inputs(network.model, 2, None, seed=3))


@compiled
def test_a_hundred_classes_are_told_apart() -> None:
    network = network_of(8, config=cifar100_r32)
    assert_right(network, *fused_check.random_inputs(network.model, 2, 0.5, seed=4))


@compiled
def test_of_what_is_not_rounded_the_numbers_are_float32s() -> None:
    """With no block run, pooling, routers, gates and head are all that happens after the stem."""
    network = network_of(20)
    folded = fused_check.random_folded(network.model)
    images, _ = fused_check.random_inputs(network.model, 2, None, seed=5)
    inputs = (images, np.float32(2), None)
    ours = jax.jit(cuda.program(*network, platform='cpu'))(cuda.pack(*network, folded), *inputs)
    twin = quick_jit(lambda *each: fused_check.twin(*network, *each))(folded, *inputs)
    assert np.std(twin[1]) > 0.01
    np.testing.assert_allclose(ours[1], twin[1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours[0], twin[0], rtol=0, atol=1e-5)


@compiled
def test_a_tie_runs_and_the_threshold_counts() -> None:
    network = network_of(8)
    folded = fused_check.random_folded(network.model)
    images, _ = fused_check.random_inputs(network.model, 1, None, seed=6)
    forward = jax.jit(cuda.program(*network, means=True, platform='cpu'))
    packed = cuda.pack(*network, folded)
    v_n = np.asarray(forward(packed, images, np.float32(0), None)[1])[0]
    at_first, above_first = (forward(packed, images, t, None) for t in (v_n[0], np.nextafter(v_n[0], np.float32(2))))
    assert not np.array_equal(at_first[2][:, 1, :16], at_first[2][:, 0, :16])
    np.testing.assert_array_equal(above_first[2][:, 1, :16], above_first[2][:, 0, :16])


# --- How it computes. ---


@compiled
def test_no_warp_depends_on_how_far_another_has_come() -> None:
    """Between two barriers warps may go in any order; what they leave behind must not tell in which."""
    network = network_of(14)
    packed = cuda.pack(*network, fused_check.random_folded(network.model))
    images, noise = fused_check.random_inputs(network.model, 3, 0.6, seed=7)
    forward = jax.jit(cuda.program(*network, means=True, platform='cpu'))
    forth = [np.asarray(x) for x in forward(packed, images, THRESHOLD, noise)]
    try:
        cuda.LIBRARY.load('cpu').codinet_fused_go(-1)
        back = [np.asarray(x) for x in forward(packed, images, THRESHOLD, noise)]
    finally:
        cuda.LIBRARY.load('cpu').codinet_fused_go(1)
    assert np.isfinite(forth[0]).all() and np.isfinite(forth[1]).all()
    for a, b in zip(forth[:2], back[:2], strict=True):
        np.testing.assert_array_equal(a, b)


@compiled
def test_an_image_gets_the_same_answer_in_any_batch() -> None:
    network = network_of(8)
    packed = cuda.pack(*network, fused_check.random_folded(network.model))
    images, _ = fused_check.random_inputs(network.model, 3, None, seed=8)
    forward = jax.jit(cuda.program(*network, platform='cpu'))
    together, alone = forward(packed, images, THRESHOLD), forward(packed, images[2:], THRESHOLD)
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a[2:], b)


# --- What it refuses. ---


@pytest.mark.parametrize(
    ('network', 'word'),
    [
        (network_of(14, config=digits_r14), '32x32'),
        (network_of(50, config=imagenet_r50), 'ResNet-50'),
        (network_of(20, 'recurrent'), 'recurrent'),
        (network_of(20, **{'model.shortcut': 'projection'}), 'projection'),
        (network_of(20, **{'model.dtype': 'float32'}), 'in float32: take masked'),
    ],
)
def test_a_network_it_does_not_compute_is_refused_in_a_sentence(network: Network, word: str) -> None:
    why_not = cuda.supports(network.model)
    assert why_not is not None and word in why_not and why_not.endswith('.')
    with pytest.raises(InputError, match=word):
        cuda.program(*network)


@compiled
def test_weights_of_another_network_are_refused() -> None:
    packed = cuda.pack(*network_of(8), fused_check.random_folded(network_of(8).model))
    images, _ = fused_check.random_inputs(network_of(8).model, 1, None, seed=9)
    with pytest.raises(Exception, match='weights are of another network'):
        jax.block_until_ready(jax.jit(cuda.program(*network_of(14), platform='cpu'))(packed, images, THRESHOLD))


@pytest.mark.parametrize(
    ('capability', 'has_code'),
    [('8.0', True), ('8.9', True), ('9.0', True), ('7.5', False), ('10.0', False), ('', False)],
)
def test_it_is_for_the_generations_that_it_has_code_for(
    capability: str, has_code: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, 'devices', lambda: [SimpleNamespace(compute_capability=capability)])
    monkeypatch.setattr(library, '_can_be_built', lambda *_: True)
    assert cuda.is_default(network_of(8).model) == has_code


def test_no_other_device_has_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, 'default_backend', lambda: 'METAL')
    model = network_of(8).model
    assert not fused.is_possible(model) and not fused.is_default(model)
    with pytest.raises(InputError, match=r'^There is no fused kernel for METAL devices'):
        fused.ready(*network_of(8), {})


def test_without_a_compiler_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, 'find_compiler', lambda recipe: None)
    with pytest.raises(InputError, match='built by nvcc'):
        cuda.LIBRARY.build('CUDA')


@compiled
def test_what_does_not_compile_is_told_of_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = library.RECIPES['cpu']
    monkeypatch.setitem(library.RECIPES, 'cpu', recipe._replace(flags=(*recipe.flags, '-std=c++03')))
    with pytest.raises(InputError, match=r'does not build the fused kernel: .*error'):
        cuda.LIBRARY.build('cpu')


def test_nvcc_takes_the_kernel(tmp_path: Any) -> None:
    said = by_nvcc(cuda.LIBRARY, tmp_path)
    assert '0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads' in said, said
