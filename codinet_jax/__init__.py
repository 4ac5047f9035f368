"""CoDiNet in JAX: residual networks that choose, image by image, which blocks to run.

One legend for the shapes in array names, used everywhere:

    L  images in a batch                n  gated blocks of the network
    M  views (augmentations) of each    H, W, C  height, width, channels
    B  rows the network sees, L * M     Y  classes
    N  images in a data set             A  augmentations that evaluation tries

`paths_LxMxn` is therefore an array [images, views, blocks]; `costs_n` one number a block. A path is the vector of
relaxed decisions v of one row (Eq. 6), a decision u the 0 or 1 of one block (Eq. 5), a route the vector of decisions.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codinet_jax.inference.predictor import Predictor


def load_exported(directory: str | os.PathLike[str]) -> 'Predictor':
    """The network that `codinet_jax.export` wrote, as a callable; see `codinet_jax.inference.artefact.load`."""
    from codinet_jax.inference import artefact

    return artefact.load(directory)
