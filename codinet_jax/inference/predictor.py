"""A trained network as a callable: pixels in; class, probability, route and its price out.

What it needs to know of the network is a `Card`, what it runs a `Forward`. Where they come from, a workdir or an
exported program, is no matter here, so that an exported one is used without the code of the model.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from codinet_jax.errors import InputError

Forward = Callable[[np.ndarray, float], tuple[Any, Any]]
Program = Callable[..., tuple[Any, Any]]  # of weights, images, a threshold and perhaps noise; pure


@dataclasses.dataclass(frozen=True)
class Card:
    """What is to be known of a network to use it. MACs are an image's; sizes are in pixels a side.

    `center_crop` is the share of a photograph's shorter side that the network was evaluated on. `blocks_per_stage` sum
    to n, and `blocks_macs` has n numbers: an image costs `fixed_macs` and those of the blocks it runs.
    """

    classes: tuple[str, ...]
    image_size: int
    num_channels: int
    center_crop: float
    blocks_per_stage: tuple[int, ...]
    blocks_macs: tuple[int, ...]
    fixed_macs: int
    static_macs: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, self.num_channels)

    def draw(self, decisions_n: Sequence[int]) -> str:
        """A route as a row of blocks, full where they run, stages set apart."""
        blocks = iter(decisions_n)
        return ' '.join(
            ''.join('█' if run else '·' for run in itertools.islice(blocks, size)) for size in self.blocks_per_stage
        )


class Prediction(NamedTuple):
    """The answers to B images: class, the probability of every class, gates, decisions (true: run), MACs spent."""

    labels_B: np.ndarray
    probabilities_BxY: np.ndarray
    run_probability_Bxn: np.ndarray
    decisions_Bxn: np.ndarray
    macs_B: np.ndarray


class Predictor:
    """Answers batches of images, running only the blocks that each image's routers want."""

    def __init__(self, card: Card, forward: Forward, threshold: float = 0.5):
        self.card, self.forward, self.threshold = card, forward, threshold

    @classmethod
    def from_workdir(
        cls, path: str | os.PathLike[str], *, budget: str | None = None, strategy: str | None = None
    ) -> 'Predictor':
        """The network of a finished run, batch norm folded, on all devices.

        Args:
          path: a workdir of `codinet_jax.main`.
          budget: a name that `codinet_jax.calibrate` gave to a threshold; 0.5 if not given.
          strategy: 'masked', 'conditional', 'compacted' or 'fused'; if not given, 'fused' for the networks in bfloat16
            that it computes on a CUDA device; else 'conditional' for one image and 'compacted' for more.

        Raises:
          InputError: there is no finished run, or no such budget or strategy.
        """
        from codinet_jax.inference import program  # here, for an exported network is used without it
        from codinet_jax.workdir import Workdir

        workdir = Workdir(path)
        config, weights = workdir.read_config(), workdir.read_weights()
        return cls(program.card(config), program.on_devices(config, weights, strategy), workdir.read_budget(budget))

    def __call__(self, images_BxHxWxC: np.ndarray, threshold: float | None = None) -> Prediction:
        """Answers one batch; every new batch size compiles once.

        Args:
          images_BxHxWxC: uint8, or floats in [0, 1], of the card's image shape.
          threshold: a block runs where v reaches it; the predictor's own if not given.

        Raises:
          InputError: there is no image, or they are not such images.
        """
        card, threshold = self.card, self.threshold if threshold is None else threshold
        logits_BxY, v_Bxn = self.forward(pixels(images_BxHxWxC, card.image_shape), threshold)
        logits_BxY, v_Bxn = np.asarray(logits_BxY, np.float64), np.asarray(v_Bxn)
        exp_BxY = np.exp(logits_BxY - logits_BxY.max(axis=1, keepdims=True))
        decisions_Bxn = v_Bxn >= np.float32(threshold)
        return Prediction(
            labels_B=logits_BxY.argmax(axis=1),
            probabilities_BxY=exp_BxY / exp_BxY.sum(axis=1, keepdims=True),
            run_probability_Bxn=v_Bxn,
            decisions_Bxn=decisions_Bxn,
            macs_B=card.fixed_macs + decisions_Bxn @ np.asarray(card.blocks_macs, np.int64),
        )

    def in_batches(
        self, images: Sequence[np.ndarray] | np.ndarray, batch_size: int, threshold: float | None = None
    ) -> Prediction:
        """Answers any number of images in batches of one size, the last filled up with copies that are not counted."""
        images_NxHxWxC = pixels(images, self.card.image_shape)
        num_images = len(images_NxHxWxC)
        parts = [
            self(images_NxHxWxC[np.minimum(np.arange(start, start + batch_size), num_images - 1)], threshold)
            for start in range(0, num_images, batch_size)
        ]
        return Prediction(*(np.concatenate(arrays)[:num_images] for arrays in zip(*parts, strict=True)))


def pixels(images: Sequence[np.ndarray] | np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """The images as uint8 [B, H, W, C].

    Raises:
      InputError: they are none, of another shape, or neither uint8 nor finite floats in [0, 1].
    """
    if not len(images):
        raise InputError('A batch of no images has no answer: pass at least one.')
    wrong = sorted({np.shape(image) for image in images} - {tuple(image_shape)})
    if wrong:
        has, wants = ('x'.join(map(str, shape)) for shape in (wrong[0], image_shape))
        raise InputError(f'An image of shape [{has}] cannot be read: the network takes [{wants}], and a batch of them.')
    images_BxHxWxC = np.asarray(images)
    if images_BxHxWxC.dtype == np.uint8:
        return images_BxHxWxC
    if not np.issubdtype(images_BxHxWxC.dtype, np.floating):
        raise InputError(f'Images of type {images_BxHxWxC.dtype} cannot be read: pass uint8, or floats in [0, 1].')
    if not (images_BxHxWxC.min() >= 0 and images_BxHxWxC.max() <= 1):  # NaN is neither
        raise InputError('Images in floats must lie in [0, 1], with no NaN: some pixels do not.')
    return np.rint(images_BxHxWxC * 255).astype(np.uint8)
