"""What is said of an image that was answered: as a line, a JSON object or a row of a table; and of all of them."""

import contextlib
import csv
import dataclasses
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from codinet_jax.inference.inputs import Item
from codinet_jax.inference.predictor import NetworkSpec, Prediction, Predictor
from codinet_jax.runtime.console import plural
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.files import printable
from codinet_jax.runtime.waiting import SECONDS_QUIET, first_reported

MARKS, ASCII_MARKS = '·█', '.#'  # of a block skipped and one run


class Answer(NamedTuple):
    """What the network says of one image, and its class where that is known."""

    name: str
    label: int
    probabilities_Y: np.ndarray
    decisions_n: np.ndarray
    macs: int
    true_label: int | None


class Refusal(NamedTuple):
    """An image that cannot be read."""

    name: str
    error: InputError


def answered(
    predictor: Predictor, items: Iterable[Item], batch_size: int, quiet: float = SECONDS_QUIET
) -> Iterator[Answer | Refusal]:
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
            yield from _answer(answer, waiting, batch_size)
            waiting, num_images = [], 0
    yield from _answer(answer, waiting, batch_size)


def _answer(answer: Callable[..., Prediction], items: Sequence[Item], batch_size: int) -> Iterator[Answer | Refusal]:
    images = [item.image_HxWxC for item in items if not isinstance(item.image_HxWxC, InputError)]
    rows = zip(*answer(images, batch_size), strict=True) if images else iter(())
    for item in items:
        if isinstance(item.image_HxWxC, InputError):
            yield Refusal(item.name, item.image_HxWxC)
            continue
        label, probabilities_Y, _, decisions_n, macs = next(rows)
        yield Answer(item.name, int(label), probabilities_Y, decisions_n, int(macs), item.true_label)


@dataclasses.dataclass(frozen=True)
class Form:
    """How answers of a network are written: with so many of the likeliest classes, and routes in these marks."""

    spec: NetworkSpec
    top: int = 0
    marks: str = MARKS

    @property
    def legend(self) -> str:
        run, skipped = self.marks[1], self.marks[0]
        if self.spec.is_cascade:
            return f'{run} is a further network that was asked, {skipped} one that was not; the first always answers'
        return f'{run} is a block that runs, {skipped} one that is skipped; stages are set apart'

    def line(self, answer: Answer) -> str:
        spec = self.spec
        line = (
            f'{printable(answer.name)}  {self._class(answer.label)}  {answer.probabilities_Y[answer.label]:.1%}  '
            f'{spec.draw(answer.decisions_n, self.marks)}  '
            f'{answer.macs / 1e6:.2f} of {spec.static_macs / 1e6:.2f} MMACs, {answer.macs / spec.static_macs:.0%}'
        )
        likeliest = ', '.join(f'{self._class(label)} {probability:.1%}' for label, probability in self._top(answer))
        return f'{line}  top {self.top}: {likeliest}' if likeliest else line

    def as_json(self, answer: Answer | Refusal) -> dict[str, Any]:
        if isinstance(answer, Refusal):
            return {'file': answer.name, 'error': str(answer.error)}
        likeliest = [
            {'label': label, 'class': self.spec.classes[label], 'probability': probability}
            for label, probability in self._top(answer)
        ]
        return {
            'file': answer.name,
            'label': answer.label,
            'class': self.spec.classes[answer.label],
            'probability': float(answer.probabilities_Y[answer.label]),
            **({'top': likeliest} if self.top else {}),
            'route': answer.decisions_n.astype(int).tolist(),
            'macs': answer.macs,
            'static_macs': self.spec.static_macs,
            'macs_share': answer.macs / self.spec.static_macs,
        }

    @property
    def header(self) -> list[str]:
        """Of a table; what an image that cannot be read has is its file and an error."""
        top = [f'top{i + 1}_{field}' for i in range(self._num_top) for field in ('label', 'class', 'probability')]
        return ['file', 'label', 'class', 'probability', *top, 'macs_share', 'macs', 'route', 'error']

    def row(self, answer: Answer | Refusal) -> list[Any]:
        if isinstance(answer, Refusal):
            return [answer.name, *[''] * (len(self.header) - 2), str(answer.error)]
        found = self.as_json(answer)
        top = [value for likely in found.get('top', []) for value in likely.values()]
        route = self.spec.draw(answer.decisions_n, '01')
        chosen = [found[name] for name in ('file', 'label', 'class', 'probability')]
        return [*chosen, *top, found['macs_share'], found['macs'], route, '']

    @property
    def _num_top(self) -> int:
        return min(self.top, len(self.spec.classes))

    def _top(self, answer: Answer) -> list[tuple[int, float]]:
        likeliest = np.argsort(-answer.probabilities_Y, kind='stable')[: self._num_top]
        return [(int(label), float(answer.probabilities_Y[label])) for label in likeliest]

    def _class(self, label: int) -> str:
        """Number and name, where the name is not just the number."""
        name = printable(self.spec.classes[label])
        return name if name == str(label) else f'{label} {name}'


def marks_for(encoding: str | None) -> str:
    """The marks of routes that a stream of this encoding can show."""
    try:
        MARKS.encode(encoding or 'ascii')
    except (UnicodeEncodeError, LookupError):
        return ASCII_MARKS
    return MARKS


@dataclasses.dataclass
class Tally:
    """What came of all images so far."""

    num_items: int
    num_answered: int = 0
    num_failed: int = 0
    num_right: int = 0
    macs: int = 0
    started: float = dataclasses.field(default_factory=time.monotonic)

    def add(self, answer: Answer | Refusal) -> None:
        if isinstance(answer, Refusal):
            self.num_failed += 1
            return
        self.num_answered += 1
        self.num_right += answer.label == answer.true_label
        self.macs += answer.macs

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def progress(self) -> str:
        done = self.num_answered + self.num_failed
        return f'{done:,} of {plural(self.num_items, "image")}, {done / self.seconds:,.1f} images/s'

    def accuracy(self, split: str) -> str:
        return f'{split}: top-1 {self.num_right / max(self.num_answered, 1):.2%}'

    def closing(self, spec: NetworkSpec) -> str:
        cost = f'mean cost {self.macs / self.num_answered / spec.static_macs:.2%} of static, ' if self.macs else ''
        images = plural(self.num_answered + self.num_failed, 'image')
        return (
            f'{images}, {self.num_failed} failed, {cost}{self.seconds:.1f} s, '
            f'{self.num_answered / self.seconds:,.1f} images/s'
        )


def counted(
    answered: Iterable[Answer | Refusal], tally: Tally, interval: float, report: Callable[[str], None]
) -> Iterator[Answer | Refusal]:
    """The answers, put on a tally; whenever so many seconds have passed `report` gets a line on how it goes."""
    last = 0.0
    for answer in answered:
        tally.add(answer)
        yield answer
        if tally.seconds - last > interval:
            report(tally.progress())
            last = tally.seconds


@contextlib.contextmanager
def table(path: pathlib.Path | None, form: Form) -> Iterator[Callable[[Answer | Refusal], None]]:
    """Writes answers into a CSV file that is there, whole, when all is done, and not at all if it is not; None is none.

    Raises:
      InputError: it cannot be written.
    """
    if path is None:
        yield lambda answer: None
        return
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        with contextlib.ExitStack() as stack:
            with _written(path):
                file = stack.enter_context(open(temporary, 'w', encoding='utf-8', errors='surrogateescape', newline=''))
                writer = csv.writer(file)
                writer.writerow(form.header)

            def write(answer: Answer | Refusal) -> None:
                with _written(path):
                    writer.writerow(form.row(answer))

            yield write
            with _written(path):
                file.flush()
                os.fsync(file.fileno())
        with _written(path):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _written(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f'{path} cannot be written ({error.strerror}): make room, or give another --csv.') from error
