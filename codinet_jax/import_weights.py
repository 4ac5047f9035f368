"""Turns a ResNet trained elsewhere into weights to start from:

    python -m codinet_jax.import_weights --source=resnet50.safetensors --output=resnet50.npz
    python -m codinet_jax.import_weights --source=timm:resnet18 --output=resnet18.npz --download

Takes the state dict of torchvision's or timm's resnet18, 34, 50, 101 or 152, or of a CIFAR ResNet under the names of
pytorch_resnet_cifar10, as .safetensors, .pth, .pt or .th; PyTorch is not needed. `torchvision:resnet34` and
`timm:resnet18` name the weights that these packages publish, where they are installed: they are taken from the
package's own cache, and fetched into it only with `--download`. Train from what is written with
`--config.init_from=resnet50.npz`; routers start fresh, and pixels are normalised as the file says.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
from absl import flags

from codinet_jax.runtime import command, files
from codinet_jax.runtime.errors import InputError

if TYPE_CHECKING:
    from codinet_jax.models import hub, pretrained

SOURCE = flags.DEFINE_string(
    'source', None, 'The weights to read: a .safetensors, .pth, .pt or .th file, or torchvision:NAME or timm:NAME.'
)
OUTPUT = flags.DEFINE_string('output', None, 'A new .npz file to write.')
DOWNLOAD = flags.DEFINE_bool('download', False, 'Fetch published weights that are not in the cache of their library.')
MEAN = flags.DEFINE_list('mean', None, "What was taken from pixels in [0, 1]: R,G,B; else as published, or ImageNet's.")
STD = flags.DEFINE_list('std', None, "What they were divided by then: R,G,B; else as published, or ImageNet's.")
STRIDE_ON = flags.DEFINE_enum(
    'stride_on', None, ['1x1', '3x3'], 'The convolution of bottlenecks that strides; else 3x3, as in both packages.'
)


def main(argv: Sequence[str]) -> None:
    del argv
    if SOURCE.value is None:
        raise InputError(
            'Say which weights: --source=FILE.safetensors, a .pth or .th, or timm:NAME or torchvision:NAME.'
        )
    if OUTPUT.value is None:
        raise InputError('Say where to: --output=FILE.npz.')
    output = files.expanded(OUTPUT.value)
    if output.exists():
        raise InputError(f'{output} is there already: give another --output.')

    from codinet_jax.models import hub, pretrained, state_dict, weights_file

    given_mean = _per_channel(MEAN, pretrained.IMAGENET_MEAN)
    given_std = _per_channel(STD, pretrained.IMAGENET_STD)
    source, recorded = _source(SOURCE.value)
    mean, std = given_mean or recorded.mean, given_std or recorded.std
    try:
        tensors = state_dict.read(recorded.path)
    except InputError as error:
        if not hub.is_name(SOURCE.value) or files.refused(recorded.path, error):
            raise
        raise InputError(
            f'{recorded.path} is what the cache has of {source}, and is damaged: delete it, and give --download.'
        ) from error
    backbone = pretrained.find(tensors, source)
    architecture = backbone.architecture
    if STRIDE_ON.value and not architecture.stride_on:
        raise InputError(f'--stride_on is of bottlenecks, and a {backbone} has none: leave it out.')
    stride_on = STRIDE_ON.value or architecture.stride_on
    variables = pretrained.from_torch(tensors, backbone, source)
    sha256 = hashlib.sha256(recorded.path.read_bytes()).hexdigest()
    weights_file.write(output, variables, weights_file.WeightsInput(mean, std, recorded.name, sha256), stride_on)
    millions = sum(leaf.size for leaf in jax.tree.leaves(variables['params'])) / 1e6
    print(f'{source}: {backbone}, {millions:.2f} M parameters, {backbone.num_classes} classes')
    print(f'its pixels are normalised by mean {mean} and std {std}; other ones are given by --mean and --std')
    print(f'written to {output}; train with {" ".join(_config_flags(backbone, stride_on))} --config.init_from={output}')
    if stride_on:
        print(
            f'(its bottlenecks stride on {stride_on}, which no tensor tells: the other place is given by --stride_on)'
        )
    if not backbone.is_cifar:
        print('(on photographs of your own by --config=finetune_folder:static and --config.data_dir=DIR in its place)')


def _source(given: str) -> tuple[str, 'hub.Published']:
    """What to call the weights, and where they are."""
    from codinet_jax.models import hub, pretrained

    if hub.is_name(given):
        published = hub.find(given, may_download=DOWNLOAD.value)
        return published.name, published
    if DOWNLOAD.value:
        raise InputError(
            f'--source={given} is a file, and --download is of torchvision:NAME and timm:NAME: leave it out.'
        )
    path = files.expanded(given)
    return str(path), hub.Published(path.name, path, pretrained.IMAGENET_MEAN, pretrained.IMAGENET_STD)


def _config_flags(backbone: 'pretrained.Backbone', stride_on: str | None) -> list[str]:
    """What to give `codinet_jax.main` to train this network."""
    if backbone.is_cifar:
        config = 'cifar100_r32' if backbone.num_classes == 100 else 'cifar10_r20'
        shortcut = ['--config.model.shortcut=projection'] if backbone.shortcut == 'projection' else []
        return [f'--config={config}', f'--config.model.depth={backbone.depth}', *shortcut]
    strided = [f'--config.model.stride_on={stride_on}'] if stride_on else []
    return ['--config=imagenet_r50', f'--config.model.depth={backbone.depth}', *strided]


def _per_channel(flag: flags.FlagHolder[list[str] | None], like: tuple[float, ...]) -> tuple[float, ...] | None:
    if flag.value is None:
        return None
    try:
        numbers = tuple(map(float, flag.value))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(0 <= number <= 1 for number in numbers) or (flag is STD and min(numbers) == 0):
        raise InputError(
            f'--{flag.name} is {",".join(flag.value)}: give three numbers, of pixels in [0, 1], as '
            f'--{flag.name}={",".join(map(str, like))}.'
        )
    return numbers


if __name__ == '__main__':
    command.run(main)
