"""Files that are written whole or not at all."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, BinaryIO

from codinet_jax.runtime.errors import InputError


def expanded(path: str | os.PathLike[str]) -> pathlib.Path:
    """A path with ~ and ~NAME written out.

    Raises:
      InputError: there is no such user.
    """
    try:
        found = pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f'{path} names the home of a user who is not here: write the path out.') from error
    return found


def printable(path: str | os.PathLike[str]) -> str:
    """A path as it may be printed anywhere: bytes that are no UTF-8 are written out, and so is what is no letter."""
    text = os.fsencode(path).decode(errors='backslashreplace')
    return ''.join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def write(path: pathlib.Path, write: Callable[[BinaryIO], Any]) -> None:
    """Through a temporary file and a rename, so that a reader sees the old file or the new one.

    Raises:
      InputError: it cannot be written; what was there is there.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise InputError(
            f'{path} cannot be written ({error.strerror}): make room, or see to it that it may be, and try again.'
        ) from error


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + '\n').encode()


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """An object that a JSON file holds.

    Raises:
      InputError: it cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f'{path} cannot be read ({error}): restore it, or use another workdir.') from error
    if not isinstance(value, dict):
        raise InputError(f'{path} holds no fields with values: restore it, or use another workdir.')
    return value
