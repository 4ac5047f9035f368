"""CIFAR-10 in memory, and a fixed pool of augmented views of every training image.

The pool is a table of K draws an image (crop, mirror, square cut out), so that the soft targets of teachers are
computed once for it and shared by all runs. Views of odd number have a square cut out (Cutout, arXiv 1708.04552).
"""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.data import augment, datasets
from codinet_jax.runtime import files

# Of the trained networks (pytorch_resnet_cifar10): ImageNet's.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PADDING = 4
NAMES = ('images', 'labels')


class Images(NamedTuple):
    """uint8 pixels [N, H, W, C] and int32 classes [N]."""

    images_NxHxWxC: np.ndarray
    labels_N: np.ndarray

    def part(self, rows: slice) -> 'Images':
        return Images(self.images_NxHxWxC[rows], self.labels_N[rows])


def read(split: str, data_dir: str, cache: pathlib.Path) -> Images:
    """A split from plain arrays in `cache`, which are written there first if they are missing."""
    paths = [cache / f'{split}_{name}.npy' for name in NAMES]
    if not all(path.exists() for path in paths):
        whole = datasets.source('cifar10', data_dir).open(split)
        assert isinstance(whole, tuple)
        for path, array in zip(paths, whole, strict=True):
            save(path, array)
    images_NxHxWxC, labels_N = (np.load(path) for path in paths)
    return Images(images_NxHxWxC, labels_N.astype(np.int32))


def save(path: pathlib.Path, array: np.ndarray) -> None:
    """Whole or not at all, for other runs may read it meanwhile."""
    files.write(path, lambda file: np.save(file, array))


def draws(pool: int, num_images: int, seed: int = 0, padding: int = PADDING) -> np.ndarray:
    """uint8 [K, N, 5] of every view: row and column of the crop, mirrored or not, row and column of the cut."""
    high = np.array([2 * padding + 1, 2 * padding + 1, 2, 32, 32])
    return np.random.default_rng(seed).integers(0, high, (pool, num_images, 5)).astype(np.uint8)


def views(
    images_LxHxWxC: jax.Array, draws_LxMx5: jax.Array, is_cut_LxM: jax.Array, cut: int, padding: int = PADDING
) -> jax.Array:
    """uint8 [L, M, H, W, C]; a square of `cut` pixels a side is grey where `is_cut_LxM`."""
    drawn_LxMx5 = draws_LxMx5.astype(jnp.int32)
    views_LxMxHxWxC = augment.crops_at(images_LxHxWxC, drawn_LxMx5[..., :2], padding)
    is_mirrored_LxM = drawn_LxMx5[..., 2] > 0
    views_LxMxHxWxC = jnp.where(is_mirrored_LxM[..., None, None, None], views_LxMxHxWxC[:, :, :, ::-1], views_LxMxHxWxC)
    side = jnp.arange(images_LxHxWxC.shape[1])[None, None, :]
    inside_row, inside_column = (
        (side >= centre_LxM[..., None] - cut // 2) & (side < centre_LxM[..., None] + cut - cut // 2)
        for centre_LxM in (drawn_LxMx5[..., 3], drawn_LxMx5[..., 4])
    )
    is_grey = inside_row[..., :, None] & inside_column[..., None, :] & is_cut_LxM[..., None, None]
    grey_C = jnp.asarray(np.round(255 * np.array(MEAN)), jnp.uint8)
    return jnp.where(is_grey[..., None], grey_C[None, None, None, None], views_LxMxHxWxC)


def drawn(data: Images, num_views: int, seed: int, cut: int = 0, padding: int = PADDING) -> np.ndarray:
    """uint8 [N, M, H, W, C], M views of every image, of draws of their own; all have a square cut out, or none."""
    num_images = len(data.labels_N)
    draws_NxMx5 = jnp.asarray(draws(num_views, num_images, seed, padding).transpose(1, 0, 2))
    is_cut_NxM = jnp.full((num_images, num_views), bool(cut))
    return np.asarray(views(jnp.asarray(data.images_NxHxWxC), draws_NxMx5, is_cut_NxM, cut, padding))


def calibration(train: Images) -> Images:
    """Training images in the views, crop and mirror, that thresholds are set on."""
    return train._replace(images_NxHxWxC=drawn(train, 1, seed=3)[:, 0])


def normalise(images: jax.Array) -> jax.Array:
    return augment.normalise(images, MEAN, STD)
