"""Weights on disk: variables by path in one .npz, the input that they were trained on, and what no shape tells."""

import contextlib
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from codinet_jax.models import state_dict
from codinet_jax.runtime import files
from codinet_jax.runtime.errors import InputError

_INPUT = 'input/'  # before the names of a file's `WeightsInput`, beside params/ and batch_stats/
_STRIDE_ON, _CLASSES = f'{_INPUT}stride_on', f'{_INPUT}classes'  # there, so that older versions pass over them


class WeightsInput(NamedTuple):
    """The input that a file's weights were trained on: per channel, of pixels in [0, 1], and of imported ones the file
    they came from, by its name or that of what a library publishes, and its SHA-256 in hexadecimal."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str = ''
    sha256: str = ''


def write(
    path: pathlib.Path,
    variables: Mapping[str, Any],
    trained_on: WeightsInput | None = None,
    stride_on: str | None = None,
    classes: Sequence[str] | None = None,
) -> None:
    """Writes variables by path, so that `read` and `numpy.load` can read them, and what they expect.

    `stride_on` is the architecture's, `classes` are the names of those that the head tells apart.
    """
    flat: dict[str, Any] = {
        key: np.asarray(value) for key, value in traverse_util.flatten_dict(variables, sep='/').items()
    }
    if trained_on is not None:
        flat |= {f'{_INPUT}{name}': np.asarray(value) for name, value in trained_on._asdict().items()}
    if stride_on is not None:
        flat[_STRIDE_ON] = np.asarray(stride_on)
    if classes is not None:
        flat[_CLASSES] = np.asarray(classes)
    files.write(path, lambda file: np.savez(file, **flat))


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Variables as the network's `apply` takes them, from a run's weights.npz or what `import_weights` wrote.

    Raises:
      InputError: the file cannot be read, or is none of these, or holds what no network can compute with.
    """
    with _opened_weights(path) as arrays:
        return traverse_util.unflatten_dict(
            {key: _checked(key, arrays[key]) for key in arrays.files if not key.startswith(_INPUT)}, sep='/'
        )


def _checked(key: str, array: np.ndarray) -> np.ndarray:
    """A leaf in this machine's order of bytes.

    Raises:
      ValueError: a network cannot compute with it.
    """
    if key.startswith('params/') and array.dtype.kind != 'f':
        raise ValueError(f'{key} is of type {array.dtype}, and weights are floats')
    if key.startswith(('params/', 'batch_stats/')) and array.dtype.kind == 'f':  # a plug-in's own may be infinite
        if not np.isfinite(array).all():
            raise ValueError(f'{key} has values that are not finite')
        if key.endswith('/var') and (array < 0).any():
            raise ValueError(f'{key} has variances below 0')
    return array.astype(array.dtype.newbyteorder('='), copy=False)


def read_input(path: str | os.PathLike[str]) -> WeightsInput | None:
    """What the weights of such a file were trained on, if the file says so.

    Raises:
      InputError: the file cannot be read, or is none of these.
    """
    with _opened_weights(path) as arrays:
        if f'{_INPUT}mean' not in arrays.files:
            return None
        mean, std = (tuple(map(float, arrays[f'{_INPUT}{name}'])) for name in ('mean', 'std'))
        return WeightsInput(mean, std, *(str(arrays[f'{_INPUT}{name}']) for name in ('source', 'sha256')))


def read_stride_on(path: str | os.PathLike[str]) -> str | None:
    """Which convolution strides in the bottlenecks whose weights such a file holds, if it says so.

    Raises:
      InputError: the file cannot be read, or is none of these.
    """
    with _opened_weights(path) as arrays:
        return str(arrays[_STRIDE_ON]) if _STRIDE_ON in arrays.files else None


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """The names of the classes that the weights in such a file tell apart, if it says so.

    Raises:
      InputError: the file cannot be read, or is none of these.
    """
    with _opened_weights(path) as arrays:
        return tuple(map(str, arrays[_CLASSES])) if _CLASSES in arrays.files else None


@contextlib.contextmanager
def _opened_weights(path: str | os.PathLike[str]) -> Iterator[Any]:
    found = files.expanded(path)
    if found.suffix in state_dict.SUFFIXES:
        raise InputError(
            f'{path} is to be imported first: codinet_jax.import_weights --source={path} --output=FILE.npz.'
        )
    try:
        with open(found, 'rb') as file:
            if not zipfile.is_zipfile(file):
                raise ValueError('it is no whole .npz file')
        with open(found, 'rb') as file, np.load(file, allow_pickle=False) as arrays:
            if not any(name.startswith('params/') for name in arrays.files):
                raise ValueError('it holds no params/')
            yield arrays
    except Exception as error:  # readers of zip files and arrays raise whatever they stumble over
        why = getattr(error, 'strerror', None) or error
        unreadable = InputError(f'{path} cannot be read as weights ({why}): restore it, or train or import it again.')
        raise files.refused(path, error) or unreadable from error
