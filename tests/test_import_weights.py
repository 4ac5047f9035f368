"""Weights of published ResNets say here what they say there, and what does not fit is refused."""

import functools
import hashlib
import subprocess
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
from codinet_jax import import_weights
from codinet_jax.data import augment, datasets
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.models import hub, pretrained, state_dict, weights_file
from codinet_jax.models.architecture import StrideOn, cifar_resnet, imagenet_resnet
from codinet_jax.models.execution import masked
from codinet_jax.models.network import RoutedResNet, fresh_variables
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir
from reference_network import Tree, np_conv, np_norm, np_relu, np_stem

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
# As published for 1000 classes.
PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
CIFAR_PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018}  # for 10

State = dict[str, np.ndarray]


def torch_shapes(depth: int, num_classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """Every tensor of torchvision's ResNet of this depth."""
    convs = {'conv1': (64, 3, 7, 7)}
    channels = 64
    for stage, num_blocks in enumerate(BLOCKS[depth], start=1):
        width = 32 * 2**stage
        out = width if depth < 50 else 4 * width
        for block in range(num_blocks):
            name = f'layer{stage}.{block}'
            if depth < 50:
                convs[f'{name}.conv1'] = (width, channels, 3, 3)
                convs[f'{name}.conv2'] = (width, width, 3, 3)
            else:
                convs[f'{name}.conv1'] = (width, channels, 1, 1)
                convs[f'{name}.conv2'] = (width, width, 3, 3)
                convs[f'{name}.conv3'] = (out, width, 1, 1)
            if block == 0 and (stage > 1 or channels != out):
                convs[f'{name}.downsample.0'] = (out, channels, 1, 1)
            channels = out
    return with_norms_and_head(convs, 'fc', num_classes)


def cifar_shapes(depth: int, *, is_projected: bool = False) -> dict[str, tuple[int, ...]]:
    """Every tensor of pytorch_resnet_cifar10's ResNet of this depth, and the counters of a newer PyTorch."""
    convs = {'conv1': (16, 3, 3, 3)}
    channels = 16
    for stage, width in enumerate((16, 32, 64), start=1):
        for block in range((depth - 2) // 6):
            name = f'layer{stage}.{block}'
            convs[f'{name}.conv1'] = (width, channels, 3, 3)
            convs[f'{name}.conv2'] = (width, width, 3, 3)
            if is_projected and channels != width:
                convs[f'{name}.shortcut.0'] = (width, channels, 1, 1)
            channels = width
    return with_norms_and_head(convs, 'linear', 10)


def with_norms_and_head(convs: dict[str, tuple[int, ...]], head: str, num_classes: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for conv, shape in convs.items():
        norm = f'{conv[:-1]}1' if conv.endswith('.0') else conv.replace('conv', 'bn')
        shapes[f'{conv}.weight'] = shape
        shapes |= {f'{norm}.{leaf}': shape[:1] for leaf in ('weight', 'bias', 'running_mean', 'running_var')}
        shapes[f'{norm}.num_batches_tracked'] = ()
    channels = next(reversed(convs.values()))[0]
    return shapes | {f'{head}.weight': (num_classes, channels), f'{head}.bias': (num_classes,)}


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
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

    return {name: draw(name, shape) for name, shape in shapes.items()}


def zero_state() -> State:
    """A ResNet-50 that reads and writes quickly."""
    return {
        name: np.zeros(shape, np.int64 if name.endswith('num_batches_tracked') else np.float16)
        for name, shape in torch_shapes(50, num_classes=3).items()
    }


def run_main(
    source: Path | str | None,
    output: Path | str | None,
    *,
    download: bool = False,
    stride_on: str | None = None,
    **per_channel: str,
) -> None:
    """The command in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_weights, 'DOWNLOAD', types.SimpleNamespace(value=download))
        patch.setattr(import_weights, 'STRIDE_ON', types.SimpleNamespace(value=stride_on))
        for name, path in (('SOURCE', source), ('OUTPUT', output)):
            patch.setattr(import_weights, name, types.SimpleNamespace(value=path and str(path)))
        for name in ('mean', 'std'):
            given = per_channel[name].split(',') if name in per_channel else None
            patch.setattr(import_weights, name.upper(), types.SimpleNamespace(name=name, value=given))
        import_weights.main(['import_weights'])


def started_logits(net: RoutedResNet, imported: Tree, images_BxHxWxC: jax.Array) -> np.ndarray:
    """What a network that starts from imported weights says, every block dictated to run."""
    variables = pretrained.into(helpers.random_variables(net), imported, 'file')
    run = helpers.quick_jit(lambda variables, images: net.apply(variables, images, masked(0.0), train=False))
    output = run(variables, images_BxHxWxC)
    assert (output.router_logits_Bxnx2 is None) == (net.router is None)
    return np.asarray(output.logits_BxY)


def assert_close(ours_BxY: np.ndarray, expected_BxY: np.ndarray, tolerance: float = 1e-4) -> None:
    assert np.std(expected_BxY, axis=0).max() > 1e-2 * np.abs(expected_BxY).max(), 'the test is to tell images apart'
    np.testing.assert_allclose(ours_BxY, expected_BxY, rtol=0, atol=tolerance * np.abs(expected_BxY).max())


# --- What an imported network says, against the network under their names written out in numpy. ---


def reference_logits(state: State, image_HxWxC: np.ndarray, depth: int, stride_on: StrideOn = '3x3') -> np.ndarray:
    """Of an ImageNet ResNet of one of the depths of `BLOCKS`, of a CIFAR ResNet for any other."""
    state = {name: np.asarray(tensor, np.float64) for name, tensor in state.items()}
    counts = BLOCKS.get(depth, (depth // 6,) * 3)

    def kernel(name: str) -> np.ndarray:
        return np.einsum('oihw->hwio', state[f'{name}.weight'])

    def norm(name: str) -> tuple[Tree, Tree]:
        params = {'scale': state[f'{name}.weight'], 'bias': state[f'{name}.bias']}
        return params, {'mean': state[f'{name}.running_mean'], 'var': state[f'{name}.running_var']}

    def subsampled(x: np.ndarray, channels: int) -> np.ndarray:
        missing = channels - x.shape[-1]
        return np.pad(x[::2, ::2], ((0, 0), (0, 0), (missing // 2, missing // 2))) if missing else x

    params, stats = norm('bn1')
    arch = imagenet_resnet(depth) if depth in BLOCKS else cifar_resnet(depth)
    x = np_stem(
        arch, {'stem_conv': {'kernel': kernel('conv1')}, 'stem_norm': params}, {'stem_norm': stats}, image_HxWxC
    )
    for stage, num_blocks in enumerate(counts, start=1):
        for block in range(num_blocks):
            name, stride = f'layer{stage}.{block}', 2 if stage > 1 and block == 0 else 1
            if f'{name}.conv3.weight' in state:
                on_1x1, on_3x3 = (stride, 1) if stride_on == '1x1' else (1, stride)
                y = np_relu(np_norm(np_conv(x, kernel(f'{name}.conv1'), on_1x1), *norm(f'{name}.bn1')))
                y = np_relu(np_norm(np_conv(y, kernel(f'{name}.conv2'), on_3x3), *norm(f'{name}.bn2')))
                y = np_norm(np_conv(y, kernel(f'{name}.conv3')), *norm(f'{name}.bn3'))
            else:
                y = np_relu(np_norm(np_conv(x, kernel(f'{name}.conv1'), stride), *norm(f'{name}.bn1')))
                y = np_norm(np_conv(y, kernel(f'{name}.conv2')), *norm(f'{name}.bn2'))
            projections = [
                f'{name}.{part}' for part in ('downsample', 'shortcut') if f'{name}.{part}.0.weight' in state
            ]
            if projections:
                x = np_norm(np_conv(x, kernel(f'{projections[0]}.0'), stride), *norm(f'{projections[0]}.1'))
            x = np_relu(subsampled(x, y.shape[-1]) + y)
    head = 'fc' if depth in BLOCKS else 'linear'
    return state[f'{head}.weight'] @ x.mean((0, 1)) + state[f'{head}.bias']


@pytest.fixture(scope='module')
def state() -> State:
    return random_state(torch_shapes(50))


@pytest.fixture(scope='module')
def imported(state: State, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    tmp = tmp_path_factory.mktemp('imported')
    source, output = tmp / 'resnet50.safetensors', tmp / 'new' / 'resnet50.npz'
    safetensors.numpy.save_file(state, source)
    run_main(source, output)
    yield weights_file.read(output)
    source.unlink()
    output.unlink()


@pytest.mark.long
@pytest.mark.parametrize('stride_on', ['1x1', '3x3'])
def test_an_imported_network_says_what_the_same_weights_say_under_their_names(
    state: State, imported: Tree, stride_on: StrideOn
) -> None:
    arch = imagenet_resnet(50, image_size=32, stride_on=stride_on)
    images_BxHxWxC = helpers.random_images(arch, 2)
    expected = np.array([reference_logits(state, np.asarray(image), 50, stride_on) for image in images_BxHxWxC])
    for router in (None, 'linear'):
        assert_close(started_logits(RoutedResNet(arch, router), imported, images_BxHxWxC), expected)


@pytest.mark.parametrize(
    ('depth', 'is_projected'), [(18, True), (20, False), (8, True)], ids=['18', 'CIFAR 20A', 'CIFAR 8B']
)
def test_imported_basic_blocks_say_what_the_same_weights_say_under_their_names(depth: int, is_projected: bool) -> None:
    if depth in BLOCKS:
        shapes, arch = torch_shapes(depth), imagenet_resnet(depth, image_size=32)
    else:
        shapes = cifar_shapes(depth, is_projected=is_projected)
        arch = cifar_resnet(depth, shortcut='projection' if is_projected else 'pad')
    state = random_state(shapes)
    backbone = pretrained.find(state, 'file')
    assert (backbone.depth, backbone.shortcut) == (depth, 'projection' if is_projected else 'pad')
    images_BxHxWxC = helpers.random_images(arch, 2)
    expected = np.array([reference_logits(state, np.asarray(image), depth) for image in images_BxHxWxC])
    assert_close(
        started_logits(RoutedResNet(arch, 'linear'), pretrained.from_torch(state, backbone, 'file'), images_BxHxWxC),
        expected,
    )


# --- The same in PyTorch, from its files. ---


@pytest.mark.torch
@pytest.mark.parametrize(('depth', 'stride_on'), [(50, '1x1'), (50, '3x3'), (18, '3x3'), (34, '3x3')])
def test_an_imported_network_says_what_it_says_in_pytorch(tmp_path: Path, depth: int, stride_on: StrideOn) -> None:
    import safetensors.torch
    import torch

    import reference_torch

    model = reference_torch.random_resnet(depth, 1000, stride_on)
    source, output = tmp_path / 'resnet.safetensors', tmp_path / 'resnet.npz'
    safetensors.torch.save_file(model.state_dict(), source)
    run_main(source, output)
    imported = weights_file.read(output)
    source.unlink()
    output.unlink()
    arch = imagenet_resnet(depth, image_size=64, stride_on=stride_on)
    images_BxHxWxC = helpers.random_images(arch, 4)
    with torch.inference_mode():
        expected = model(torch.from_numpy(np.array(images_BxHxWxC)).permute(0, 3, 1, 2)).numpy()
    for router in (None, 'linear'):
        assert_close(started_logits(RoutedResNet(arch, router), imported, images_BxHxWxC), expected, 1e-5)


@pytest.mark.torch
@pytest.mark.parametrize('depth', BLOCKS)
def test_pytorchs_modules_have_the_names_and_shapes_of_these_tests(depth: int) -> None:
    import torch

    import reference_torch

    with torch.device('meta'):
        tensors = reference_torch.ResNet(depth, 1000, '3x3').state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == torch_shapes(depth)


# --- Published weights on real images. ---

SHARED = Path(__file__).parent.parent.parent / 'shared'
PUBLISHED = SHARED / 'weights' / 'resnet20-12fca82f.th'
# Of the first 1000 test images, in the run that gives the published 91.73 % on all 10,000.
CORRECT = 920


@pytest.mark.skipif(not (PUBLISHED.is_file() and (SHARED / 'tfds').is_dir()), reason='no published weights beside')
def test_published_weights_classify_real_images_as_published(tmp_path: Path) -> None:
    run_main(PUBLISHED, tmp_path / 'resnet20.npz')
    variables = weights_file.read(tmp_path / 'resnet20.npz')
    trained_on = weights_file.read_input(tmp_path / 'resnet20.npz')
    images = datasets.source('cifar10', SHARED / 'tfds').open('test')
    assert isinstance(images, ImageSet) and trained_on is not None
    net = RoutedResNet(cifar_resnet(20), None)
    run = helpers.quick_jit(lambda images: net.apply(variables, images, masked(), train=False))
    normalised = augment.normalise(images.images_NxHxWxC[:1000], trained_on.mean, trained_on.std)
    answers_B = np.argmax(run(normalised).logits_BxY, axis=-1)
    assert abs(int(np.sum(answers_B == images.labels_N[:1000])) - CORRECT) <= 1


# --- Names, types, and what is told. ---


@pytest.mark.parametrize('depth', BLOCKS)
def test_every_tensor_goes_to_the_leaf_and_the_block_that_it_is_of(depth: int) -> None:
    shapes = torch_shapes(depth)
    numbers = {name: np.float32(number) for number, name in enumerate(shapes)}
    tensors = {name: np.broadcast_to(numbers[name], shape) for name, shape in shapes.items()}
    backbone = pretrained.find(tensors, 'file')
    assert backbone == ('imagenet_resnet', depth, 'projection', 1000)
    variables = pretrained.from_torch(tensors, backbone, 'file')
    expected = helpers.shapes(RoutedResNet(imagenet_resnet(depth), None))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), expected
    )
    params, stats = variables['params'], variables['batch_stats']
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[depth]
    for block in range(1, BLOCKS[depth][2]):
        ours = jax.tree.map(lambda leaf, k=block - 1: leaf[k].min(), variables_of(variables, 'stage3_blocks'))
        assert ours['params']['conv2']['kernel'] == numbers[f'layer3.{block}.conv2.weight']
        assert ours['params']['norm2']['scale'] == numbers[f'layer3.{block}.bn2.weight']
        assert ours['batch_stats']['norm1']['var'] == numbers[f'layer3.{block}.bn1.running_var']
    assert params['stage2_transition']['shortcut']['conv']['kernel'].max() == numbers['layer2.0.downsample.0.weight']
    assert stats['stem_norm']['mean'].max() == numbers['bn1.running_mean']
    leaves = {*np.concatenate([np.unique(leaf) for leaf in jax.tree.leaves(variables)])}
    assert leaves == {number for name, number in numbers.items() if not name.endswith('num_batches_tracked')}


@pytest.mark.parametrize('is_projected', [False, True])
@pytest.mark.parametrize('depth', CIFAR_PARAMETERS)
def test_every_tensor_of_a_cifar_resnet_goes_to_the_leaf_and_the_block_that_it_is_of(
    depth: int, is_projected: bool
) -> None:
    shapes = cifar_shapes(depth, is_projected=is_projected)
    numbers = {name: np.float32(number) for number, name in enumerate(shapes)}
    tensors = {name: np.broadcast_to(numbers[name], shape) for name, shape in shapes.items()}
    backbone = pretrained.find(tensors, 'file')
    assert backbone == ('cifar_resnet', depth, 'projection' if is_projected else 'pad', 10)
    variables = pretrained.from_torch(tensors, backbone, 'file')
    params = variables['params']
    if not is_projected:
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == CIFAR_PARAMETERS[depth]
    for stage, before in ((1, 0), (2, 1), (3, 1)):
        for block in range(before, (depth - 2) // 6):
            stack = variables_of(variables, f'stage{stage}_blocks')
            ours = jax.tree.map(lambda leaf, k=block - before: leaf[k].min(), stack)
            assert ours['params']['conv2']['kernel'] == numbers[f'layer{stage}.{block}.conv2.weight']
            assert ours['batch_stats']['norm1']['var'] == numbers[f'layer{stage}.{block}.bn1.running_var']
    assert params['head']['kernel'].max() == numbers['linear.weight']
    leaves = {*np.concatenate([np.unique(leaf) for leaf in jax.tree.leaves(variables)])}
    assert leaves == {number for name, number in numbers.items() if not name.endswith('num_batches_tracked')}


def test_each_number_of_a_tensor_goes_to_its_place() -> None:
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.uniform(0.5, 1.5, shape).astype(np.float32)
        for name, shape in cifar_shapes(20, is_projected=True).items()
    }
    params = pretrained.from_torch(tensors, pretrained.find(tensors, 'file'), 'file')['params']
    for ours, theirs in (
        (params['stem_conv']['kernel'], tensors['conv1.weight']),
        (params['stage2_blocks']['residual']['conv2']['kernel'][1], tensors['layer2.2.conv2.weight']),
        (params['stage3_transition']['shortcut']['conv']['kernel'], tensors['layer3.0.shortcut.0.weight']),
    ):
        for (o, i, y, x), number in np.ndenumerate(theirs):
            assert ours[y, x, i, o] == number
    np.testing.assert_array_equal(params['head']['kernel'].T, tensors['linear.weight'])


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
    variables = weights_file.read(output)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(variables['params']['head']['bias'], cast['fc.bias'].astype(np.float32))
    source.unlink()
    output.unlink()


@pytest.mark.parametrize(
    ('shapes', 'stride_on', 'told', 'flags'),
    [
        (
            torch_shapes(50),
            None,
            'ResNet-50, 25.56 M parameters, 1000 classes',
            '--config=imagenet_r50 --config.model.depth=50 --config.model.stride_on=3x3',
        ),
        (
            torch_shapes(50, num_classes=3),
            '1x1',
            'ResNet-50, 23.51 M parameters, 3 classes',
            '--config=imagenet_r50 --config.model.depth=50 --config.model.stride_on=1x1',
        ),
        (
            torch_shapes(18),
            None,
            'ResNet-18, 11.69 M parameters, 1000 classes',
            '--config=imagenet_r50 --config.model.depth=18',
        ),
        (
            cifar_shapes(20),
            None,
            'CIFAR ResNet-20, 0.27 M parameters, 10 classes',
            '--config=cifar10_r20 --config.model.depth=20',
        ),
        (
            cifar_shapes(8, is_projected=True),
            None,
            'CIFAR ResNet-8, 0.08 M parameters, 10 classes',
            '--config=cifar10_r20 --config.model.depth=8 --config.model.shortcut=projection',
        ),
    ],
    ids=['50', '50 of the paper', '18', 'CIFAR 20A', 'CIFAR 8B'],
)
def test_what_was_read_and_how_to_go_on_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    shapes: dict[str, tuple[int, ...]],
    stride_on: str | None,
    told: str,
    flags: str,
) -> None:
    monkeypatch.setattr(state_dict, 'read', lambda path: {name: np.zeros(shape) for name, shape in shapes.items()})
    monkeypatch.chdir(tmp_path)
    Path('net.safetensors').touch()
    run_main('net.safetensors', 'net.npz', stride_on=stride_on)
    first, second, third, *more = capsys.readouterr().out.splitlines()
    assert first == f'net.safetensors: {told}'
    assert 'mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225)' in second
    assert third == f'written to net.npz; train with {flags} --config.init_from=net.npz'
    assert ('finetune_folder:static' in ' '.join(more)) == ('imagenet_r50' in flags)
    kept = weights_file.read_stride_on('net.npz')
    assert f'stride_on={kept}' in flags if 'depth=50' in flags else kept is None
    Path('net.npz').unlink()


def test_the_file_says_what_its_weights_were_trained_on(tmp_path: Path) -> None:
    source = tmp_path / 'resnet8.safetensors'
    safetensors.numpy.save_file({name: np.zeros(shape) for name, shape in cifar_shapes(8).items()}, source)
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    ours = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for name, flags, expected in (
        ('own', {}, ours),
        ('other', {'mean': '0.5,0.25,1', 'std': '.5,1,0.1'}, ((0.5, 0.25, 1.0), (0.5, 1.0, 0.1))),
    ):
        output = tmp_path / f'{name}.npz'
        run_main(source, output, **flags)
        assert weights_file.read_input(output) == (*expected, 'resnet8.safetensors', sha256)
        assert set(weights_file.read(output)) == {'params', 'batch_stats'}


@pytest.mark.parametrize(
    'flags',
    [
        {'mean': '0.5'},
        {'mean': '0.5,0.5,nan'},
        {'mean': '127,127,127'},
        {'std': '1,1,0'},
        {'std': 'a,b,c'},
        {'mean': '(.5,.5,.5)'},
    ],
)
def test_a_normalisation_that_is_none_is_refused(tmp_path: Path, flags: dict[str, str]) -> None:
    source, output = tmp_path / 'resnet8.safetensors', tmp_path / 'resnet8.npz'
    source.touch()
    with pytest.raises(
        InputError, match=rf'--{(name := next(iter(flags)))} is .*give three numbers, .* as --{name}=0\.'
    ):
        run_main(source, output, **flags)
    assert not output.exists()


def test_a_place_of_the_stride_is_refused_where_there_is_no_bottleneck(tmp_path: Path) -> None:
    safetensors.numpy.save_file(
        {name: np.zeros(shape) for name, shape in cifar_shapes(8).items()}, tmp_path / 'a.safetensors'
    )
    with pytest.raises(InputError, match=r'^--stride_on is of bottlenecks, and a CIFAR ResNet-8 has none'):
        run_main(tmp_path / 'a.safetensors', tmp_path / 'a.npz', stride_on='1x1')
    assert not (tmp_path / 'a.npz').exists()


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
    'bottlenecks without their third convolution': (
        lambda: {name: tensor for name, tensor in zero_state().items() if '3.weight' not in name},
        r'layer1\.0\.conv1\.weight|has layer1\.0\.bn3',
    ),
    'CIFAR ResNet with a head of another name': (
        lambda: {name.replace('linear', 'fc'): np.zeros(shape) for name, shape in cifar_shapes(8).items()},
        r"has fc\.(bias|weight), which is no part of a plain CIFAR ResNet-8: .*pytorch_resnet_cifar10's",
    ),
    'CIFAR ResNet without a block': (
        lambda: {name: np.zeros(shape) for name, shape in cifar_shapes(14).items() if not name.startswith('layer3.1')},
        r'has \(2, 2, 1, 0\) blocks .* of CIFAR ResNets \(n, n, n, 0\)',
    ),
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
    'variance below zero': (
        lambda: edited(**{'bn1.running_var': -np.ones(64, np.float16)}),
        r'bn1\.running_var has variances below 0: fetch the file again',
    ),
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


def test_flags_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'--source=FILE\.safetensors'):
        run_main(None, tmp_path / 'output.npz')
    with pytest.raises(InputError, match=r'--output=FILE\.npz'):
        run_main(tmp_path / 'weights.safetensors', None)


def test_a_file_is_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'weights\.safetensors is a file, and --download is of torchvision:NAME and'):
        run_main(tmp_path / 'weights.safetensors', tmp_path / 'output.npz', download=True)


@pytest.mark.parametrize('library', ['torchvision', 'timm'])
def test_published_weights_are_asked_for_by_name(library: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf'^{library}:resnet19 names no network that we have: .*{library}:resnet18'):
        run_main(f'{library}:resnet19', tmp_path / 'output.npz')
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_in_a_librarys_cache_is_to_be_fetched_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --download alone nothing would be fetched: the cache has it."""
    cached = hub.Published('timm:resnet18.a1_in1k', tmp_path / 'resnet18.pth', (0.5,) * 3, (0.5,) * 3)
    cached.path.write_text('<html>Not found</html>')
    monkeypatch.setattr(hub, 'find', lambda *_, **__: cached)
    with pytest.raises(
        InputError,
        match=r'resnet18\.pth is what the cache has of timm:resnet18\.a1_in1k, and is damaged: delete it, and',
    ):
        run_main('timm:resnet18', tmp_path / 'output.npz')


def test_an_output_that_cannot_be_written_is_told(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_dict, 'read', lambda path: state)
    (tmp_path / 'file').touch()
    (tmp_path / 'weights.safetensors').touch()
    with pytest.raises(InputError, match=r'output\.npz cannot be written \(.+try again'):
        run_main(tmp_path / 'weights.safetensors', tmp_path / 'file' / 'output.npz')


def test_the_command_overwrites_nothing_and_says_so(tmp_path: Path) -> None:
    output = tmp_path / 'output.npz'
    output.write_bytes(b'years of work')
    said: subprocess.CompletedProcess[str] = helpers.run_command(
        'import_weights', f'--source={tmp_path}/weights.safetensors', f'--output={output}'
    )
    assert (said.returncode, said.stdout) == (2, '')
    assert said.stderr == f'error: {output} is there already: give another --output.\n'
    assert helpers.all_bytes(tmp_path) == {'output.npz': b'years of work'}


# --- Into a network. ---


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
    jax.tree.map(np.testing.assert_array_equal, started, helpers.without_routers(given))


def test_a_runs_weights_are_a_file_to_start_from(tmp_path: Path) -> None:
    given = variables_of_kind('linear', GIVEN)
    Workdir(tmp_path).write_weights(given)
    imported = weights_file.read(tmp_path / 'weights.npz')
    jax.tree.map(
        np.testing.assert_array_equal, pretrained.into(variables_of_kind('linear', FRESH), imported, ''), given
    )


MEAN = 'batch_stats/stage1_blocks/residual/norm1/mean'
MISFITS: dict[str, tuple[str | None, str, Any, str]] = {
    'missing leaf': ('linear', MEAN, None, 'is missing in it and float32 (2, 4) in the network'),
    'missing router': ('linear', 'params/stage2_blocks/router/decide/bias', None, 'is missing in it'),
    'unknown leaf': (
        None,
        'params/stage1_blocks/residual/conv1/bias',
        np.zeros((2, 4), np.float32),
        'is float32 (2, 4) in it and missing in the network',
    ),
    'head of two minds': (
        None,
        'params/head/kernel',
        np.zeros((8, 1000), np.float32),
        'is float32 (8, 1000) in it and float32 (8, 10) in the network',
    ),
    'shape': (
        None,
        'params/stem_conv/kernel',
        np.zeros((3, 3, 3, 4), np.float32),
        'is float32 (3, 3, 3, 4) in it and float32 (3, 3, 1, 4) in the network',
    ),
    'missing head': (None, 'params/head/bias', None, 'is missing in it and float32 (10,) in the network'),
    'type': (None, MEAN, np.zeros((2, 4)), 'is float64 (2, 4) in it and float32 (2, 4) in the network'),
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


def test_a_file_of_another_depth_is_said_to_be() -> None:
    networks = [RoutedResNet(cifar_resnet(depth), router=None) for depth in (8, 14)]
    fresh, given = (jax.eval_shape(functools.partial(fresh_variables, network, 0)) for network in networks)
    with pytest.raises(
        InputError, match=r'; its backbone is cifar_resnet of depth 14, and that of the network cifar_resnet of depth 8'
    ):
        pretrained.into(fresh, given, 'some.npz')


def with_head(variables: Tree, features: int, num_classes: int) -> Tree:
    head = {'kernel': np.ones((features, num_classes), np.float32), 'bias': np.ones(num_classes, np.float32)}
    return variables | {'params': variables['params'] | {'head': head}}


@pytest.mark.parametrize('router', [None, 'linear'])
def test_a_head_of_other_classes_stays_fresh(router: str | None) -> None:
    fresh, given = variables_of_kind(router, FRESH), variables_of_kind(router, GIVEN)
    assert pretrained.other_classes(fresh, given) is None
    other = with_head(given, 8, 1000)
    assert pretrained.other_classes(fresh, other) == 1000
    started = pretrained.into(fresh, other, 'file')
    jax.tree.map(np.testing.assert_array_equal, started, with_heads_of(given, fresh))


def with_heads_of(variables: Tree, other: Tree) -> Tree:
    return variables | {'params': variables['params'] | {'head': other['params']['head']}}


def test_a_head_of_other_features_is_refused_whatever_its_classes() -> None:
    fresh = variables_of_kind(None, FRESH)
    other = with_head(variables_of_kind(None, GIVEN), 16, 1000)
    assert pretrained.other_classes(fresh, other) is None
    with pytest.raises(InputError, match='params/head/'):
        pretrained.into(fresh, other, 'file')


def test_routers_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match=r'router.* is missing in it'):
        pretrained.into(variables_of_kind('linear', FRESH), variables_of_kind('conv', GIVEN), 'some.npz')


def nested(leaves: dict[str, np.ndarray]) -> Tree:
    return traverse_util.unflatten_dict(leaves, sep='/')


# --- The file. ---


@pytest.mark.parametrize(
    'case', ['text', 'one array', 'objects', 'truncated', 'a leaf inside a leaf', 'missing', 'a state dict']
)
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / 'weights.npz'
    arrays: dict[str, Any] = {'params/head/bias': np.zeros(3)}
    if case == 'objects':
        arrays['params/head/kernel'] = np.array([{}], object)
    elif case == 'a leaf inside a leaf':
        arrays['params/head/bias/scale'] = np.zeros(3)
    elif case == 'a state dict':
        arrays = {'fc.bias': np.zeros(3)}
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
        weights_file.read(path)
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize(
    ('leaf', 'value', 'reason'),
    [
        ('params/head/kernel', np.array([1.0, np.nan]), 'params/head/kernel has values that are not finite'),
        ('batch_stats/norm/mean', np.array([-np.inf, 1.0]), 'batch_stats/norm/mean has values that are not finite'),
        ('batch_stats/norm/var', np.array([1.0, -0.5]), 'batch_stats/norm/var has variances below 0'),
        ('params/head/kernel', np.array([1, 2], np.int32), 'params/head/kernel is of type int32, and weights are'),
        ('params/head/kernel', np.array([1j, 2j], np.complex64), 'params/head/kernel is of type complex64'),
        ('params/head/kernel', np.array([True, False]), 'params/head/kernel is of type bool'),
    ],
)
def test_numbers_that_no_network_computes_with_are_refused_by_leaf(
    tmp_path: Path, leaf: str, value: np.ndarray, reason: str
) -> None:
    path = tmp_path / 'weights.npz'
    np.savez(path, **{'params/head/bias': np.zeros(3, np.float32), leaf: value})
    with pytest.raises(
        InputError, match=rf'cannot be read as weights \({reason}.*\): restore it, or train or import it'
    ):
        weights_file.read(path)


def test_numbers_of_another_order_of_bytes_are_read(tmp_path: Path) -> None:
    path = tmp_path / 'weights.npz'
    np.savez(path, **{'params/head/bias': np.arange(3, dtype='>f4')})
    bias = weights_file.read(path)['params']['head']['bias']
    assert bias.dtype.isnative and bias.dtype == np.float32 and bias.tolist() == [0, 1, 2]


@pytest.mark.parametrize('suffix', state_dict.SUFFIXES)
def test_a_file_that_is_not_imported_yet_is_said_to_be(suffix: str) -> None:
    with pytest.raises(InputError, match=rf'net\{suffix} is to be imported first: .* --source=net\{suffix} --output='):
        weights_file.read(f'net{suffix}')
