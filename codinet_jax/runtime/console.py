"""Lines for the person who started a program."""

import shutil
from typing import TextIO

import jax


def log(text: str, file: TextIO | None = None) -> None:
    """A line on the console, once however many hosts there are; `file` is stdout unless another is given."""
    if jax.process_index() == 0:
        print(text, file=file, flush=True)


def terminal_width() -> int:
    """Letters that fit a line: what COLUMNS says, or the terminal; 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def plural(number: int, one: str, many: str | None = None) -> str:
    """'1 image', '1,442 images'; `many` where an s does not do."""
    return f'{number:,} {one if number == 1 else many or one + "s"}'


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 45s, 3m07s, 2h05m."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours}h{minutes:02d}m'
    return f'{minutes}m{seconds:02d}s' if minutes else f'{seconds}s'
