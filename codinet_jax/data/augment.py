"""Views of images, drawn on the device inside the training step, and the normalisation of what the network sees."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def make_views(images: jax.Array, key: jax.Array, num_views: int, crop_padding: int, flip: bool) -> jax.Array:
    """Draws M views of each image: padded with zeros, cropped back at a random place, mirrored half the time.

    Of photographs the host has cropped views already, and they are only mirrored.

    Every view of every image is drawn on its own, from its place in the global batch: the views do not depend on how
    many devices hold the batch, and no image leaves its device.

    Args:
      images: uint8 pixels [L, H, W, C] or views [L, M, H, W, C], sharded along L or not at all.
      key: of this step; the same key gives the same views.
      num_views: M.
      crop_padding: pixels added on each of the four sides; 0 crops nothing.
      flip: whether to mirror left to right with probability 1/2.

    Returns:
      uint8 [L, M, H, W, C].

    Raises:
      ValueError: num_views is not positive or crop_padding is negative.
    """
    if num_views < 1 or crop_padding < 0:
        raise ValueError(f'num_views {num_views} must be at least 1 and crop_padding {crop_padding} at least 0')
    crop_key, flip_key = jax.random.split(key)
    if images.ndim == 5:
        views_LxMxHxWxC = images
    else:
        corners_LxMx2 = jax.random.randint(crop_key, (len(images), num_views, 2), 0, 2 * crop_padding + 1)
        views_LxMxHxWxC = crops_at(images, corners_LxMx2, crop_padding)
    if not flip:
        return views_LxMxHxWxC
    is_mirrored_LxM = jax.random.bernoulli(flip_key, 0.5, views_LxMxHxWxC.shape[:2])
    return jnp.where(is_mirrored_LxM[:, :, None, None, None], views_LxMxHxWxC[:, :, :, ::-1], views_LxMxHxWxC)


def crops_at(images_LxHxWxC: jax.Array, corners_LxMx2: jax.Array, crop_padding: int) -> jax.Array:
    """Crops of the images padded with zeros, each as large as its image: uint8 [L, M, H, W, C].

    Corners are rows and columns of the padded image, from 0 to 2 * crop_padding; the image's own is the middle one.
    """
    margin, image_shape = (crop_padding, crop_padding), images_LxHxWxC.shape[1:]
    padded_LxHxWxC = jnp.pad(images_LxHxWxC, ((0, 0), margin, margin, (0, 0)))

    def crop(padded_HxWxC: jax.Array, corner_2: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(padded_HxWxC, (corner_2[0], corner_2[1], 0), image_shape)

    # A Python loop over the few views: on CPU a vmap over them as well takes five times as long.
    crops = [jax.vmap(crop)(padded_LxHxWxC, corners_LxMx2[:, view]) for view in range(corners_LxMx2.shape[1])]
    return jnp.stack(crops, axis=1)


def normalise(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """(images / 255 - mean) / std, channel by channel.

    Args:
      images: uint8 [..., C], any leading axes.
      mean: C numbers, or one for all, of pixels in [0, 1].
      std: as `mean`.

    Returns:
      float32 [..., C].

    Raises:
      ValueError: mean or std has not one number, or one for each channel.
    """
    num_channels = images.shape[-1]
    if not {len(mean), len(std)} <= {1, num_channels}:
        raise ValueError(f'{num_channels} channels need as many means and stds, not {len(mean)} and {len(std)}')
    ones = (1,) * (images.ndim - 1)
    mean_C, std_C = (jnp.asarray(numbers, jnp.float32).reshape(*ones, -1) for numbers in (mean, std))
    return (images.astype(jnp.float32) / 255 - mean_C) / std_C
