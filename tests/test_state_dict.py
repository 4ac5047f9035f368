"""PyTorch's files are read without PyTorch, in both its formats, and a pickle that would do more than hold tensors does
nothing at all."""

import collections
import io
import os
import pickle
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.numpy

from codinet_jax.models import state_dict
from codinet_jax.runtime.errors import InputError

MAGIC = 0x1950A86A20F9469CFC6C


# --- PyTorch's formats, written without it. ---


class Storage(NamedTuple):
    key: str
    numbers: np.ndarray


class Tensor:
    """What torch.save writes of one: a call of `_rebuild_tensor` and the storage's persistent id."""

    def __init__(self, storage: Storage, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0):
        self.arguments = (storage, offset, shape, strides)

    def __reduce__(self) -> Any:
        return sys.modules['torch._utils']._rebuild_tensor, self.arguments  # type: ignore[attr-defined]


class Calls:
    """What a pickle holds that calls a function when it is read."""

    def __init__(self, function: Any, *arguments: Any):
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.fixture
def torch_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Functions and types that pickle under the names of PyTorch's."""

    def named(module: types.ModuleType, name: str, of: Any) -> None:
        of.__module__, of.__name__, of.__qualname__ = module.__name__, name, name
        setattr(module, name, of)

    torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
    for name in ('FloatStorage', 'HalfStorage', 'LongStorage', 'UnheardOfStorage'):
        named(torch, name, type(name, (), {}))
    for name in ('_rebuild_tensor', '_rebuild_parameter'):
        named(utils, name, lambda *arguments: None)
    monkeypatch.setitem(sys.modules, 'torch', torch)
    monkeypatch.setitem(sys.modules, 'torch._utils', utils)
    yield


class Pickler(pickle.Pickler):
    def __init__(self, file: Any, view: tuple[Any, ...]):
        super().__init__(file, protocol=2)
        self.view, self.storages = view, {}  # type: ignore[var-annotated]

    def persistent_id(self, each: Any) -> Any:
        if not isinstance(each, Storage):
            return None
        self.storages[each.key] = each.numbers
        kinds = {'float32': 'FloatStorage', 'float16': 'HalfStorage', 'int64': 'LongStorage'}
        name = kinds.get(each.numbers.dtype.name, 'UnheardOfStorage')
        return 'storage', getattr(sys.modules['torch'], name), each.key, 'cuda:0', each.numbers.size, *self.view


def in_the_old_format(content: Any, *, little_endian: bool = True, view: Any = None) -> bytes:
    file = io.BytesIO()
    for each in (MAGIC, 1001, {'protocol_version': 1001, 'little_endian': little_endian, 'type_sizes': {}}):
        pickle.dump(each, file, protocol=2)
    pickler = Pickler(file, (view,))
    pickler.dump(content)
    pickle.dump(list(pickler.storages), file, protocol=2)
    for numbers in pickler.storages.values():
        file.write(numbers.size.to_bytes(8, 'little') + numbers.tobytes())
    return file.getvalue()


def in_the_zip_format(content: Any, *, byteorder: str = 'little', compression: int = zipfile.ZIP_STORED) -> bytes:
    pickled, file = io.BytesIO(), io.BytesIO()
    pickler = Pickler(pickled, ())
    pickler.dump(content)
    with zipfile.ZipFile(file, 'w', compression) as archive:
        archive.writestr('archive/data.pkl', pickled.getvalue())
        archive.writestr('archive/byteorder', byteorder)
        for key, numbers in pickler.storages.items():
            archive.writestr(f'archive/data/{key}', numbers.tobytes())
    return file.getvalue()


FORMATS = pytest.mark.parametrize('written', [in_the_old_format, in_the_zip_format], ids=['old', 'zip'])


def tensor(numbers: np.ndarray, key: str = '94020255495056') -> Tensor:
    strides = tuple(stride // numbers.itemsize for stride in numbers.strides)
    return Tensor(Storage(key, numbers.ravel()), numbers.shape, strides)


def arange(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def written_to(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# --- What is read. ---


@FORMATS
@pytest.mark.parametrize('suffix', ['.th', '.pth', '.pt'])
def test_a_training_runs_record_of_a_parallel_network_is_read(
    torch_names: None, tmp_path: Path, suffix: str, written: Callable[..., bytes]
) -> None:
    tensors = {
        'module.a.weight': tensor(arange(2, 3, 1, 1), '1'),
        'module.a.bias': tensor(arange(2, dtype=np.float16), '2'),
        'module.a.num_batches_tracked': tensor(np.array(7), '3'),
        'module.empty': tensor(np.zeros((0, 3), np.float32), '4'),
    }
    content = {'best_prec1': 91.73, 'state_dict': collections.OrderedDict(tensors)}
    read = state_dict.read(written_to(tmp_path / f'resnet20{suffix}', written(content)))
    expected = {
        'a.weight': arange(2, 3, 1, 1),
        'a.bias': arange(2, dtype=np.float16),
        'a.num_batches_tracked': np.array(7),
        'empty': np.zeros((0, 3), np.float32),
    }
    assert list(read) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(read[name], array, strict=True)


@FORMATS
def test_parts_of_one_storage_and_other_layouts_are_read(
    torch_names: None, tmp_path: Path, written: Callable[..., bytes]
) -> None:
    storage = Storage('0', arange(24).ravel())
    transposed, part = Tensor(storage, (6, 4), (1, 6)), Tensor(storage, (2, 3), (6, 2), offset=7)
    parameter = Calls(sys.modules['torch._utils']._rebuild_parameter, part, True, {})  # type: ignore[attr-defined]
    content = {'transposed': transposed, 'part': part, 'parameter': parameter}
    read = state_dict.read(written_to(tmp_path / 'weights.pth', written(content)))
    np.testing.assert_array_equal(read['transposed'], arange(4, 6).T)
    for name in ('part', 'parameter'):
        np.testing.assert_array_equal(read[name], [[7, 9, 11], [13, 15, 17]])


def test_a_state_dicts_own_attributes_do_not_matter(torch_names: None, tmp_path: Path) -> None:
    tensors: Any = collections.OrderedDict(a=tensor(arange(3)))
    tensors._metadata = collections.OrderedDict({'': {'version': 1}})
    read = state_dict.read(written_to(tmp_path / 'weights.pth', in_the_old_format(tensors)))
    np.testing.assert_array_equal(read['a'], arange(3))


# --- What is refused. ---


def assert_refused(path: Path, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        state_dict.read(path)
    assert str(path) in str(refused.value) and '\n' not in str(refused.value)


DID = []


def do_harm(*arguments: Any) -> None:
    DID.append(arguments)


HARMFUL: dict[str, Callable[[], Any]] = {
    'a function': lambda: Calls(do_harm, 1),
    'a command': lambda: Calls(os.system, 'false'),
    'an evaluation': lambda: Calls(eval, '1'),
    'an attribute': lambda: Calls(getattr, 'a', 'b'),
    'a path': lambda: Path('a'),
    'a type': lambda: np.float32,
    'a part of a container': lambda: Calls(collections.OrderedDict.fromkeys, 'ab'),
    'another function of PyTorch': lambda: Calls(sys.modules['torch'].UnheardOfStorage),  # type: ignore[attr-defined]
}


@FORMATS
@pytest.mark.parametrize('case', HARMFUL)
@pytest.mark.parametrize('place', ['beside', 'as a name', 'in its place'])
def test_a_pickle_that_names_anything_else_does_nothing(
    torch_names: None, tmp_path: Path, case: str, place: str, written: Callable[..., bytes]
) -> None:
    harm = HARMFUL[case]()
    content = {
        'beside': {'state_dict': {'a': tensor(arange(3))}, 'args': harm},
        'as a name': [('a', tensor(arange(3))), (harm, 3)],
        'in its place': harm,
    }[place]
    assert_refused(
        written_to(tmp_path / 'weights.pth', written(content)),
        r'holds more than tensors, or is damaged, and is not unpickled \(it names .+\): save the state_dict\(\) alone',
    )
    assert not DID


@pytest.mark.parametrize('at', ['magic', 'version', 'system', 'keys'])
def test_every_pickle_of_the_old_format_is_read_with_the_same_care(torch_names: None, tmp_path: Path, at: str) -> None:
    parts = {'magic': MAGIC, 'version': 1001, 'system': {'little_endian': True}, 'content': {}, 'keys': []}
    parts[at] = Calls(do_harm, 1)
    content = b''.join(pickle.dumps(part, protocol=2) for part in parts.values())
    assert_refused(written_to(tmp_path / 'weights.th', content), 'holds more than tensors')
    assert not DID


@pytest.mark.parametrize('attributes', [{'dtype': 1}, (None, {'dtype': 1}), (None, {'__call__': 1})], ids=str)
@pytest.mark.parametrize('name', ['torch FloatStorage', 'torch._utils _rebuild_tensor', 'collections OrderedDict'])
def test_a_pickle_cannot_change_what_the_names_stand_for(tmp_path: Path, name: str, attributes: Any) -> None:
    # Opcodes, as no object pickles so: push what the name stands for, push the attributes, set them on it.
    push, attribute_state = f'c{name}\n'.replace(' ', '\n').encode(), pickle.dumps(attributes, protocol=2)[2:-1]
    begun = b''.join(pickle.dumps(part, protocol=2) for part in (MAGIC, 1001, {'little_endian': True}))
    content = begun + b'\x80\x02' + push + attribute_state + b'b.'
    assert_refused(
        written_to(tmp_path / 'weights.th', content), 'cannot be read as a state dict .*(attribute|not support)'
    )


STORAGE = Storage('0', np.zeros(6, np.float32))
MISSHAPEN: dict[str, tuple[Callable[[], Any], str]] = {
    'more than there is': (lambda: Tensor(STORAGE, (7,), (1,)), 'larger than its storage'),
    'beyond the end': (lambda: Tensor(STORAGE, (3,), (1,), offset=4), 'larger than its storage'),
    'strides beyond the end': (lambda: Tensor(STORAGE, (2, 3), (10**9, 1)), 'larger than its storage'),
    'repeated without end': (lambda: Tensor(STORAGE, (10**6, 10**6), (0, 0)), 'larger than its storage'),
    'before the beginning': (lambda: Tensor(STORAGE, (2,), (1,), offset=-1), 'no valid shape'),
    'backwards': (lambda: Tensor(STORAGE, (2,), (-1,), offset=1), 'no valid shape'),
    'of a negative length': (lambda: Tensor(STORAGE, (-2,), (1,)), 'no valid shape'),
    'strides for other axes': (lambda: Tensor(STORAGE, (2, 3), (1,)), 'no valid shape'),
    'no storage': (lambda: Tensor(3, (2,), (1,)), 'a tensor has no storage'),  # type: ignore[arg-type]
    'a number': (lambda: 3, 'holds a int beside tensors'),
    'numbers of another type': (lambda: tensor(np.zeros(3, np.complex64)), 'it names torch.UnheardOfStorage'),
}


@FORMATS
@pytest.mark.parametrize('case', MISSHAPEN)
def test_tensors_that_are_none_are_refused(
    torch_names: None, tmp_path: Path, case: str, written: Callable[..., bytes]
) -> None:
    make, words = MISSHAPEN[case]
    assert_refused(written_to(tmp_path / 'weights.pth', written({'a': make()})), words)


def test_damaged_files_are_refused(torch_names: None, tmp_path: Path) -> None:
    content = {'a': tensor(arange(100))}
    old, zipped = in_the_old_format(content), in_the_zip_format(content)
    short = in_the_zip_format({'a': Tensor(Storage('0', arange(2)), (2,), (1,))}).replace(
        b'archive/data/0', b'archive/data/1'
    )
    files = {
        'cut short': (old[:-4], 'a storage is cut short'),
        'cut in the pickle': (old[:150], 'is damaged'),
        'no PyTorch': (pickle.dumps({'a': 1}), 'does not begin as such a file does'),
        'garbage': (b'not PyTorch', 'is damaged'),
        'empty': (b'', 'cannot be read as a state dict'),
        'cut zip': (zipped[:-30], 'is damaged'),
        'no such storage': (short, 'cannot be read as a state dict'),
        'big-endian': (in_the_old_format(content, little_endian=False), 'big-endian'),
        'big-endian zip': (in_the_zip_format(content, byteorder='big'), 'big-endian'),
        'compressed': (in_the_zip_format(content, compression=zipfile.ZIP_DEFLATED), 'compressed'),
        'a view': (in_the_old_format(content, view=('1', 0, 3)), 'a storage of an unknown kind'),
        'a list': (in_the_old_format([1]), 'holds a list'),
    }
    for name, (damaged, words) in files.items():
        assert_refused(written_to(tmp_path / f'{name}.pth', damaged), words)


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('missing.safetensors', None, r'is not there: give --source'),
        ('weights.npz', b'', r'is not a \.safetensors, \.pth, \.pt, \.th file'),
        ('text.safetensors', b'not safetensors at all', r'cannot be read as safetensors'),
        ('empty.safetensors', b'', r'cannot be read as safetensors'),
        (
            'truncated.safetensors',
            safetensors.numpy.save({'fc.bias': np.zeros(100, np.float32)})[:-50],
            r'cannot be read as safetensors',
        ),
        (
            'unheard-of type.safetensors',
            safetensors.numpy.save({'a': np.zeros(4, np.int8)}).replace(b'"I8"', b'"Q8"'),
            r'cannot be read as safetensors',
        ),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path / name, message)


# --- PyTorch's own files. ---


@pytest.mark.torch
@pytest.mark.parametrize(
    'wrapped',
    [
        lambda tensors: tensors,
        lambda tensors: {'epoch': 3, 'state_dict': tensors},
        lambda tensors: {'model': {f'module.{name}': tensor for name, tensor in tensors.items()}, 'args': None},
    ],
    ids=['plain', 'state_dict', 'model, parallel'],
)
@pytest.mark.parametrize('is_zip', [True, False])
def test_pytorchs_files_are_read_in_all_their_wrappings(tmp_path: Path, is_zip: bool, wrapped: Callable) -> None:
    import torch

    values = torch.randn(3, 2)
    tensors = {
        'a': values,
        'b': torch.nn.Parameter(values),
        'c': values.bfloat16(),
        'd': values.half().T,
        'e': torch.arange(5)[2:4],
        'f': torch.tensor(7),
    }
    path = tmp_path / 'weights.pth'
    torch.save(wrapped(tensors), path, _use_new_zipfile_serialization=is_zip)
    read = state_dict.read(path)
    assert list(read) == list('abcdef')
    for name, each in tensors.items():
        np.testing.assert_array_equal(read[name].astype(np.float32), each.detach().float().numpy())


@pytest.mark.torch
@pytest.mark.parametrize('case', ['object', 'module', 'no tensor', 'no state dict'])
@pytest.mark.parametrize('is_zip', [True, False])
def test_pytorchs_files_that_hold_something_else_are_refused(tmp_path: Path, case: str, is_zip: bool) -> None:
    import torch

    path = tmp_path / 'resnet50.pth'
    content: Any = {'fc.bias': torch.zeros(3)}
    if case == 'object':
        content['args'] = path
    elif case == 'module':
        content = torch.nn.Linear(3, 2)
    elif case == 'no tensor':
        content['epoch'] = 3
    elif case == 'no state dict':
        content = [content]
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    words = {'no tensor': 'holds a int beside tensors', 'no state dict': 'holds a list'}
    assert_refused(path, words.get(case, 'holds more than tensors.* save the state_dict'))
