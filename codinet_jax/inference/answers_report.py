"""What is said of an image that was answered: as a line, a JSON object or a row of a table; and of all of them."""

import contextlib
import csv
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from codinet_jax.inference.answers import Named, Refusal
from codinet_jax.inference.predictor import NetworkSpec
from codinet_jax.runtime.console import plural
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.files import printable

MARKS, ASCII_MARKS = '·█', '.#'  # of a block skipped and one run


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
            return f'{run} is a further answer that was asked for, {skipped} one that was not; the first always is'
        return f'{run} is a block that runs, {skipped} one that is skipped; stages are set apart'

    def line(self, found: Named) -> str:
        spec, answer = self.spec, found.answer
        line = (
            f'{printable(found.name)}  {self._class(answer.label)}  {answer.probabilities_Y[answer.label]:.1%}  '
            f'{spec.draw(answer.decisions_n, self.marks)}  '
            f'{answer.macs / 1e6:.2f} of {spec.static_macs / 1e6:.2f} MMACs, {answer.macs / spec.static_macs:.0%}'
        )
        likeliest = ', '.join(
            f'{self._class(label)} {answer.probabilities_Y[label]:.1%}' for label in answer.likeliest(self.top)
        )
        return f'{line}  top {self.top}: {likeliest}' if likeliest else line

    def as_json(self, found: Named | Refusal) -> dict[str, Any]:
        if isinstance(found, Refusal):
            return {'file': found.name, 'error': str(found.error)}
        return {'file': found.name, **found.answer.as_json(self.spec, self.top)}

    @property
    def header(self) -> list[str]:
        """Of a table; what an image that cannot be read has is its file and an error."""
        num_top = min(self.top, len(self.spec.classes))
        top = [f'top{i + 1}_{field}' for i in range(num_top) for field in ('label', 'class', 'probability')]
        return ['file', 'label', 'class', 'probability', *top, 'macs_share', 'macs', 'route', 'error']

    def row(self, found: Named | Refusal) -> list[Any]:
        if isinstance(found, Refusal):
            return [found.name, *[''] * (len(self.header) - 2), str(found.error)]
        told = self.as_json(found)
        top = [value for likely in told.get('top', []) for value in likely.values()]
        route = self.spec.draw(found.answer.decisions_n, '01')
        chosen = [told[name] for name in ('file', 'label', 'class', 'probability')]
        return [*chosen, *top, told['macs_share'], told['macs'], route, '']

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

    def add(self, found: Named | Refusal) -> None:
        if isinstance(found, Refusal):
            self.num_failed += 1
            return
        self.num_answered += 1
        self.num_right += found.answer.label == found.true_label
        self.macs += found.answer.macs

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
    answered: Iterable[Named | Refusal], tally: Tally, interval: float, report: Callable[[str], None]
) -> Iterator[Named | Refusal]:
    """The answers, put on a tally; whenever so many seconds have passed `report` gets a line on how it goes."""
    last = 0.0
    for found in answered:
        tally.add(found)
        yield found
        if tally.seconds - last > interval:
            report(tally.progress())
            last = tally.seconds


@contextlib.contextmanager
def table(path: pathlib.Path | None, form: Form) -> Iterator[Callable[[Named | Refusal], None]]:
    """Writes answers into a CSV file that is there, whole, when all is done, and not at all if it is not; None is none.

    Raises:
      InputError: it cannot be written.
    """
    if path is None:
        yield lambda found: None
        return
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        with contextlib.ExitStack() as stack:
            with _written(path):
                file = stack.enter_context(open(temporary, 'w', encoding='utf-8', errors='surrogateescape', newline=''))
                writer = csv.writer(file)
                writer.writerow(form.header)

            def write(found: Named | Refusal) -> None:
                with _written(path):
                    writer.writerow(form.row(found))

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
