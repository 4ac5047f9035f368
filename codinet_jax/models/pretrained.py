"""Weights from elsewhere: published ResNets' under our names, and a file's in a new network.

Read are torchvision's and timm's ImageNet ResNets, and the CIFAR ResNets of He et al. under the names of
pytorch_resnet_cifar10. What they call `layer2.3.conv1.weight` is block 2 of our
`params/stage2_blocks/residual/conv1/kernel`: a stage's first block is its transition where it changes the shape, and
the others are stacked along a leading axis. Every tensor is accounted for.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from codinet_jax.models.architecture import (
    BASIC_DEPTHS,
    BLOCKS_PER_STAGE,
    DEEPEST,
    Architecture,
    Shortcut,
    cifar_resnet,
    imagenet_resnet,
)
from codinet_jax.models.network import RoutedResNet, fresh_variables
from codinet_jax.models.routers import is_of_routing
from codinet_jax.runtime.errors import InputError

Path = tuple[str, ...]

# Of pixels in [0, 1]: torchvision's networks, nearly all of timm's and pytorch_resnet_cifar10's are trained under it.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
_SHORTCUT = {'conv': '0', 'norm': '1'}
# Axes by the number of them: convolutions are OIHW there and HWIO here, a dense layer's kernel is transposed.
_TO_TORCH = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
_FROM_TORCH = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
_FLOATS = ('bfloat16', 'float16', 'float32', 'float64')
_ADVICE = "give the weights of a plain ResNet of torchvision's, timm's or pytorch_resnet_cifar10's"


class Backbone(NamedTuple):
    """A published ResNet. `kind` is as in `config.model.backbone`, `shortcut` how its blocks change the shape."""

    kind: str
    depth: int
    shortcut: Shortcut
    num_classes: int

    def __str__(self) -> str:
        return f'{"CIFAR " if self.is_cifar else ""}ResNet-{self.depth}'

    @property
    def is_cifar(self) -> bool:
        return self.kind == 'cifar_resnet'

    @property
    def architecture(self) -> Architecture:
        if self.is_cifar:
            return cifar_resnet(self.depth, shortcut=self.shortcut, num_classes=self.num_classes)
        return imagenet_resnet(self.depth, num_classes=self.num_classes)


def find(tensors: Mapping[str, Any], source: str) -> Backbone:
    """The ResNet whose tensors bear these names; it has as many classes as its head's bias has values.

    Raises:
      InputError: it is none that we have.
    """
    blocks = {tuple(name.split('.')[:2]) for name in tensors if name.count('.') > 2}
    counts = tuple(sum(stage == f'layer{i}' for stage, _ in blocks) for i in range(1, 5))
    shortcut: Shortcut = 'projection' if 'layer2.0.shortcut.0.weight' in tensors else 'pad'
    match _kind_and_depth(counts, is_basic='layer1.0.conv3.weight' not in tensors):
        case 'cifar_resnet', depth:
            return Backbone('cifar_resnet', depth, shortcut, _num_classes(tensors, 'linear.bias', 10))
        case 'imagenet_resnet', depth:
            return Backbone('imagenet_resnet', depth, 'projection', _num_classes(tensors, 'fc.bias', 1000))
    known = ', '.join(f'{depth} {wanted}' for depth, wanted in BLOCKS_PER_STAGE.items())
    raise InputError(
        f'{source} has {counts} blocks in layer1 to layer4, and the depths known are {known}; of CIFAR ResNets '
        f'(n, n, n, 0): {_ADVICE}.'
    )


def kind_and_depth(variables: Mapping[str, Any], source: str) -> tuple[str, int]:
    """Of the ResNet whose variables these are: what `config.model` calls its backbone and depth.

    Raises:
      InputError: it is none that we have.
    """
    leaves = traverse_util.flatten_dict(dict(variables))
    blocks: dict[int, int] = {}  # by stage
    for path, leaf in leaves.items():
        if path[0] == 'params' and path[2:] == ('residual', 'conv1', 'kernel'):
            stage = int(path[1].removeprefix('stage').partition('_')[0])
            blocks[stage] = blocks.get(stage, 0) + (len(leaf) if _is_stack(path) else 1)
    counts = tuple(blocks.get(i, 0) for i in range(1, max([4, *blocks]) + 1))
    is_basic = not any(path[2:4] == ('residual', 'conv3') for path in leaves)
    found = _kind_and_depth(counts, is_basic=is_basic)
    if found is None:
        raise InputError(
            f'{source} has {counts} blocks in its stages, as no static ResNet that we know has: give what '
            'codinet_jax.import_weights wrote, or the weights.npz of a static run.'
        )
    return found


def _kind_and_depth(counts: tuple[int, ...], *, is_basic: bool) -> tuple[str, int] | None:
    """Of the ResNet with so many blocks in each of four stages; None if there is none."""
    repeats = counts[0]
    if counts == (repeats, repeats, repeats, 0) and 0 < repeats <= (DEEPEST - 2) // 6:
        return 'cifar_resnet', 6 * repeats + 2
    for depth, wanted in BLOCKS_PER_STAGE.items():
        if counts == wanted and is_basic == (depth in BASIC_DEPTHS):
            return 'imagenet_resnet', depth
    return None


def from_torch(tensors: Mapping[str, np.ndarray], backbone: Backbone, source: str) -> dict[str, Any]:
    """The variables of our static network, in float32, from the state dict of a published one.

    Args:
      tensors: by name, in PyTorch's layouts.
      backbone: see `find`.
      source: what to call the tensors in an error.

    Raises:
      InputError: a tensor is unknown, missing, of another shape, not of floating point, not finite, or holds a
        variance below 0.
    """
    network = RoutedResNet(backbone.architecture, router=None)
    leaves = traverse_util.flatten_dict(jax.eval_shape(lambda: fresh_variables(network, 0)))
    names = {path: _torch_names(path, leaf.shape, backbone) for path, leaf in leaves.items()}
    _account_for(tensors, {name for of_leaf in names.values() for name in of_leaf}, backbone, source)
    variables = {}
    for path, leaf in leaves.items():
        shape = leaf.shape[1:] if _is_stack(path) else leaf.shape
        parts = [_converted(tensors[name], shape, f'{source}: {name}', backbone) for name in names[path]]
        variables[path] = np.stack(parts) if _is_stack(path) else np.ascontiguousarray(parts[0])
    return traverse_util.unflatten_dict(variables)


def into(
    variables: Mapping[str, Any], imported: Mapping[str, Any], source: str, *, is_head_fresh: bool = False
) -> dict[str, Any]:
    """A network's fresh variables with given ones, as a file's, in their place.

    Routers stay fresh where none are given, and are left out where the network is static. A head of other classes
    stays fresh, see `other_classes`, or if `is_head_fresh`. All else must be in both.

    Args:
      variables: of the network; only the values of routers and head are looked at.
      imported: as `from_torch` gives them or a workdir's weights hold them.
      source: what to call what is given in an error.

    Raises:
      InputError: the two differ in a leaf, its shape or its type.
    """
    ours, theirs = traverse_util.flatten_dict(variables), traverse_util.flatten_dict(imported)
    wanted = ours if any(map(is_of_routing, theirs)) else _without_routers(ours)
    given = theirs if any(map(is_of_routing, ours)) else _without_routers(theirs)
    if is_head_fresh or other_classes(variables, imported) is not None:
        wanted, given = ({path: leaf for path, leaf in of.items() if 'head' not in path} for of in (wanted, given))
    for path in wanted | given:
        here, there = (_described(leaves.get(path)) for leaves in (wanted, given))
        if here != there:
            raise InputError(
                f'{source} does not fit this network: {"/".join(path)} is {there} in it and {here} in the network; '
                f'{_alike(variables, imported)}.'
            )
    return traverse_util.unflatten_dict(ours | given)


def _alike(variables: Mapping[str, Any], imported: Mapping[str, Any]) -> str:
    """What to make alike where a file does not fit: backbone and depth, if they can be found and are not."""
    try:
        ours, theirs = kind_and_depth(variables, ''), kind_and_depth(imported, '')
    except InputError:
        ours = theirs = ('', 0)
    if ours == theirs:
        return 'give weights of the same backbone, classes and routers'
    own, other = (f'{kind} of depth {depth}' for kind, depth in (ours, theirs))
    return f'its backbone is {other}, and that of the network {own}: give other weights, or a network of that backbone'


def teacher(model: RoutedResNet, imported: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The file's weights as the variables of a network's static twin, to be distilled.

    Raises:
      InputError: they are not of this network, or their head is of other classes.
    """
    static = model.static
    shapes = jax.eval_shape(lambda: fresh_variables(static, 0))
    if classes := other_classes(shapes, imported):
        raise InputError(
            f'{source} tells {classes} classes apart, and has nothing to teach a network of '
            f'{model.architecture.num_classes}: train it on these first (method=static), or leave distillation out.'
        )
    return into(shapes, imported, source)


def one_of_two(architecture: Architecture, imported: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The file's weights as the variables of one of the two static networks that one that resumes is made of.

    Raises:
      InputError: they are not of this architecture, or their head is of other classes.
    """
    shapes = jax.eval_shape(lambda: fresh_variables(RoutedResNet(architecture, None), 0))
    if classes := other_classes(shapes, imported):
        raise InputError(
            f'{source} tells {classes} classes apart, and there are {architecture.num_classes}: train it on these '
            'first (method=static).'
        )
    return into(shapes, imported, source)


def other_classes(variables: Mapping[str, Any], imported: Mapping[str, Any]) -> int | None:
    """How many classes the file's head tells apart, if it differs from the network's in that and in nothing else."""
    ours, theirs = _head_shape(variables), _head_shape(imported)
    return theirs[1] if theirs[0] and ours[0] == theirs[0] and ours[1] != theirs[1] else None


def _head_shape(variables: Mapping[str, Any]) -> tuple[int, int]:
    """Features and classes of a head; of one that is none, zeros."""
    leaves = traverse_util.flatten_dict(dict(variables))
    kernel, bias = (leaves.get(('params', 'head', name)) for name in ('kernel', 'bias'))
    if kernel is None or bias is None or len(kernel.shape) != 2 or bias.shape != kernel.shape[1:]:
        return 0, 0
    return kernel.shape


def _num_classes(tensors: Mapping[str, Any], bias: str, published: int) -> int:
    return max(1, tensors[bias].size) if bias in tensors else published


def _torch_names(path: Path, shape: tuple[int, ...], backbone: Backbone) -> list[str]:
    """What a leaf of ours is called there; of a stack, every block's name in order."""
    _, module, *inner, leaf = path
    if not inner:
        names = {'stem_conv': 'conv1', 'stem_norm': 'bn1', 'head': 'linear' if backbone.is_cifar else 'fc'}
        return [f'{names[module]}.{_LEAVES[leaf]}']
    part, layer = inner
    shortcut = 'shortcut' if backbone.is_cifar else 'downsample'
    name = f'{shortcut}.{_SHORTCUT[layer]}' if part == 'shortcut' else layer.replace('norm', 'bn')
    stage = int(module.removeprefix('stage').partition('_')[0])
    before = 0 if backbone.architecture.stages[stage - 1].transition is None else 1
    blocks = range(before, before + shape[0]) if _is_stack(path) else [0]
    return [f'layer{stage}.{block}.{name}.{_LEAVES[leaf]}' for block in blocks]


def _account_for(tensors: Mapping[str, Any], known: set[str], backbone: Backbone, source: str) -> None:
    counters = {name.replace('running_mean', 'num_batches_tracked') for name in known if 'running_mean' in name}
    for name in tensors:
        if name not in known | counters:
            raise InputError(f'{source} has {name}, which is no part of a plain {backbone}: {_ADVICE}.')
    if missing := sorted(known - tensors.keys()):
        raise InputError(f'{source} has no {missing[0]}, which is part of every {backbone}: {_ADVICE}.')


def _converted(tensor: np.ndarray, shape: tuple[int, ...], name: str, backbone: Backbone) -> np.ndarray:
    """One tensor in float32 and our layout."""
    torch_shape = tuple(shape[axis] for axis in _TO_TORCH[len(shape)])
    if tensor.shape != torch_shape:
        raise InputError(f'{name} has shape {tensor.shape} where a plain {backbone} has {torch_shape}: {_ADVICE}.')
    if tensor.dtype.name not in _FLOATS:
        raise InputError(f'{name} is of type {tensor.dtype.name}: give weights of type {", ".join(_FLOATS)}.')
    with np.errstate(over='ignore'):  # what is too large for float32 is told of below
        values = tensor.astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(f'{name} has values that are not finite in float32: fetch the file again, or give another.')
    if name.endswith('running_var') and (values < 0).any():
        raise InputError(f'{name} has variances below 0: fetch the file again, or give another.')
    return values.transpose(_FROM_TORCH[values.ndim])


def _is_stack(path: Path) -> bool:
    return path[1].endswith('_blocks')


def _without_routers(leaves: Mapping[Path, Any]) -> dict[Path, Any]:
    return {path: leaf for path, leaf in leaves.items() if not is_of_routing(path)}


def _described(leaf: Any) -> str:
    return 'missing' if leaf is None else f'{leaf.dtype.name} {tuple(leaf.shape)}'
