"""What is the user's to fix."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot be used; the message is one sentence that says what to do about it."""


class NoSuchSplit(InputError):
    """A data set that is whole has no images of this split."""


class Diverged(InputError):
    """A loss or a gradient is no finite number any more; on several hosts it is so on all of them."""


def first_line(error: BaseException | str) -> str:
    """What an error says in its first line, without a full stop, or its kind if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip('.')


def first_sentence(error: BaseException) -> str:
    """What an error says in the first sentence of its first line."""
    return first_line(error).partition('. ')[0]


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a sentence on a name that is not known: ' Did you mean cifar10?', or nothing if none is like it."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f' Did you mean {close[0]}?' if close else ''
