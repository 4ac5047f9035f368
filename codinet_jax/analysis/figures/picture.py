"""A figure with the words and the numbers that belong to it, and the files it becomes."""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from codinet_jax.analysis import style


class Data(NamedTuple):
    """What a figure draws, as a table: names of columns, and rows of numbers and texts."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


class Picture(NamedTuple):
    """A figure; `caption` says how to read it, `alt` what it shows to those who cannot see it."""

    figure: Figure
    title: str
    caption: str
    alt: str
    is_wide: bool
    data: Data


def rendered(picture: Picture, kind: str, dpi: int) -> bytes:
    """The picture as 'png', 'pdf' or 'svg', the same bytes every time; in the latter only dense dots have a `dpi`."""
    file = io.BytesIO()
    undated: dict[str, dict[str, None]] = {'png': {}, 'pdf': {'CreationDate': None}, 'svg': {'Date': None}}
    with style.drawing():
        picture.figure.savefig(file, format=kind, dpi=dpi, metadata=undated[kind])
    return file.getvalue()
