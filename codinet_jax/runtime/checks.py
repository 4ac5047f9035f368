"""What a setting may be, refused in a sentence that names it."""

import math
from collections.abc import Iterable

from codinet_jax.runtime.errors import InputError, meant


def at_least(name: str, value: float, bound: float) -> None:
    """Raises an InputError unless a value is finite and not below a bound."""
    # Written so that NaN is refused as well.
    if not bound <= value < math.inf:
        raise InputError(f'{name} is {value}; it must be finite and at least {bound}.')


def above_zero(name: str, value: float) -> None:
    """Raises an InputError unless a value is finite and above 0."""
    if not 0 < value < math.inf:
        raise InputError(f'{name} is {value}; it must be above 0.')


def share(name: str, value: float) -> None:
    """Raises an InputError unless a value lies in [0, 1)."""
    if not 0 <= value < 1:
        raise InputError(f'{name} is {value}; give a share in [0, 1).')


def share_above_zero(name: str, value: float) -> None:
    """Raises an InputError unless a value lies in (0, 1]."""
    if not 0 < value <= 1:
        raise InputError(f'{name} is {value}; give a share in (0, 1].')


def one_of(name: str, value: str, known: Iterable[str]) -> None:
    """Raises an InputError, with what may have been meant, unless a value is known."""
    if value not in known:
        raise InputError(f'{name} is {value!r}; it must be one of {", ".join(known)}.{meant(value, known)}')
