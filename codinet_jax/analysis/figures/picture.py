"""A figure with the words that belong to it, and the files it becomes."""

import io
from typing import NamedTuple

from matplotlib.figure import Figure

from codinet_jax.analysis import style

DPI = {'png': 160, 'pdf': 300}  # of a PDF, only the points of scatter plots


class Picture(NamedTuple):
    """A figure; `caption` says how to read it, `alt` what it shows to those who cannot see it."""

    figure: Figure
    title: str
    caption: str
    alt: str
    is_wide: bool


def rendered(picture: Picture, kind: str) -> bytes:
    """The picture as 'png' or 'pdf', the same bytes every time."""
    file = io.BytesIO()
    metadata = {'CreationDate': None} if kind == 'pdf' else {}
    with style.drawing():
        picture.figure.savefig(file, format=kind, dpi=DPI[kind], metadata=metadata)
    return file.getvalue()
