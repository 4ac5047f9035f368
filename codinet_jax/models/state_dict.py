"""Reads a state dict from a file, without PyTorch: .safetensors, and PyTorch's own .pth, .pt and .th in both formats.

PyTorch's files are pickles, and a pickle can run any code. Here it can name only what tensors are rebuilt from, and
these names stand for the functions of this file: a pickle that names anything else is refused.
"""

import collections
import io
import math
import pathlib
import pickle
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from codinet_jax.runtime import files
from codinet_jax.runtime.errors import InputError, first_sentence

SUFFIXES = ('.safetensors', '.pth', '.pt', '.th')
_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file in the old format
_TYPES = {
    'FloatStorage': np.dtype('<f4'),
    'DoubleStorage': np.dtype('<f8'),
    'HalfStorage': np.dtype('<f2'),
    'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
    'LongStorage': np.dtype('<i8'),
    'IntStorage': np.dtype('<i4'),
    'ShortStorage': np.dtype('<i2'),
    'CharStorage': np.dtype('i1'),
    'ByteStorage': np.dtype('u1'),
    'BoolStorage': np.dtype('?'),
}


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name, without the 'module.' that a parallel wrapper puts before every one.

    A training run's record of its state dict, under 'state_dict' or 'model', is read as well.

    Raises:
      InputError: it is not there, is of another kind, is damaged, or holds anything but tensors.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f'{path} is not a {", ".join(SUFFIXES)} file: give --source one that is.')
    with files.reading(path):
        if not path.is_file():
            raise InputError(f'{path} is not there: give --source a file that is.')
    tensors = _read_safetensors(path) if path.suffix == '.safetensors' else _read_torch(path)
    wrapper = 'module.' if all(name.startswith('module.') for name in tensors) else ''
    return {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    import safetensors.numpy

    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:  # a type that numpy does not have is told in more than one way
        unreadable = InputError(f'{path} cannot be read as safetensors ({error}): fetch it again, or give another.')
        raise files.refused(path, error) or unreadable from error


def _read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        content, storages = _read_zip(path) if zipfile.is_zipfile(path) else _read_old(path)
        return {str(name): _from_tensor(tensor, storages) for name, tensor in _state_dict(content).items()}
    except pickle.UnpicklingError as error:
        raise InputError(
            f'{path} holds more than tensors, or is damaged, and is not unpickled ({first_sentence(error)}): save the '
            'state_dict() alone, or give the weights as .safetensors.'
        ) from error
    except Exception as error:  # readers of zip files and pickles raise whatever they stumble over
        reason = first_sentence(error)
        unreadable = InputError(f'{path} cannot be read as a state dict ({reason}): fetch it again, or give another.')
        raise files.refused(path, error) or unreadable from error


class _Storage(NamedTuple):
    """A run of numbers in the file, which tensors are parts of."""

    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    """A tensor as the pickle describes it; its numbers lie elsewhere in the file."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StorageType(NamedTuple):
    dtype: np.dtype


# Without attributes, so that a pickle that sets any changes nothing here.
class _RebuildTensor:
    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, strides: Any, *of_autograd: Any) -> _Tensor:
        del of_autograd
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError('a tensor has no storage')
        return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


class _RebuildParameter:
    __slots__ = ()

    def __call__(self, tensor: Any, *of_autograd: Any) -> Any:
        del of_autograd
        return tensor


_GLOBALS: dict[tuple[str, str], Any] = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor'): _RebuildTensor(),
    ('torch._utils', '_rebuild_tensor_v2'): _RebuildTensor(),
    ('torch._utils', '_rebuild_parameter'): _RebuildParameter(),
    **{('torch', name): _StorageType(dtype) for name, dtype in _TYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """One that can make containers, numbers, text and `_Tensor`s, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _GLOBALS:
            raise pickle.UnpicklingError(f'it names {module}.{name}')
        return _GLOBALS[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, size, *view = pid
        if kind != 'storage' or not isinstance(storage_type, _StorageType) or any(each is not None for each in view):
            raise pickle.UnpicklingError('it holds a storage of an unknown kind')
        return _Storage(str(key), storage_type.dtype, int(size))


def _read_zip(path: pathlib.Path) -> tuple[Any, dict[str, bytes]]:
    """The content of a file in PyTorch's format since 1.6, and the bytes of its storages by key."""
    with zipfile.ZipFile(path) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError('it is compressed, as PyTorch never writes it')  # a small file might fill the memory
        names = archive.namelist()
        root = next((name.removesuffix('data.pkl') for name in names if name.endswith('/data.pkl')), None)
        if root is None:
            raise ValueError('it has no data.pkl')
        if f'{root}byteorder' in names and archive.read(f'{root}byteorder') != b'little':
            raise ValueError('its numbers are big-endian')
        content = _Unpickler(io.BytesIO(archive.read(f'{root}data.pkl'))).load()
        prefix = f'{root}data/'
        return content, {name.removeprefix(prefix): archive.read(name) for name in names if name.startswith(prefix)}


def _read_old(path: pathlib.Path) -> tuple[Any, dict[str, bytes]]:
    """The same of a file in the format before: pickles one after another, then every storage's size and numbers."""
    file = io.BytesIO(path.read_bytes())
    if _Unpickler(file).load() != _MAGIC:
        raise pickle.UnpicklingError('it does not begin as such a file does')
    _Unpickler(file).load()  # the version of the format; there is only one
    if not _Unpickler(file).load()['little_endian']:
        raise ValueError('its numbers are big-endian')
    unpickler = _OldUnpickler(file)
    content = unpickler.load()
    keys = [str(key) for key in _Unpickler(file).load()]
    return content, {key: _next_storage(file, unpickler.storages[key]) for key in keys}


class _OldUnpickler(_Unpickler):
    """One that keeps the storages it is told of, as their numbers come after."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def persistent_load(self, pid: Any) -> _Storage:
        storage = super().persistent_load(pid)
        return self.storages.setdefault(storage.key, storage)


def _next_storage(file: BinaryIO, storage: _Storage) -> bytes:
    size = int.from_bytes(file.read(8), 'little')
    if size != storage.size:
        raise ValueError('a storage is cut short')
    return file.read(size * storage.dtype.itemsize)


def _state_dict(content: Any) -> Mapping[str, Any]:
    """The tensors by name, whether the file holds them or a training run's record of them."""
    for wrapper in ('state_dict', 'model'):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            return content[wrapper]
    if not isinstance(content, Mapping):
        raise TypeError(f'it holds a {type(content).__name__}')
    return content


def _from_tensor(tensor: Any, storages: Mapping[str, bytes]) -> np.ndarray:
    if not isinstance(tensor, _Tensor):
        raise TypeError(f'it holds a {type(tensor).__name__} beside tensors')
    storage, offset, shape, strides = tensor
    content = storages[storage.key]
    if len(content) != storage.size * storage.dtype.itemsize:
        raise ValueError('a storage is cut short')
    numbers = np.frombuffer(content, storage.dtype)
    if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
        raise ValueError('a tensor has no valid shape')
    if math.prod(shape) == 0:
        return np.zeros(shape, storage.dtype)
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    # The first bound keeps reads inside the file; the second keeps a small file from filling the memory.
    if last >= numbers.size or math.prod(shape) > numbers.size:
        raise ValueError('a tensor is larger than its storage')
    return np.lib.stride_tricks.as_strided(
        numbers[offset:], shape, [stride * storage.dtype.itemsize for stride in strides]
    ).copy()
