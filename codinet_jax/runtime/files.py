"""Files that are written whole or not at all, and what a machine refuses though they are whole."""

import contextlib
import errno
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

from codinet_jax.runtime.errors import InputError

_END_BYTES = 2**17  # where an array_record file has its index
# What a machine refuses, though the data may be whole, and what to do. Libraries tell of it by number or in words.
REFUSALS = {
    errno.EMFILE: 'raise the limit of open files, as with `ulimit -n 4096`, or read fewer files at once',
    errno.ENFILE: 'close other programs, or raise the limit of open files of the machine',
    errno.EACCES: 'see to it that you may read it',
    errno.EPERM: 'see to it that you may read it',
    errno.ENOSPC: 'make room',
    errno.ENOMEM: 'free memory, or use a machine that has more',
    errno.ENAMETOOLONG: 'give a shorter path',
    errno.ELOOP: 'see where its links lead',
    errno.EIO: 'see whether the disk or network drive is well, and try again',
    errno.ESTALE: 'see whether the network drive is there, and try again',
    errno.ENOTCONN: 'see whether the network drive is there, and try again',
    errno.EHOSTDOWN: 'see whether the network drive is there, and try again',
    errno.ETIMEDOUT: 'see whether the network drive is there, and try again',
}


def refused(what: str | os.PathLike[str], reason: BaseException | str) -> InputError | None:
    """What to raise where the machine, not what was to be read, is at fault; None where it is not."""
    causes: list[Any] = [reason]
    while isinstance(causes[-1], BaseException) and (causes[-1].__cause__ or causes[-1].__context__):
        causes.append(causes[-1].__cause__ or causes[-1].__context__)
    for cause in causes:
        for number, advice in REFUSALS.items():
            text = os.strerror(number)
            is_it = getattr(cause, 'errno', None) == number or (number == errno.ENOMEM and _is_memory(cause))
            if is_it or text.lower() in str(cause).lower():
                return InputError(f'{printable(what)} cannot be read ({text}): {advice}.')
    return None


@contextlib.contextmanager
def reading(what: str | os.PathLike[str]) -> Iterator[None]:
    """Says in a sentence what the machine refuses while something is looked for or read.

    Raises:
      InputError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        unknown = InputError(f'{printable(what)} cannot be read ({reason}): see that it is there and may be read.')
        raise refused(what, error) or unknown from error


def unreadable(path: Any) -> InputError | None:
    """Why a file that is there, or a link to one, cannot be read at its end; None if it can, or there is none."""
    try:
        with reading(path), path.open('rb') as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _END_BYTES))
            file.read()
    except InputError as refusal:
        is_missing = isinstance(refusal.__cause__, FileNotFoundError) and not os.path.islink(path)
        return None if is_missing else refusal
    return None


def _is_memory(error: Any) -> bool:
    return isinstance(error, MemoryError) or str(error).startswith('RESOURCE_EXHAUSTED')


def expanded(path: str | os.PathLike[str]) -> pathlib.Path:
    """A path with ~ and ~NAME written out.

    Raises:
      InputError: it is empty, as of a variable that is not set, or of a bucket or the web, or there is no such user.
    """
    if not os.fspath(path):
        raise InputError('A path is empty: write it out, or set the variable that it is taken from.')
    if '://' in os.fspath(path):
        raise InputError(f'{path} is not on this machine: mount the bucket, or fetch what is there, and give its path.')
    try:
        found = pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f'{path} names the home of a user who is not here: write the path out.') from error
    return found


def absolute(path: str | None) -> str | None:
    """A path as it is known from any directory; what begins with ~ or is a bucket's is so already."""
    return path if not path or path.startswith('~') or '://' in path else str(pathlib.Path(path).absolute())


def printable(path: str | os.PathLike[str]) -> str:
    """A path as it may be printed anywhere: bytes that are no UTF-8 are written out, and so is what is no letter."""
    found = os.fspath(path)
    text = found.decode(errors='surrogateescape') if isinstance(found, bytes) else found
    return ''.join(letter if letter.isprintable() else _written_out(letter) for letter in text)


def _written_out(letter: str) -> str:
    is_byte = '\udc80' <= letter <= '\udcff'  # as Python has one that is no UTF-8
    return f'\\x{ord(letter) - 0xDC00:02x}' if is_byte else ascii(letter)[1:-1]


def write(path: pathlib.Path, write: Callable[[BinaryIO], Any]) -> None:
    """Through a temporary file and a rename, so that a reader sees the old file or the new one.

    A link goes on leading to the file.

    Raises:
      InputError: it cannot be written, or is no file; what was there is there.
    """
    path = target(path)
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


def target(path: pathlib.Path) -> pathlib.Path:
    """The file that a path or a link leads to, which need not be there.

    Raises:
      InputError: it leads to no file but a device, say, which a rename would put an end to.
    """
    found = pathlib.Path(os.path.realpath(path))
    if os.path.exists(found) and not os.path.isfile(found):
        raise InputError(f'{path} cannot be written, for it is no file: name one, or what is not there yet.')
    return found


def check_writable(directory: pathlib.Path) -> None:
    """Refuses a directory before work is spent on what it will not take.

    Raises:
      InputError: no file can be made in it.
    """
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise InputError(
            f'No file can be made in {directory} ({error.strerror}): name a directory where you may write.'
        ) from error


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + '\n').encode()


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """An object that a JSON file holds.

    Raises:
      InputError: it cannot be read, or holds something else.
    """
    try:
        with reading(path):
            text = path.read_text()
        value = json.loads(text)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f'{path} cannot be read ({error}): restore it, or use another workdir.') from error
    if not isinstance(value, dict):
        raise InputError(f'{path} holds no fields with values: restore it, or use another workdir.')
    return value


class OutputDirectory:
    """Where files go that are made of a run or of several; made, if it is not there, before work is spent on them.

    Raises:
      InputError: it cannot be made, or a file cannot be written.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f'{path} cannot be made ({error.strerror}): name another.') from error
        check_writable(path)

    def write(self, contents: Mapping[str, bytes]) -> None:
        """Writes files by name, each whole or not at all."""
        for name, content in contents.items():
            write(self.path / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
