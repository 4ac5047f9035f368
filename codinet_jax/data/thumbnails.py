"""Small copies of a split's images, kept beside its routes so that they can be looked at where the data are not."""

import contextlib
import sys

import numpy as np
from PIL import Image

from codinet_jax.data.split import Split
from codinet_jax.runtime.hosts import Host
from codinet_jax.runtime.waiting import waiting

LARGEST = 64  # pixels a side
MOST_BYTES = 2**25  # 10,922 images of 32 x 32, so all of CIFAR's test images; 2,730 photographs


def thumbnails(split: Split) -> np.ndarray:
    """The first S images as evaluation sees them, photographs shrunk: uint8 [S, h, w, C], h and w at most 64.

    As many as 32 MB hold, all of them if there are fewer.
    """
    parts: list[np.ndarray] = []
    with (
        waiting('keeping small copies of images', split.num_images, file=sys.stderr) as report,
        contextlib.closing(split.evaluation_batches(min(64, split.num_images), Host())) as batches,
    ):
        for images_BxHxWxC, _, positions_B in batches:
            parts += [_shrunk(image) for image in images_BxHxWxC[positions_B >= 0]]
            report(len(parts))
            if len(parts) * parts[0].nbytes > MOST_BYTES:
                break
    return np.stack(parts[: MOST_BYTES // parts[0].nbytes])


def _shrunk(image_HxWxC: np.ndarray) -> np.ndarray:
    if max(image_HxWxC.shape) <= LARGEST:
        return image_HxWxC
    image = Image.fromarray(image_HxWxC.squeeze(-1) if image_HxWxC.shape[-1] == 1 else image_HxWxC)
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(image.height, image.width, -1)
