"""A trained network as a callable: pixels in; class, probability, route and its price out.

What it needs to know of the network is a `NetworkSpec`, what it runs a `Forward`. Where they come from, a network or an
exported program, is no matter here, so that an exported one is used without the code of the model.
"""

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from codinet_jax.inference.operating_points import OperatingPoints
from codinet_jax.runtime.errors import InputError

Forward = Callable[[np.ndarray, float], tuple[Any, Any]]
Program = Callable[..., tuple[Any, Any]]  # of weights, images, a threshold and perhaps noise; pure
Write = Callable[[str | os.PathLike[str], float], None]  # exports into a directory, with a threshold


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """What is to be known of a network to use it. MACs are an image's; sizes are in pixels a side.

    `center_crop` is the share of a photograph's shorter side that the network was evaluated on. `blocks_per_stage` sum
    to n, and `blocks_macs` has n numbers: an image costs `fixed_macs` and those of the blocks it runs, and without
    routers, all blocks run, `static_macs`.
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
        """[H, W, C] of one image."""
        return (self.image_size, self.image_size, self.num_channels)

    @property
    def is_cascade(self) -> bool:
        """Whether its blocks are whole networks, of `inference.cascade`: the last is the static network itself."""
        return self.blocks_macs[-1:] == (self.static_macs,)

    def draw(self, decisions_n: Sequence[int] | np.ndarray, marks: str = '·█') -> str:
        """A route as a row of blocks, stages set apart; `marks` are what stands for one skipped and one run."""
        blocks = iter(decisions_n)
        return ' '.join(
            ''.join(marks[bool(run)] for run in itertools.islice(blocks, size)) for size in self.blocks_per_stage
        )


class Prediction(NamedTuple):
    """The answers to B images of a network of Y classes and n gated blocks.

    Attributes:
      labels_B: the likeliest class, int64.
      probabilities_BxY: of every class, float64.
      run_probability_Bxn: v of Eq. 6, without noise, float32.
      decisions_Bxn: u of Eq. 13, bool; true where the block was run.
      macs_B: what each image cost, int64, in multiply-accumulates.
    """

    labels_B: np.ndarray
    probabilities_BxY: np.ndarray
    run_probability_Bxn: np.ndarray
    decisions_Bxn: np.ndarray
    macs_B: np.ndarray


class Predictor:
    """Answers batches of images, running only the blocks that each image's routers want; in any number of threads.

    Args:
      spec: what is to be known of the network.
      forward: logits [B, Y] and v [B, n] of uint8 images [B, H, W, C] under a threshold.
      threshold: a block runs where v reaches it, unless a call says otherwise.
      write: exports the network into a directory, with a threshold; None where that cannot be done again.
      operating_points: what calibration found of it.
      decides: whether it has routers; else every block runs, whatever the threshold.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        forward: Forward,
        threshold: float = 0.5,
        write: Write | None = None,
        operating_points: OperatingPoints | None = None,
        decides: bool = True,
    ):
        self.spec, self.forward, self.threshold, self._write = spec, forward, threshold, write
        self.decides = decides
        self.operating_points = dataclasses.replace(operating_points or OperatingPoints(), decides=decides)

    def __call__(
        self,
        images_BxHxWxC: np.ndarray,
        threshold: float | None = None,
        *,
        cost: float | None = None,
        operating_point: str | float | None = None,
    ) -> Prediction:
        """Answers one batch; every new batch size compiles once, and no threshold does.

        At most one of the last three may be given; without any, the predictor's own threshold stands.

        Args:
          images_BxHxWxC: uint8, or floats in [0, 1], of the spec's image shape.
          threshold: a block runs where v reaches it.
          cost: what the mean image may cost, as a share of the static network's MACs: the threshold is read off the
            curve that `codinet_jax.calibrate` measured.
          operating_point: a name that `codinet_jax.calibrate` gave to a threshold, or the target cost it is named for.

        Raises:
          InputError: there is no image, or they are not such images; or no such operating point or cost.
        """
        spec, threshold = self.spec, self._held_to(threshold, cost, operating_point)
        logits_BxY, v_Bxn = self.forward(pixels(images_BxHxWxC, spec.image_shape), threshold)
        logits_BxY, v_Bxn = np.asarray(logits_BxY, np.float64), np.asarray(v_Bxn)
        exp_BxY = np.exp(logits_BxY - logits_BxY.max(axis=1, keepdims=True))
        decisions_Bxn = v_Bxn >= np.float32(threshold) if self.decides else np.ones(v_Bxn.shape, bool)
        return Prediction(
            labels_B=logits_BxY.argmax(axis=1),
            probabilities_BxY=exp_BxY / exp_BxY.sum(axis=1, keepdims=True),
            run_probability_Bxn=v_Bxn,
            decisions_Bxn=decisions_Bxn,
            macs_B=spec.fixed_macs + decisions_Bxn @ np.asarray(spec.blocks_macs, np.int64),
        )

    def in_batches(
        self,
        images: Sequence[np.ndarray] | np.ndarray,
        batch_size: int,
        threshold: float | None = None,
        *,
        cost: float | None = None,
        operating_point: str | float | None = None,
    ) -> Prediction:
        """Answers any number of images in batches of one size, the last filled up with copies that are not counted.

        Args:
          images: uint8, or floats in [0, 1], N of the spec's image shape.
          batch_size: images at a time.
          threshold: as in a call, and so are the others.

        Returns:
          The answers to all N.

        Raises:
          InputError: as a call does.
        """
        threshold = self._held_to(threshold, cost, operating_point)
        images_NxHxWxC = pixels(images, self.spec.image_shape)
        num_images = len(images_NxHxWxC)
        parts = [
            self(images_NxHxWxC[np.minimum(np.arange(start, start + batch_size), num_images - 1)], threshold)
            for start in range(0, num_images, batch_size)
        ]
        return Prediction(*(np.concatenate(arrays)[:num_images] for arrays in zip(*parts, strict=True)))

    def _held_to(self, threshold: float | None, cost: float | None, operating_point: str | float | None) -> float:
        if threshold is None:
            return self.operating_points.threshold(operating_point, cost, otherwise=self.threshold)
        if cost is not None or operating_point is not None:
            raise InputError('A threshold leaves no choice to a cost or an operating point: give one of the three.')
        if math.isnan(threshold):
            raise InputError('The threshold is no number, and no v would reach it: give one, as 0.5.')
        return threshold

    def warm_up(self, batch_sizes: Sequence[int]) -> dict[int, float]:
        """Compiles batch sizes ahead, so that no caller waits for it; the thresholds of a size share its program.

        Args:
          batch_sizes: each at least 1; batches of zeros are answered.

        Returns:
          The seconds that each size took; where it was compiled already, those of an answer.
        """
        seconds = {}
        for batch_size in batch_sizes:
            started = time.perf_counter()
            self(np.zeros((batch_size, *self.spec.image_shape), np.uint8))
            seconds[batch_size] = time.perf_counter() - started
        return seconds

    def export(self, directory: str | os.PathLike[str]) -> None:
        """Writes it, at its threshold, as files that run without the code of the model; see `inference.exported`.

        Raises:
          InputError: the directory holds something or cannot be written, or only an exported program is known here.
        """
        if self._write is None:
            raise InputError('This predictor was not made from a network: to export it again, copy its directory.')
        self._write(directory, self.threshold)


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
