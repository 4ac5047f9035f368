"""What Pillow warns of while an image is decoded, kept to the thread that decodes.

Python's warning filters belong to all threads, so they are no way to silence one. Pillow's modules are given a
`warnings` of their own instead, which is Python's wherever no image is being decoded by `kept`.
"""

import contextlib
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from PIL import Image


class _Thread(threading.local):
    is_decoding = False


class _PillowsWarnings:
    """The module `warnings`, but for a thread that is decoding: there a bomb is an error, and all else is silent."""

    def warn(self, message: Any, category: Any = None, stacklevel: int = 1, **options: Any) -> None:
        if not _thread.is_decoding:
            warnings.warn(message, category, stacklevel + 1, **options)
        elif category is Image.DecompressionBombWarning:
            raise category(message)

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)


_thread, _pillows = _Thread(), _PillowsWarnings()


def take_over() -> None:
    """Gives every module of Pillow that is loaded by now its own `warnings`."""
    for name, module in list(sys.modules.items()):
        if name.startswith('PIL.') and vars(module).get('warnings') is warnings:
            vars(module)['warnings'] = _pillows


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Pillow warns of nothing in this thread; where it would warn of a decompression bomb it raises the warning."""
    before, _thread.is_decoding = _thread.is_decoding, True
    try:
        yield
    finally:
        _thread.is_decoding = before
