"""The Pallas kernel for TPUs, interpreted on the CPU: against the network under masked execution, and what it skips."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from cifar_networks import Network, network_of
from codinet_jax.inference import program
from codinet_jax.inference.fused import tpu
from codinet_jax.inference.program import FUSED
from codinet_jax.kernels import tpu_blocks
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from configs import digits_r14, imagenet_r50
from experiments.measure import fused_check
from helpers import quick_jit, random_variables

THRESHOLD = np.float32(0.5)


def answers(network: Network, images: np.ndarray, noises: list[Any], threshold: float = 0.5) -> list[tuple[Any, Any]]:
    """Of the kernel and of the masked network, for each noise."""
    folded = fused_check.random_folded(network.model)
    packed = tpu.pack(*network, folded)
    ours = quick_jit(tpu.program(*network, interpret=True))
    masked = quick_jit(program.program(*network, 'masked'))
    inputs = [(images, np.float32(threshold), *([] if noise is None else [noise])) for noise in noises]
    return [(ours(packed, *each), masked(folded, *each)) for each in inputs]


def assert_equal(ours: Any, masked: Any, threshold: float = 0.5, tolerance: float = 1e-5) -> None:
    apart = fused_check.agreement(ours, masked, threshold)
    assert apart['same'] == 1 and apart['logits'] < tolerance and apart['v'] < tolerance


# --- What it computes. ---


def test_a_routed_network_is_computed_as_under_masked_execution() -> None:
    """Two blocks in a row, and at each of a CIFAR ResNet's three shapes; routes dictated, and the routers' own."""
    network = network_of(14)
    drawn = [fused_check.random_inputs(network.model, 5, rate, seed=1) for rate in fused_check.CASES]
    images, n = drawn[0][0], network.model.architecture.num_blocks
    found = answers(network, images, [noise for _, noise in drawn])
    for ours, masked in found:
        assert_equal(ours, masked)
    v_Bxn = np.asarray(found[0][0][1])
    assert v_Bxn.shape == (5, n) and len(np.unique(v_Bxn >= THRESHOLD, axis=0)) > 1, 'images part ways'


@pytest.mark.parametrize(('router', 'changes'), [(None, {}), ('linear', {'model.shortcut': 'projection'})])
def test_without_routers_and_with_projections_too(router: str | None, changes: dict[str, Any]) -> None:
    network = network_of(8, router, **changes)
    images, _ = fused_check.random_inputs(network.model, 2, None, seed=2)
    for ours, masked in answers(network, images, [None], threshold=0.6):
        assert_equal(ours, masked, 0.6)


def test_in_bfloat16_it_is_masked_execution_to_its_rounding() -> None:
    network = network_of(14, **{'model.dtype': 'bfloat16'})
    images, noise = fused_check.random_inputs(network.model, 3, 0.6, seed=3)
    for ours, masked in answers(network, images, [noise]):
        assert_equal(ours, masked, tolerance=2e-2)


@pytest.mark.parametrize(('size', 'channels', 'num_images'), [(32, 16, 37), (8, 64, 130), (64, 16, 2), (16, 32, 1)])
def test_tiles_of_images_that_are_full_and_not(size: int, channels: int, num_images: int) -> None:
    """Two blocks alone, against XLA's convolutions; a tile holds 1,024 rows of images."""
    residual, router = random_blocks(channels)
    a, dictated = random_activations(num_images, size, channels)
    packed = tpu_blocks.pack(residual, router, size, np.float32)
    ran, v_Bxn = jax.jit(partial(tpu_blocks.run, interpret=True))(packed, a, THRESHOLD, dictated)
    expected, expected_v_Bxn = plain(residual, router, a, dictated)
    np.testing.assert_array_equal(v_Bxn >= THRESHOLD, expected_v_Bxn >= THRESHOLD)
    np.testing.assert_allclose(v_Bxn, expected_v_Bxn, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ran, expected, rtol=0, atol=1e-5 * np.max(expected))


def random_blocks(channels: int, n: int = 2) -> tuple[Any, Any]:
    rng = np.random.default_rng(channels)

    def layer(*shape: int) -> dict[str, Any]:
        kernel = rng.normal(size=(n, *shape)) / np.sqrt(math.prod(shape[:-1]))
        return {'kernel': kernel.astype(np.float32), 'bias': 0.1 * rng.normal(size=(n, shape[-1])).astype(np.float32)}

    convs = {name: layer(3, 3, channels, channels) for name in ('conv1', 'conv2')}
    return convs, {'hidden': layer(channels, channels), 'decide': layer(channels, 2)}


def random_activations(num_images: int, size: int, channels: int, n: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Of a ReLU, and what is added to routers' margins: of every other image a great deal, so that routes differ."""
    rng = np.random.default_rng(size)
    a = np.maximum(rng.normal(size=(num_images, size, size, channels)), 0).astype(np.float32)
    return a, np.where(rng.random((num_images, n)) < 0.5, rng.normal(size=(num_images, n)), -30).astype(np.float32)


def plain(residual: Any, router: Any, a: Any, dictated_Bxn: Any) -> tuple[np.ndarray, np.ndarray]:
    def conv(x: jax.Array, name: str, k: int) -> jax.Array:
        layer = residual[name]
        y = jax.lax.conv_general_dilated(
            x, layer['kernel'][k], (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )
        return y + layer['bias'][k, None, None, None]

    v = []
    for k in range(dictated_Bxn.shape[1]):
        h = jax.nn.relu(jnp.mean(a, (1, 2)) @ router['hidden']['kernel'][k] + router['hidden']['bias'][k, None])
        pair = h @ router['decide']['kernel'][k] + router['decide']['bias'][k, None]
        v.append(jax.nn.sigmoid(pair[:, 1] - pair[:, 0] + dictated_Bxn[:, k]))
        ran = jax.nn.relu(a + conv(jax.nn.relu(conv(a, 'conv1', k)), 'conv2', k))
        a = jnp.where((v[-1] >= THRESHOLD)[:, None, None, None], ran, a)
    return np.asarray(a), np.stack(v, axis=1)


def test_a_tie_runs_and_the_threshold_counts() -> None:
    residual, router = random_blocks(16, n=1)
    a, _ = random_activations(1, 32, 16)
    forward = jax.jit(partial(tpu_blocks.run, interpret=True))
    packed = tpu_blocks.pack(residual, router, 32, np.float32)
    v = np.asarray(forward(packed, a, np.float32(0))[1])[0, 0]
    at, above = (forward(packed, a, threshold)[0] for threshold in (v, np.nextafter(v, np.float32(2))))
    assert not np.array_equal(at, a)
    np.testing.assert_array_equal(above, a)


# --- What it skips. ---


def test_what_no_image_runs_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions are counted as they happen: two for every group of four images of those that run a block."""
    convolve, happened = tpu_blocks._conv, []

    def counted(*inputs: Any) -> Any:
        jax.debug.callback(lambda: happened.append(1))
        return convolve(*inputs)

    monkeypatch.setattr(tpu_blocks, '_conv', counted)
    residual, router = random_blocks(16, n=3)
    a, _ = random_activations(10, 32, 16)
    runs_3 = (0, 5, 1)
    dictated = np.stack([np.where(np.arange(10) < runs, 60, -60) for runs in runs_3], axis=1).astype(np.float32)
    packed = tpu_blocks.pack(residual, router, 32, np.float32)
    jax.block_until_ready(jax.jit(partial(tpu_blocks.run, interpret=True))(packed, a, THRESHOLD, dictated))
    jax.effects_barrier()
    assert len(happened) == 2 * (0 + 2 + 1)


# --- Where it is. ---


def test_it_becomes_a_kernel_of_a_tpu() -> None:
    """One for each stage's stack, as Mosaic takes it; what libtpu makes of it is `test_compiling`'s."""
    network = network_of(14, **{'model.dtype': 'bfloat16'})
    packed = tpu.pack(*network, fused_check.random_folded(network.model))
    images, _ = fused_check.random_inputs(network.model, 40, None, seed=4)
    v5e = AbstractDevice(device_kind='TPU v5 lite', num_cores=1, platform='tpu')
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=v5e)):
        exported = jax.export.export(jax.jit(tpu.program(*network)), platforms=['tpu'])(packed, images, THRESHOLD)
    assert exported.mlir_module().count('@tpu_custom_call') == 3


def test_it_is_never_the_default_on_a_tpu_and_is_had_for_the_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    network, asked = network_of(8, **{'model.dtype': 'bfloat16'}), []
    variables = random_variables(network.model, 0)
    monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
    monkeypatch.setattr(sharding, 'on_devices', lambda single, several, weights: weights)
    monkeypatch.setattr(program, 'program', lambda model, spec, strategy: asked.append(strategy))
    program.on_devices(*network, variables, None)
    assert asked == ['conditional', 'compacted']
    assert set(program.on_devices(*network, variables, FUSED)) == {'rest', 'stacks'}
    assert tpu.is_possible(network.model)


@pytest.mark.parametrize(
    ('network', 'word'),
    [
        (network_of(14, config=digits_r14), '8x8'),
        (network_of(50, config=imagenet_r50), 'ResNet-50'),
        (network_of(20, 'recurrent'), 'recurrent'),
    ],
)
def test_a_network_it_does_not_compute_is_refused_in_a_sentence(network: Network, word: str) -> None:
    why_not = tpu.supports(network.model)
    assert why_not is not None and word in why_not and why_not.endswith('.')
    with pytest.raises(InputError, match=word):
        tpu.program(*network)
