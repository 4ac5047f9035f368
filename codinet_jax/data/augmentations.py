"""The augmentations that evaluation holds an image's route against (section 4.4.1): an image's are always the same."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy import ndimage

from codinet_jax.data import augment

# The paper does not say how far it rotates.
MOST_DEGREES = 15.0


def crop(images_BxHxWxC: jax.Array, positions_B: jax.Array) -> jax.Array:
    """Padded with an eighth of the side, 4 pixels of 32 as in training, and cropped back at a random place."""
    padding = images_BxHxWxC.shape[1] // 8
    draw = jax.vmap(lambda key: jax.random.randint(key, (1, 2), 0, 2 * padding + 1))
    return augment.crops_at(images_BxHxWxC, draw(_keys(0, positions_B)), padding)[:, 0]


def horizontal_flip(images_BxHxWxC: jax.Array, positions_B: jax.Array) -> jax.Array:
    """Mirrored left to right."""
    del positions_B
    return images_BxHxWxC[:, :, ::-1]


def vertical_flip(images_BxHxWxC: jax.Array, positions_B: jax.Array) -> jax.Array:
    """Mirrored top to bottom."""
    del positions_B
    return images_BxHxWxC[:, ::-1]


def rotation(images_BxHxWxC: jax.Array, positions_B: jax.Array) -> jax.Array:
    """Rotated about the centre by a random angle of up to 15 degrees either way; corners are filled with zeros."""
    draw = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32, -MOST_DEGREES, MOST_DEGREES))
    return jax.vmap(rotated)(images_BxHxWxC, draw(_keys(1, positions_B)))


def rotated(image_HxWxC: jax.Array, degrees: jax.Array) -> jax.Array:
    """A uint8 image turned counter-clockwise about its centre, bilinear, zeros where there was nothing."""
    H, W, _ = image_HxWxC.shape
    centre_2x1x1 = jnp.array([(H - 1) / 2, (W - 1) / 2])[:, None, None]
    down_HxW, right_HxW = jnp.indices((H, W)) - centre_2x1x1
    sin, cos = jnp.sin(jnp.deg2rad(degrees)), jnp.cos(jnp.deg2rad(degrees))
    # Where each pixel of the answer comes from; rows count downward, so this is a clockwise turn.
    source_2xHxW = jnp.stack([cos * down_HxW + sin * right_HxW, cos * right_HxW - sin * down_HxW]) + centre_2x1x1

    def channel(pixels_HxW: jax.Array) -> jax.Array:
        values_HxW = ndimage.map_coordinates(pixels_HxW.astype(jnp.float32), list(source_2xHxW), order=1)
        return jnp.round(values_HxW).astype(jnp.uint8)

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image_HxWxC)


# A mirrored digit is another shape: what a set is not mirrored in training for is not asked to stay the same.
FLIPS = ('horizontal flip', 'vertical flip')

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]

# Of uint8 images [B, H, W, C] and their positions in the split [B], which stand in for a seed.
AUGMENTATIONS: dict[str, Augmentation] = {
    'crop': crop,
    'horizontal flip': horizontal_flip,
    'vertical flip': vertical_flip,
    'rotation': rotation,
}


def _keys(stream: int, positions_B: jax.Array) -> jax.Array:
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(stream), positions_B)
