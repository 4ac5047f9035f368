"""How figures are wanted: the flags that say so, and what is made of them."""

from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from codinet_jax.runtime.errors import InputError

flags.disclaim_key_flags()  # flags defined here are those of the command that asks for them

FORMATS = ('png', 'pdf', 'svg')
WIDTHS = ('page', 'single', 'double')
ON_THE_PAGE, IN_PRINT = 160, 300  # dots an inch


class Options(NamedTuple):
    """The kinds of files that figures become, what they are to fit, their dots an inch, and whether maps are drawn."""

    formats: tuple[str, ...] = ('png', 'pdf')
    width: str = 'page'
    dpi: int | None = None
    has_map: bool = True

    def dots(self, kind: str) -> int:
        """Dots an inch of a PNG, or of what is dots in a PDF or SVG: the points of maps."""
        return self.dpi or (ON_THE_PAGE if kind == 'png' and self.width == 'page' else IN_PRINT)


class Flags(NamedTuple):
    """The flags that `define` defines."""

    format: flags.FlagHolder[list[str]]
    width: flags.FlagHolder[str]
    dpi: flags.FlagHolder[int | None]
    map: flags.FlagHolder[bool]

    def read(self) -> Options:
        """What was given.

        Raises:
          InputError: a format is none of `FORMATS`.
        """
        return Options(_formats(self.format.value), self.width.value, self.dpi.value, self.map.value)


def define() -> Flags:
    """--format, --width, --dpi and --map, for every command that draws."""
    return Flags(
        flags.DEFINE_list('format', ['png', 'pdf'], f'Kinds of files that figures become: {", ".join(FORMATS)}.'),
        flags.DEFINE_enum(
            'width',
            'page',
            list(WIDTHS),
            "What figures are to fit: the report's page, or one column (3.5 inches) or both (7.16) of a journal's.",
        ),
        flags.DEFINE_integer(
            'dpi',
            None,
            f'Dots an inch, of a PNG and of what is dots in the others; {ON_THE_PAGE} for a PNG of the page and '
            f'{IN_PRINT} for all else if not given.',
            lower_bound=30,
            upper_bound=2400,
        ),
        flags.DEFINE_bool('map', True, 'Whether maps of routes are drawn, which take most of the time.'),
    )


def _formats(kinds: Sequence[str]) -> tuple[str, ...]:
    if not kinds or not set(kinds) <= set(FORMATS):
        raise InputError(f'--format is {",".join(kinds)}: give some of {", ".join(FORMATS)}, split by commas.')
    return tuple(dict.fromkeys(kinds))
