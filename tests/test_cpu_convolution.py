"""Convolutions that a CPU trains by: the convolution and both gradients against XLA's own, of every shape that networks
have; and a training step that is XLA's but for rounding, on one device and on several."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, test_util

from codinet_jax.config import setup
from codinet_jax.kernels import cpu_convolution, plain
from codinet_jax.models import execution
from codinet_jax.models.architecture import cifar_resnet
from codinet_jax.models.network import RoutedResNet
from codinet_jax.routing import relaxation
from codinet_jax.runtime import sharding
from configs import cifar10_r20, digits_r14
from helpers import random_images, random_variables

NHWC: dict[str, Any] = {'dimension_numbers': plain.NHWC}

# Batch, size, channels in and out, kernel, stride.
SHAPES = {
    'stem': (3, 16, 3, 16, 3, 1),
    'pairs': (2, 16, 16, 16, 3, 1),
    'narrowing': (2, 8, 32, 16, 3, 1),
    'wide': (2, 8, 32, 32, 3, 1),
    'strided': (2, 8, 16, 32, 3, 2),
    'strided to an odd size': (3, 10, 4, 6, 3, 2),
    'projection': (2, 8, 16, 32, 1, 2),
    'one by one': (2, 6, 8, 4, 1, 1),
    'photographs': (2, 16, 3, 8, 7, 2),
    'two pixels': (1, 2, 5, 16, 3, 1),
    'odd': (2, 7, 4, 16, 3, 1),
    'odd and strided': (2, 7, 4, 6, 3, 2),
}


def numbers(shape: tuple[int, ...], seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def arguments(case: str) -> tuple[jax.Array, jax.Array, tuple[Any, Any]]:
    batch_size, size, channels, outputs, kernel, stride = SHAPES[case]
    x, w = numbers((batch_size, size, size, channels), 0), numbers((kernel, kernel, channels, outputs), 1)
    return x, w, ((stride, stride), ((kernel // 2, kernel // 2),) * 2)


def all_three(convolve: Any, x: jax.Array, w: jax.Array, how: tuple[Any, Any]) -> list[np.ndarray]:
    """What comes of a convolution, and the gradients of its input and its kernel."""

    def run(x: jax.Array, w: jax.Array) -> Any:
        y, back = jax.vjp(lambda x, w: convolve(x, w, *how, **NHWC), x, w)
        return y, *back(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    return [np.asarray(part) for part in jax.jit(run)(x, w)]


@pytest.mark.parametrize('case', SHAPES)
def test_it_is_a_convolution_and_so_are_both_gradients(case: str) -> None:
    x, w, how = arguments(case)
    ours = all_three(cpu_convolution.conv_general_dilated, x, w, how)
    theirs = all_three(lax.conv_general_dilated, x, w, how)
    for part, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(part, expected, rtol=0, atol=2e-6 * np.abs(expected).max(), strict=True)


@pytest.mark.parametrize('case', ['pairs', 'strided'])
def test_the_gradients_are_those_of_differences(case: str) -> None:
    x, w, how = arguments(case)
    test_util.check_grads(
        lambda x, w: cpu_convolution.conv_general_dilated(x, w, *how, **NHWC), (x, w), 1, ['rev'], rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize('case', SHAPES)
def test_its_gradient_takes_images_that_a_branch_has_turned(case: str) -> None:
    """Or XLA would fuse what comes before into it; that these shapes are known at all."""
    x, w, how = arguments(case)
    text = jax.jit(lambda x, w: all_gradients(x, w, how)).lower(x, w).as_text()
    assert 'stablehlo.case' in text


def all_gradients(x: jax.Array, w: jax.Array, how: tuple[Any, Any]) -> Any:
    return jax.grad(lambda x, w: cpu_convolution.conv_general_dilated(x, w, *how, **NHWC).sum(), argnums=(0, 1))(x, w)


OTHERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Any, dict[str, Any]]] = {
    'even kernel': ((2, 8, 8, 4), (2, 2, 4, 6), ((2, 2), ((0, 0), (0, 0))), NHWC),
    'no padding': ((2, 8, 8, 4), (3, 3, 4, 6), ((1, 1), ((0, 0), (0, 0))), NHWC),
    'padding by name': ((2, 8, 8, 4), (3, 3, 4, 6), ((2, 2), 'SAME'), NHWC),
    'dilated': ((2, 8, 8, 4), (3, 3, 4, 6), ((1, 1), ((1, 1), (1, 1))), NHWC | {'rhs_dilation': (2, 2)}),
    'in groups': ((2, 8, 8, 4), (3, 3, 2, 6), ((1, 1), ((1, 1), (1, 1))), NHWC | {'feature_group_count': 2}),
}


@pytest.mark.parametrize('case', OTHERS)
def test_whatever_else_is_xlas_to_the_bit(case: str) -> None:
    x_shape, w_shape, how, options = OTHERS[case]
    x, w = numbers(x_shape, 0), numbers(w_shape, 1)
    ours, theirs = (
        jax.jit(jax.value_and_grad(lambda x, w, f=f: jnp.sin(f(x, w, *how, **options)).sum(), argnums=(0, 1)))(x, w)
        for f in (cpu_convolution.conv_general_dilated, lax.conv_general_dilated)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


# --- Networks. ---

NETWORK = RoutedResNet(cifar_resnet(8, image_size=16), unroll=3)
OWN = NETWORK.clone(convolution=cpu_convolution.conv_general_dilated)


def gradient(model: RoutedResNet, num_devices: int) -> tuple[Any, str]:
    """Of all parameters, for eight images spread over devices; and the program."""
    mesh = sharding.data_mesh(num_devices)
    variables, images = random_variables(model), random_images(model.architecture, 8)
    noise = np.random.default_rng(0).gumbel(size=(8, model.architecture.num_blocks, 2)).astype(np.float32)
    relaxed = execution.relaxed(relaxation.softmax, 1.0)

    def loss(params: Any, statistics: Any, images: jax.Array, noise: jax.Array) -> jax.Array:
        of_all = {'params': params, 'batch_stats': statistics}
        output, _ = model.apply(of_all, images, relaxed, noise, train=True, mutable=['batch_stats'])
        return jnp.sum(jnp.sin(output.logits_BxY)) + jnp.sum(output.run_probability_Bxn)

    everywhere, rows = sharding.replicated(mesh), sharding.by_rows(mesh)
    step = jax.jit(jax.grad(loss), in_shardings=(everywhere, everywhere, rows, rows), out_shardings=everywhere)
    compiled = step.lower(variables['params'], variables['batch_stats'], images, noise).compile()
    put = jax.device_put((variables['params'], variables['batch_stats']), everywhere)
    return compiled(*put, *sharding.put(mesh, np.asarray(images), noise)), compiled.as_text()


@pytest.mark.parametrize('num_devices', [1, 4])
def test_a_network_has_the_gradient_that_it_had(num_devices: int) -> None:
    expected, _ = gradient(NETWORK, 1)
    found, text = gradient(OWN, num_devices)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * max(np.abs(theirs).max(), 1e-3))
    assert [word for word in ('all-gather', 'all-to-all', 'collective-permute') if f'{word}(' in text] == []


@pytest.mark.parametrize(
    ('config', 'backend', 'is_own'),
    [(cifar10_r20, 'cpu', True), (digits_r14, 'cpu', False), (cifar10_r20, 'tpu', False)],
)
def test_a_cpu_trains_by_them_where_images_are_not_tiny(
    monkeypatch: pytest.MonkeyPatch, config: Any, backend: str, is_own: bool
) -> None:
    named = setup.read(config.get_config())
    monkeypatch.setattr(cpu_convolution, 'is_built', lambda: False)
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    trained = named.training_model()
    assert trained == (named.model.clone(convolution=OWN.convolution) if is_own else named.model)
    assert named.model.convolution is None
