"""What is the user's to fix."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one sentence that says what to do about it."""


class Diverged(InputError):
    """A loss or a gradient is no finite number any more; on several hosts it is so on all of them."""


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a sentence on a name that is not known: ' Did you mean cifar10?', or nothing if none is like it."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f' Did you mean {close[0]}?' if close else ''
