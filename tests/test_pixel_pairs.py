"""Convolutions in pairs of pixels: against XLA's and against sums by hand; where they are taken, and that a program
made for several platforms holds them for the CPU alone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from codinet_jax.inference import program
from codinet_jax.kernels import pixel_pairs, plain
from codinet_jax.models.architecture import cifar_resnet
from codinet_jax.models.network import RoutedResNet
from helpers import random_variables, tiny_setup
from reference_network import np_conv

NHWC: dict[str, Any] = {'dimension_numbers': plain.NHWC}
PADDED = ((1, 1), (1, 1))


def random(batch_size: int, height: int, width: int, channels: int, outputs: int = 16) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(batch_size + width)
    shapes = (batch_size, height, width, channels), (3, 3, channels, outputs)
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)  # type: ignore[return-value]


def both(
    x: jax.Array, w: jax.Array, strides: Any = (1, 1), padding: Any = PADDED, **others: Any
) -> list[tuple[np.ndarray, str]]:
    """What `pixel_pairs` makes of a convolution, and XLA: the numbers, and the program's text."""
    found = []
    for convolve in (pixel_pairs.conv_general_dilated, lax.conv_general_dilated):
        lowered = jax.jit(lambda x, w, convolve=convolve: convolve(x, w, strides, padding, **others)).lower(x, w)
        found.append((np.asarray(lowered.compile()(x, w)), lowered.as_text()))
    return found


def is_in_pairs(text: str) -> bool:
    return 'stride = [1, 2]' in text and '3x4x' in text


@pytest.mark.parametrize(
    ('batch_size', 'height', 'width', 'channels'),
    [(1, 32, 32, 16), (3, 32, 32, 3), (2, 8, 8, 16), (5, 3, 2, 7), (1, 1, 4, 1)],
)
def test_the_sums_are_a_convolutions(batch_size: int, height: int, width: int, channels: int) -> None:
    x, w = random(batch_size, height, width, channels)
    (ours, text), (theirs, _) = both(x, w, **NHWC)
    assert is_in_pairs(text)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())


def test_the_sums_are_those_by_hand() -> None:
    x, w = random(2, 8, 8, 5)
    exact = np.stack([np_conv(image, np.asarray(w, np.float64)) for image in np.asarray(x, np.float64)])
    np.testing.assert_allclose(pixel_pairs.in_pairs(x, w), exact, rtol=0, atol=1e-6 * np.abs(exact).max())


def test_padding_may_be_named() -> None:
    x, w = random(2, 8, 8, 16)
    (ours, text), (theirs, _) = both(x, w, padding='SAME', **NHWC)
    assert is_in_pairs(text)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * np.abs(theirs).max())


OTHERS: dict[str, tuple[Any, dict[str, Any]]] = {
    'more channels out': (random(2, 8, 8, 16, outputs=32), NHWC),
    'odd width': (random(2, 8, 7, 16), NHWC),
    'stride': (random(2, 8, 8, 16), NHWC | {'strides': (2, 2)}),
    'no padding': (random(2, 8, 8, 16), NHWC | {'padding': 'VALID'}),
    'dilated': (random(2, 8, 8, 16), NHWC | {'rhs_dilation': (2, 2)}),
    'channels first': (random(2, 4, 8, 4), {'dimension_numbers': ('NHWC', 'WHIO', 'NHWC')}),
    'bfloat16': (tuple(each.astype(jnp.bfloat16) for each in random(2, 8, 8, 16)), NHWC),
    'one by one': ((random(2, 8, 8, 16)[0], random(2, 8, 8, 16)[1][:1, :1]), NHWC),
}


@pytest.mark.parametrize('case', OTHERS)
def test_whatever_else_is_xlas_to_the_bit(case: str) -> None:
    (x, w), options = OTHERS[case]
    (ours, text), (theirs, _) = both(x, w, **options)
    assert not is_in_pairs(text)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize('platform', ['cpu', 'tpu', 'cuda'])
def test_only_a_cpus_program_holds_them(platform: str) -> None:
    x, w = random(2, 8, 8, 16)
    convolve = jax.jit(lambda x, w: pixel_pairs.conv_general_dilated(x, w, (1, 1), PADDED, **NHWC))
    text = convolve.trace(x, w).lower(lowering_platforms=(platform,)).as_text()
    assert is_in_pairs(text) == (platform == 'cpu')


# --- Networks. ---


def net() -> RoutedResNet:
    return RoutedResNet(cifar_resnet(8, image_size=16))


def test_a_network_answers_alike_in_pairs_and_without() -> None:
    """Routed and folded, in the program of inference; the convolutions of 16 channels are those of the first stage."""
    model, spec = net(), tiny_setup().data.spec
    images = np.asarray(np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)), np.uint8)
    forward, weights = program.ready(model, spec, 'compacted', random_variables(model, 3))
    lowered = jax.jit(forward).lower(weights, images, np.float32(0.5))
    assert is_in_pairs(lowered.as_text())
    answers = lowered.compile()(weights, images, np.float32(0.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixel_pairs, 'supports', lambda x, w: False)
        without = jax.jit(program.program(model, spec, 'compacted')).lower(weights, images, np.float32(0.5))
    assert not is_in_pairs(without.as_text())
    expected = without.compile()(weights, images, np.float32(0.5))
    assert np.abs(np.asarray(expected[1]) - 0.5).min() > 1e-4, 'no decision may hang on rounding'
    for ours, theirs in zip(answers, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
