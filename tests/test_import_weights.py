"""Weights of torchvision's and timm's names say here what they say there, and what does not fit is refused."""

import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

import helpers
from codinet_jax import import_weights, workdir
from codinet_jax.errors import InputError
from codinet_jax.models import pretrained
from codinet_jax.models.architecture import StrideOn, imagenet_resnet
from codinet_jax.models.codinet import CoDiNet
from codinet_jax.models.execution import masked
from reference_network import Tree, np_conv, np_norm, np_relu, np_stem

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# As published for 1000 classes.
PARAMETERS = {50: 25_557_032, 101: 44_549_160, 152: 60_192_808}

State = dict[str, np.ndarray]


def torch_shapes(depth: int, num_classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """Every tensor of torchvision's ResNet of this depth."""
    convs = {'conv1': (64, 3, 7, 7)}
    channels = 64
    for stage, num_blocks in enumerate(BLOCKS[depth], start=1):
        width = 32 * 2**stage
        for block in range(num_blocks):
            name = f'layer{stage}.{block}'
            convs[f'{name}.conv1'] = (width, channels, 1, 1)
            convs[f'{name}.conv2'] = (width, width, 3, 3)
            convs[f'{name}.conv3'] = (4 * width, width, 1, 1)
            if block == 0:
                convs[f'{name}.downsample.0'] = (4 * width, channels, 1, 1)
            channels = 4 * width
    shapes: dict[str, tuple[int, ...]] = {}
    for conv, shape in convs.items():
        norm = conv.replace('downsample.0', 'downsample.1').replace('conv', 'bn')
        shapes[f'{conv}.weight'] = shape
        shapes |= {f'{norm}.{leaf}': shape[:1] for leaf in ('weight', 'bias', 'running_mean', 'running_var')}
        shapes[f'{norm}.num_batches_tracked'] = ()
    return shapes | {'fc.weight': (num_classes, channels), 'fc.bias': (num_classes,)}


def random_state(depth: int, seed: int = 0) -> State:
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith('num_batches_tracked'):
            return np.array(7)
        if len(shape) > 1:
            values = rng.standard_normal(shape, np.float32) * np.float32(1.4 / np.sqrt(np.prod(shape[1:])))
        elif name.endswith(('running_var', '.weight')):
            values = rng.uniform(0.5, 1.5, shape)
        else:
            values = 0.3 * rng.normal(size=shape)
        return values.astype(np.float32)

    return {name: draw(name, shape) for name, shape in torch_shapes(depth).items()}


def zero_state() -> State:
    """A ResNet-50 that reads and writes quickly."""
    return {
        name: np.zeros(shape, np.int64 if name.endswith('num_batches_tracked') else np.float16)
        for name, shape in torch_shapes(50, num_classes=3).items()
    }


def run_main(source: Path | str | None, output: Path | str | None) -> None:
    """The command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, path in (('SOURCE', source), ('OUTPUT', output)):
            patch.setattr(import_weights, name, types.SimpleNamespace(value=path and str(path)))
        import_weights.main(['import_weights'])


def started_logits(net: CoDiNet, imported: Tree, images_BxHxWxC: jax.Array) -> np.ndarray:
    """What a network that starts from imported weights says, every block dictated to run."""
    variables = pretrained.into(helpers.random_variables(net), imported, 'file')
    run = helpers.quick_jit(lambda variables, images: net.apply(variables, images, masked(0.0), train=False))
    output = run(variables, images_BxHxWxC)
    assert (output.router_logits_Bxnx2 is None) == (net.router is None)
    return np.asarray(output.logits_BxY)


def assert_close(ours_BxY: np.ndarray, expected_BxY: np.ndarray) -> None:
    assert np.std(expected_BxY, axis=0).max() > 1e-2 * np.abs(expected_BxY).max(), 'the test is to tell images apart'
    np.testing.assert_allclose(ours_BxY, expected_BxY, rtol=0, atol=1e-4 * np.abs(expected_BxY).max())


# --- What an imported network says, against the network under their names written out in numpy. ---


def reference_logits(state: State, image_HxWxC: np.ndarray, stride_on: StrideOn) -> np.ndarray:
    state = {name: np.asarray(tensor, np.float64) for name, tensor in state.items()}

    def kernel(name: str) -> np.ndarray:
        return np.einsum('oihw->hwio', state[f'{name}.weight'])

    def norm(name: str) -> tuple[Tree, Tree]:
        params = {'scale': state[f'{name}.weight'], 'bias': state[f'{name}.bias']}
        return params, {'mean': state[f'{name}.running_mean'], 'var': state[f'{name}.running_var']}

    params, stats = norm('bn1')
    arch = imagenet_resnet(50)
    x = np_stem(
        arch, {'stem_conv': {'kernel': kernel('conv1')}, 'stem_norm': params}, {'stem_norm': stats}, image_HxWxC
    )
    for stage, num_blocks in enumerate(BLOCKS[50], start=1):
        for block in range(num_blocks):
            name, stride = f'layer{stage}.{block}', 2 if stage > 1 and block == 0 else 1
            on_1x1, on_3x3 = (stride, 1) if stride_on == '1x1' else (1, stride)
            y = np_relu(np_norm(np_conv(x, kernel(f'{name}.conv1'), on_1x1), *norm(f'{name}.bn1')))
            y = np_relu(np_norm(np_conv(y, kernel(f'{name}.conv2'), on_3x3), *norm(f'{name}.bn2')))
            y = np_norm(np_conv(y, kernel(f'{name}.conv3')), *norm(f'{name}.bn3'))
            if block == 0:
                x = np_norm(np_conv(x, kernel(f'{name}.downsample.0'), stride), *norm(f'{name}.downsample.1'))
            x = np_relu(x + y)
    return state['fc.weight'] @ x.mean((0, 1)) + state['fc.bias']


@pytest.fixture(scope='module')
def state() -> State:
    return random_state(50)


@pytest.fixture(scope='module')
def imported(state: State, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    tmp = tmp_path_factory.mktemp('imported')
    source, output = tmp / 'resnet50.safetensors', tmp / 'new' / 'resnet50.npz'
    safetensors.numpy.save_file(state, source)
    run_main(source, output)
    yield workdir.read_weights_file(output)
    source.unlink()
    output.unlink()


@pytest.mark.parametrize('stride_on', ['1x1', '3x3'])
def test_an_imported_network_says_what_the_same_weights_say_under_their_names(
    state: State, imported: Tree, stride_on: StrideOn
) -> None:
    arch = imagenet_resnet(50, image_size=32, stride_on=stride_on)
    images_BxHxWxC = helpers.random_images(arch, 2)
    expected = np.array([reference_logits(state, np.asarray(image), stride_on) for image in images_BxHxWxC])
    for router in (None, 'linear'):
        assert_close(started_logits(CoDiNet(arch, router), imported, images_BxHxWxC), expected)


# --- The same in PyTorch, from its files. ---


@pytest.mark.torch
@pytest.mark.parametrize('stride_on', ['1x1', '3x3'])
def test_an_imported_network_says_what_it_says_in_pytorch(tmp_path: Path, stride_on: StrideOn) -> None:
    import safetensors.torch
    import torch

    import reference_torch

    model = reference_torch.random_resnet(50, 1000, stride_on)
    source, output = tmp_path / 'resnet50.safetensors', tmp_path / 'resnet50.npz'
    safetensors.torch.save_file(model.state_dict(), source)
    run_main(source, output)
    imported = workdir.read_weights_file(output)
    source.unlink()
    output.unlink()
    arch = imagenet_resnet(50, image_size=64, stride_on=stride_on)
    images_BxHxWxC = helpers.random_images(arch, 4)
    with torch.inference_mode():
        expected = model(torch.from_numpy(np.array(images_BxHxWxC)).permute(0, 3, 1, 2)).numpy()
    for router in (None, 'linear'):
        assert_close(started_logits(CoDiNet(arch, router), imported, images_BxHxWxC), expected)


@pytest.mark.torch
@pytest.mark.parametrize('depth', BLOCKS)
def test_pytorchs_modules_have_the_names_and_shapes_of_these_tests(depth: int) -> None:
    import torch

    import reference_torch

    with torch.device('meta'):
        tensors = reference_torch.ResNet(depth, 1000, '3x3').state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == torch_shapes(depth)


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
@pytest.mark.parametrize('suffix', ['.pth', '.pt'])
def test_pytorchs_files_are_read_in_all_their_wrappings(tmp_path: Path, suffix: str, wrapped: Callable) -> None:
    import torch

    values = torch.randn(3, 2)
    tensors = {'a': values, 'b': torch.nn.Parameter(values), 'c': values.bfloat16(), 'd': values.half()}
    path = tmp_path / f'weights{suffix}'
    torch.save(wrapped(tensors), path)
    read = import_weights.read(path)
    assert list(read) == list('abcd')
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name].astype(np.float32), tensor.detach().float().numpy())


@pytest.mark.torch
@pytest.mark.parametrize('case', ['object', 'no tensor', 'no state dict', 'truncated', 'garbage', 'empty'])
def test_pytorchs_files_that_hold_something_else_are_refused(tmp_path: Path, case: str) -> None:
    import torch

    path = tmp_path / 'resnet50.pth'
    content: Any = {'fc.bias': torch.zeros(3)}
    if case == 'object':
        content['args'] = path
    elif case == 'no tensor':
        content['epoch'] = 3
    elif case == 'no state dict':
        content = [content]
    torch.save(content, path)
    damaged = {'truncated': path.read_bytes()[:-30], 'garbage': b'not PyTorch', 'empty': b''}
    path.write_bytes(damaged.get(case, path.read_bytes()))
    words = {
        'object': 'holds more than tensors.* save the state_dict',
        'no tensor': 'holds a int beside tensors',
        'no state dict': 'holds a list',
        'garbage': 'holds more than tensors, or is damaged',
    }
    assert_refused(path, words.get(case, 'cannot be read as a state dict'))


def test_without_pytorch_its_files_are_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'torch', None)
    path = tmp_path / 'resnet50.pth'
    path.touch()
    assert_refused(path, 'pip install torch, or give the weights as .safetensors')


# --- Names, types, and what is told. ---


@pytest.mark.parametrize('depth', BLOCKS)
def test_every_tensor_goes_to_the_leaf_and_the_block_that_it_is_of(depth: int) -> None:
    shapes = torch_shapes(depth)
    numbers = {name: np.float32(number) for number, name in enumerate(shapes)}
    tensors = {name: np.broadcast_to(numbers[name], shape) for name, shape in shapes.items()}
    assert pretrained.find_depth(tensors, 'file') == depth
    variables = pretrained.from_torch(tensors, depth, 'file')
    expected = helpers.shapes(CoDiNet(imagenet_resnet(depth), None))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), expected
    )
    params, stats = variables['params'], variables['batch_stats']
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[depth]
    for block in range(1, BLOCKS[depth][2]):
        ours = jax.tree.map(lambda leaf, k=block - 1: leaf[k].min(), variables_of(variables, 'stage3_blocks'))
        assert ours['params']['conv2']['kernel'] == numbers[f'layer3.{block}.conv2.weight']
        assert ours['params']['norm3']['scale'] == numbers[f'layer3.{block}.bn3.weight']
        assert ours['batch_stats']['norm1']['var'] == numbers[f'layer3.{block}.bn1.running_var']
    assert params['stage2_transition']['shortcut']['conv']['kernel'].max() == numbers['layer2.0.downsample.0.weight']
    assert stats['stem_norm']['mean'].max() == numbers['bn1.running_mean']
    leaves = {*np.concatenate([np.unique(leaf) for leaf in jax.tree.leaves(variables)])}
    assert leaves == {number for name, number in numbers.items() if not name.endswith('num_batches_tracked')}


def variables_of(variables: Tree, stack: str) -> Tree:
    return {collection: tree[stack]['residual'] for collection, tree in variables.items()}


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_become_float32(tmp_path: Path, dtype: Any) -> None:
    source, output = tmp_path / 'resnet50.safetensors', tmp_path / 'resnet50.npz'
    state = zero_state()
    state['fc.bias'] = np.array([0.1, 2, -3e-3])
    cast = {name: tensor.astype(dtype) for name, tensor in state.items() if tensor.dtype != np.int64}
    safetensors.numpy.save_file({f'module.{name}': tensor for name, tensor in cast.items()}, source)
    run_main(source, output)
    variables = workdir.read_weights_file(output)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(variables['params']['head']['bias'], cast['fc.bias'].astype(np.float32))
    source.unlink()
    output.unlink()


def test_what_was_read_and_how_to_go_on_is_told(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_weights, 'read', lambda path: state)
    monkeypatch.chdir(tmp_path)
    run_main('resnet50.safetensors', 'resnet50.npz')
    first, second = capsys.readouterr().out.splitlines()
    assert first == 'resnet50.safetensors: ResNet-50, 25.56 M parameters, 1000 classes'
    assert '--config.model.depth=50 --config.model.stride_on=3x3 --config.init_from=resnet50.npz' in second
    Path('resnet50.npz').unlink()


# --- What is refused. ---


def edited(**tensors: np.ndarray | None) -> State:
    """A ResNet-50 with some tensors replaced, or taken out where they are None."""
    return {name: tensor for name, tensor in (zero_state() | tensors).items() if tensor is not None}


def deep_stem() -> State:
    """timm's resnet50d: three convolutions for the first."""
    stem = {f'conv1.{i}.weight': np.zeros((64, 64, 3, 3), np.float16) for i in (0, 3, 6)}
    return stem | edited(**{'conv1.weight': None})


NAN = np.full((64,), np.nan, np.float16)
BIG = np.full((64,), 1e300)
STATES: dict[str, tuple[Callable[[], State], str]] = {
    'unknown key': (
        lambda: edited(**{'layer1.0.se.fc.weight': np.zeros(3, np.float16)}),
        r'has layer1\.0\.se\.fc\.weight, which is no part of a plain ResNet-50',
    ),
    'counter of no norm': (lambda: edited(num_batches_tracked=np.zeros(1)), 'has num_batches_tracked, which is no'),
    'deep stem': (deep_stem, r"has conv1\.0\.weight, which is no part of a plain ResNet-50: .*timm's"),
    'missing key': (lambda: edited(**{'layer3.2.bn3.bias': None}), r'has no layer3\.2\.bn3\.bias'),
    'missing statistics': (lambda: edited(**{'bn1.running_var': None}), r'has no bn1\.running_var'),
    'no head': (lambda: edited(**{'fc.weight': None, 'fc.bias': None}), r'has no fc\.bias'),
    'missing block': (
        lambda: {name: tensor for name, tensor in zero_state().items() if not name.startswith('layer4.2')},
        r'has \(3, 4, 6, 2\) blocks',
    ),
    'no ResNet': (lambda: {'blocks.0.attn.qkv.weight': np.zeros((3, 3))}, r'has \(0, 0, 0, 0\) blocks'),
    'nothing': (dict, r'has \(0, 0, 0, 0\) blocks'),
    'wide ResNet': (
        lambda: edited(**{'layer1.1.conv2.weight': np.zeros((128, 128, 3, 3), np.float16)}),
        r'layer1\.1\.conv2\.weight has shape \(128, 128, 3, 3\) where a plain ResNet-50 has \(64, 64, 3, 3\)',
    ),
    'kernel in our layout': (
        lambda: edited(**{'conv1.weight': np.zeros((7, 7, 3, 64), np.float16)}),
        r'conv1\.weight has shape \(7, 7, 3, 64\) where a plain ResNet-50 has \(64, 3, 7, 7\)',
    ),
    'head of two minds': (
        lambda: edited(**{'fc.bias': np.zeros(4, np.float16)}),
        r'fc\.weight has shape \(3, 2048\) where a plain ResNet-50 has \(4, 2048\)',
    ),
    'no classes': (
        lambda: edited(**{'fc.bias': np.zeros(0, np.float16)}),
        r'fc\.bias has shape \(0,\) where a plain ResNet-50 has \(1,\)',
    ),
    'NaN': (lambda: edited(**{'layer1.2.bn1.running_mean': NAN}), r'layer1\.2\.bn1\.running_mean has values that are'),
    'too large for float32': (lambda: edited(**{'bn1.weight': BIG}), r'bn1\.weight has values that are not finite'),
    'integers': (lambda: edited(**{'bn1.weight': np.zeros(64, np.int8)}), r'bn1\.weight is of type int8: .*float16'),
}


def assert_refused(source: Path, message: str) -> None:
    """With one sentence that names the file, and nothing written."""
    before = sorted(source.parent.iterdir())
    with pytest.raises(InputError, match=message) as refused:
        run_main(source, source.parent / 'output.npz')
    assert str(source) in str(refused.value) and '\n' not in str(refused.value)
    assert sorted(source.parent.iterdir()) == before


@pytest.mark.parametrize('case', STATES)
def test_tensors_that_are_no_such_resnet_are_refused_by_name(tmp_path: Path, case: str) -> None:
    make, message = STATES[case]
    source = tmp_path / 'weights.safetensors'
    safetensors.numpy.save_file(make(), source)
    assert_refused(source, message)
    source.unlink()


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('missing.safetensors', None, r'is not there: give --source'),
        ('weights.npz', b'', r'is not a \.safetensors, \.pth, \.pt file'),
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


def test_flags_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'--source=FILE\.safetensors'):
        run_main(None, tmp_path / 'output.npz')
    with pytest.raises(InputError, match=r'--output=FILE\.npz'):
        run_main(tmp_path / 'weights.safetensors', None)


def test_an_output_that_cannot_be_written_is_told(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_weights, 'read', lambda path: state)
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match=r'output\.npz cannot be written \(.+try again'):
        run_main('weights.safetensors', tmp_path / 'file' / 'output.npz')


def test_the_command_overwrites_nothing_and_says_so(tmp_path: Path) -> None:
    output = tmp_path / 'output.npz'
    output.write_bytes(b'years of work')
    said: subprocess.CompletedProcess[str] = helpers.run_door(
        'import_weights', f'--source={tmp_path}/weights.safetensors', f'--output={output}'
    )
    assert (said.returncode, said.stdout) == (2, '')
    assert said.stderr == f'error: {output} is there already: give another --output.\n'
    assert helpers.all_bytes(tmp_path) == {'output.npz': b'years of work'}


# --- Into a network. ---


def without_routers(tree: Tree) -> Tree:
    if not isinstance(tree, dict):
        return tree
    return {name: without_routers(child) for name, child in tree.items() if name not in ('router', 'router_start')}


FRESH, GIVEN = 1, 2  # seeds


def variables_of_kind(router: str | None, seed: int) -> Tree:
    return jax.tree.map(np.asarray, helpers.random_variables(helpers.tiny_network(router), seed))


@pytest.mark.parametrize('router', [None, 'linear', 'recurrent'])
def test_the_backbone_is_the_files_and_routers_stay_fresh_where_it_has_none(router: str | None) -> None:
    fresh, given = variables_of_kind(router, FRESH), variables_of_kind(None, GIVEN)
    kept = helpers.by_path(fresh)
    started = helpers.by_path(pretrained.into(fresh, given, 'file'))
    assert list(started) == list(kept)
    for path, leaf in started.items():
        np.testing.assert_array_equal(leaf, kept[path] if 'router' in path else helpers.by_path(given)[path])


@pytest.mark.parametrize('router', ['linear', 'recurrent'])
def test_routers_are_the_files_where_it_has_them_all(router: str) -> None:
    given = variables_of_kind(router, GIVEN)
    started = pretrained.into(variables_of_kind(router, FRESH), given, 'file')
    jax.tree.map(np.testing.assert_array_equal, started, given)


@pytest.mark.parametrize('router', ['linear', 'recurrent'])
def test_a_static_network_leaves_routers_in_the_file(router: str) -> None:
    given = variables_of_kind(router, GIVEN)
    started = pretrained.into(variables_of_kind(None, FRESH), given, 'file')
    jax.tree.map(np.testing.assert_array_equal, started, without_routers(given))


def test_a_runs_weights_are_a_file_to_start_from(tmp_path: Path) -> None:
    given = variables_of_kind('linear', GIVEN)
    workdir.Workdir(tmp_path).write_weights(given)
    imported = workdir.read_weights_file(tmp_path / 'weights.npz')
    jax.tree.map(
        np.testing.assert_array_equal, pretrained.into(variables_of_kind('linear', FRESH), imported, ''), given
    )


MEAN = 'batch_stats/stage1_blocks/residual/norm1/mean'
MISFITS: dict[str, tuple[str | None, str, Any, str]] = {
    'missing leaf': ('linear', MEAN, None, 'is missing in the file and float32 (2, 4) in the network'),
    'missing router': ('linear', 'params/stage2_blocks/router/decide/bias', None, 'is missing in the file'),
    'unknown leaf': (
        None,
        'params/stage1_blocks/residual/conv1/bias',
        np.zeros((2, 4), np.float32),
        'is float32 (2, 4) in the file and missing in the network',
    ),
    'shape': (
        None,
        'params/head/kernel',
        np.zeros((8, 1000), np.float32),
        'is float32 (8, 1000) in the file and float32 (8, 10) in the network',
    ),
    'type': (None, MEAN, np.zeros((2, 4)), 'is float64 (2, 4) in the file and float32 (2, 4) in the network'),
    'shape of a router': ('linear', 'params/stage1_blocks/router/hidden/bias', np.zeros(3, np.float32), '(2, 4) in'),
}


@pytest.mark.parametrize('case', MISFITS)
def test_a_file_that_does_not_fit_the_network_is_refused_by_leaf(case: str) -> None:
    router, path, leaf, words = MISFITS[case]
    fresh = variables_of_kind(router, FRESH)
    given = helpers.by_path(variables_of_kind(router, GIVEN)) | {path: leaf}
    with pytest.raises(InputError) as refused:
        pretrained.into(fresh, nested({path: leaf for path, leaf in given.items() if leaf is not None}), 'some.npz')
    message = str(refused.value)
    assert message.startswith('some.npz does not fit') and f'{path} is ' in message and words in message, message


def test_routers_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match=r'router.* is missing in the file'):
        pretrained.into(variables_of_kind('linear', FRESH), variables_of_kind('conv', GIVEN), 'some.npz')


def nested(leaves: dict[str, np.ndarray]) -> Tree:
    return traverse_util.unflatten_dict(leaves, sep='/')


# --- The file. ---


@pytest.mark.parametrize('case', ['text', 'one array', 'objects', 'truncated', 'a leaf inside a leaf', 'missing'])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / 'weights.npz'
    arrays: dict[str, Any] = {'params/head/bias': np.zeros(3)}
    if case == 'objects':
        arrays['params/head/kernel'] = np.array([{}], object)
    elif case == 'a leaf inside a leaf':
        arrays['params/head/bias/scale'] = np.zeros(3)
    np.savez(path, **arrays)
    if case == 'text':
        path.write_text('no weights')
    elif case == 'truncated':
        path.write_bytes(path.read_bytes()[:-20])
    elif case == 'one array':
        with open(path, 'wb') as file:
            np.save(file, np.zeros(3))
    elif case == 'missing':
        path.unlink()
    with pytest.raises(InputError, match=r'weights\.npz cannot be read as weights \(.*import it again') as refused:
        workdir.read_weights_file(path)
    assert '\n' not in str(refused.value)
