"""What a network says of one image, of each image that is asked about, and how that is put into JSON."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from codinet_jax.inference.inputs import Item
from codinet_jax.inference.predictor import NetworkSpec, Prediction, Predictor
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.waiting import SECONDS_QUIET, first_reported


class Answer(NamedTuple):
    """One row of a `Prediction`."""

    label: int
    probabilities_Y: np.ndarray
    run_probability_n: np.ndarray
    decisions_n: np.ndarray
    macs: int

    def likeliest(self, count: int) -> list[int]:
        """So many of the likeliest classes, the first of equals first."""
        return np.argsort(-self.probabilities_Y, kind='stable')[:count].tolist()

    def as_json(self, spec: NetworkSpec, top: int | None = None) -> dict[str, Any]:
        """As whoever asked gets it; with `top` so many of the likeliest classes too."""
        found: dict[str, Any] = self._of(self.label, spec)
        if top:
            found['top'] = [self._of(label, spec) for label in self.likeliest(top)]
        return found | {
            'route': self.decisions_n.astype(int).tolist(),
            'macs': self.macs,
            'static_macs': spec.static_macs,
            'macs_share': self.macs / spec.static_macs,
        }

    def _of(self, label: int, spec: NetworkSpec) -> dict[str, Any]:
        return {'label': label, 'class': spec.classes[label], 'probability': float(self.probabilities_Y[label])}


class Named(NamedTuple):
    """An answer under its image's name, and the image's class where that is known."""

    name: str
    answer: Answer
    true_label: int | None


class Refusal(NamedTuple):
    """An image that cannot be read."""

    name: str
    error: InputError


def rows(prediction: Prediction) -> Iterator[Answer]:
    """The answers to a batch's images, one by one."""
    for label, probabilities_Y, v_n, decisions_n, macs in zip(*prediction, strict=True):
        yield Answer(int(label), probabilities_Y, v_n, decisions_n, int(macs))


def answered(
    predictor: Predictor, items: Iterable[Item], batch_size: int, quiet: float = SECONDS_QUIET
) -> Iterator[Named | Refusal]:
    """Every item's answer, in order; images are answered in batches of one size, for each size is compiled once.

    If the first batch takes more than `quiet` seconds, a line on stderr says that it is compiled.
    """
    answer = first_reported(predictor.in_batches, 'compiling the network', quiet=quiet, file=sys.stderr)
    waiting: list[Item] = []
    num_images = 0
    for item in items:
        waiting.append(item)
        num_images += not isinstance(item.image_HxWxC, InputError)
        if num_images == batch_size:
            yield from _answered(answer, waiting, batch_size)
            waiting, num_images = [], 0
    yield from _answered(answer, waiting, batch_size)


def _answered(answer: Callable[..., Prediction], items: Sequence[Item], batch_size: int) -> Iterator[Named | Refusal]:
    images = [item.image_HxWxC for item in items if not isinstance(item.image_HxWxC, InputError)]
    found = rows(answer(images, batch_size)) if images else iter(())
    for item in items:
        if isinstance(item.image_HxWxC, InputError):
            yield Refusal(item.name, item.image_HxWxC)
        else:
            yield Named(item.name, next(found), item.true_label)
