"""Random skipping at a wanted cost: the baseline that a router must beat to have learned anything about images.

Every image runs every block with one probability, sigmoid(margin). That scalar is all there is to learn: the cost loss
pushes it down, and classification pulls it up. Which blocks an image runs is a hash of its pixels in integers: it does
not depend on the batch, the devices, the execution or the precision, and the same pixels always take the same route.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

INITIAL_MARGIN = math.log(0.9 / 0.1)  # nine blocks of ten run; weight decay draws back to it
PACE = 0.25  # margin's move for one of drift's: so slow that gamma keeps up; a power of two, for an exact product
SHARPNESS = 10.0  # of v around a half: more is nearer to 0 and 1, and a noisier gradient

# Steps to a unit of normalised pixels. In every one of our data sets grey levels are a step or more apart, and none is
# so near to the middle between two steps that the rounding of its normalisation could tip it.
PIXEL_SCALE = 100.422

# The logistic distribution in 4096 equal parts. A table, for a logarithm need not round alike in two programs.
_PARTS = (np.arange(4096) + 0.5) / 4096
QUANTILES = np.log(_PARTS / (1 - _PARTS)).astype(np.float32)


class RandomStart(nn.Module):
    """A seed for every image, made of its pixels, and `margin`, which all blocks share."""

    @nn.compact
    def __call__(self, stem_BxHxWxC: jax.Array, images_BxHxWxC: jax.Array) -> tuple[jax.Array, Any]:
        del stem_BxHxWxC
        drift = self.param('drift', nn.initializers.zeros, ())
        return _seeds_B(images_BxHxWxC), {'margin': INITIAL_MARGIN + PACE * drift}


def random_logits(carry: jax.Array, shared: Any) -> tuple[jax.Array, jax.Array]:
    """Draws a logistic number from the image's sequence; margin plus it is positive with probability sigmoid(margin).

    Returns:
      router logits [B, 2] and the sequence's next state.
    """
    state_B = carry + jnp.uint32(0x9E3779B9)  # SplitMix's step: odd, so that no state comes twice
    drawn_B = jnp.asarray(QUANTILES)[_scrambled(state_B) >> 20]
    run_B = SHARPNESS * (shared['margin'] + drawn_B)
    return jnp.stack([jnp.zeros_like(run_B), run_B], axis=-1), state_B


def _seeds_B(images_BxHxWxC: jax.Array) -> jax.Array:
    """A uint32 of all of an image's pixels and their places. Two images that differ in one pixel never share it."""
    num_images, *shape = images_BxHxWxC.shape
    steps_BxP = jnp.round(images_BxHxWxC.reshape(num_images, math.prod(shape)) * PIXEL_SCALE).astype(jnp.int32)
    weights_P = _scrambled(jnp.arange(math.prod(shape), dtype=jnp.uint32)) | 1  # odd, so that no step is lost
    return _scrambled(jnp.sum(steps_BxP.astype(jnp.uint32) * weights_P[None], axis=1, dtype=jnp.uint32))


def _scrambled(bits: jax.Array) -> jax.Array:
    """MurmurHash3's finaliser: a permutation of uint32 in which each bit of the input moves half of the output's."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
