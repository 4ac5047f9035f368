"""Backbones as plain data: how many blocks, of which shapes, and where a stage's stride sits."""

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest

from codinet_jax.models.architecture import Architecture, cifar_resnet, imagenet_resnet
from codinet_jax.runtime.errors import InputError

EVERY_KIND = [
    cifar_resnet(8),
    cifar_resnet(110),
    cifar_resnet(14, image_size=9, shortcut='projection'),  # an odd size: halving rounds up
    imagenet_resnet(18),
    imagenet_resnet(34, image_size=225),
    imagenet_resnet(50),
    imagenet_resnet(101, stride_on='1x1'),
    imagenet_resnet(152, image_size=225),
]


def kernels(arch: Architecture) -> set[tuple[int, ...]]:
    return {tuple(conv.kernel for conv in block.convs) for block in arch.blocks}


@pytest.mark.parametrize(('depth', 'blocks'), [(8, 3), (14, 6), (20, 9), (32, 15), (74, 36), (110, 54)])
def test_a_cifar_resnet_of_depth_6n_plus_2_has_3n_basic_blocks(depth: int, blocks: int) -> None:
    arch = cifar_resnet(depth)
    assert arch.num_blocks == len(arch.blocks) == blocks
    assert kernels(arch) == {(3, 3)}
    # The depth of the name counts the stem, two convolutions a block and the head.
    assert 1 + sum(len(block.convs) for block in arch.blocks) + 1 == depth


@pytest.mark.parametrize(
    ('depth', 'per_stage', 'block'),
    [
        (18, (2, 2, 2, 2), (3, 3)),
        (34, (3, 4, 6, 3), (3, 3)),
        (50, (3, 4, 6, 3), (1, 3, 1)),
        (101, (3, 4, 23, 3), (1, 3, 1)),
        (152, (3, 8, 36, 3), (1, 3, 1)),
    ],
    ids=str,
)
def test_an_imagenet_resnet_has_the_blocks_of_table_1(
    depth: int, per_stage: tuple[int, ...], block: tuple[int, ...]
) -> None:
    arch = imagenet_resnet(depth)
    assert tuple(stage.repeats + (stage.transition is not None) for stage in arch.stages) == per_stage
    assert arch.num_blocks == sum(per_stage)
    assert kernels(arch) == {block}
    assert 1 + sum(len(block.convs) for block in arch.blocks) + 1 == depth


@pytest.mark.parametrize('arch', EVERY_KIND)
def test_every_block_reads_what_the_one_before_it_writes(arch: Architecture) -> None:
    size = arch.stem_size if arch.stem == 'cifar' else -(-arch.stem_size // 2)
    channels = arch.stem_channels
    for block in arch.blocks:
        assert (block.in_size, block.in_channels) == (size, channels)
        size, channels = block.out_size, block.channels
    assert arch.out_channels == channels


@pytest.mark.parametrize('arch', EVERY_KIND)
def test_a_skip_is_the_identity_exactly_where_the_shape_stays(arch: Architecture) -> None:
    for block in arch.blocks:
        keeps_shape = (block.in_size, block.in_channels) == (block.out_size, block.channels)
        assert (block.shortcut == 'identity') == keeps_shape


def test_the_stages_halve_the_image_and_widen() -> None:
    def outputs(arch: Architecture) -> list[tuple[int, int]]:
        return [(stage.block.out_size, stage.block.channels) for stage in arch.stages]

    assert outputs(cifar_resnet(20)) == [(32, 16), (16, 32), (8, 64)]
    assert outputs(cifar_resnet(20, image_size=9)) == [(9, 16), (5, 32), (3, 64)]
    assert outputs(imagenet_resnet(18)) == [(56, 64), (28, 128), (14, 256), (7, 512)]
    assert outputs(imagenet_resnet(50)) == [(56, 256), (28, 512), (14, 1024), (7, 2048)]


@pytest.mark.parametrize('arch', [cifar_resnet(14), imagenet_resnet(18, stride_on='1x1'), imagenet_resnet(18)])
def test_a_stage_of_basic_blocks_strides_in_its_first_convolution(arch: Architecture) -> None:
    strides = [tuple(conv.stride for conv in block.convs) for block in arch.blocks]
    assert strides == [(1, 1), (1, 1), *[(2, 1), (1, 1)] * (len(arch.stages) - 1)]


@pytest.mark.parametrize(('stride_on', 'strided'), [('1x1', (2, 1, 1)), ('3x3', (1, 2, 1))])
def test_a_bottleneck_stage_strides_where_it_is_told(stride_on: str, strided: tuple[int, ...]) -> None:
    arch = imagenet_resnet(50, stride_on=stride_on)  # type: ignore[arg-type]
    first = [stage.transition for stage in arch.stages if stage.transition]
    assert [tuple(conv.stride for conv in block.convs) for block in first] == [(1, 1, 1), strided, strided, strided]
    assert all(conv.stride == 1 for stage in arch.stages for conv in stage.block.convs)
    assert (arch.stride_on, imagenet_resnet(34, stride_on='1x1').stride_on, cifar_resnet(8).stride_on) == (
        stride_on,
        None,
        None,
    )


@pytest.mark.parametrize(('depth', 'near'), [(21, 20), (111, 110), (18, 20), (2, 8), (0, 8), (-110, 8)])
def test_another_depth_is_refused_and_the_nearest_one_named(depth: int, near: int) -> None:
    with pytest.raises(InputError, match=f'depth is {depth}, and a CIFAR ResNet .*: try {near}'):
        cifar_resnet(depth)
    cifar_resnet(near)


def test_other_imagenet_depths_strides_and_shortcuts_are_refused() -> None:
    with pytest.raises(InputError, match=r'depth is 20, and an ImageNet ResNet has 18, 34, 50, 101 or 152'):
        imagenet_resnet(20)
    with pytest.raises(InputError, match=r"stride_on is '7x7'; it must be '1x1' or '3x3'"):
        imagenet_resnet(50, stride_on='7x7')  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"shortcut is 'identity'; it must be 'pad' or 'projection'"):
        cifar_resnet(20, shortcut='identity')


@pytest.mark.parametrize(('make', 'depth'), [(cifar_resnet, 8), (imagenet_resnet, 18)])
def test_counts_of_numpys_can_be_written_down(make: Callable[..., Architecture], depth: int) -> None:
    counted = make(depth, image_size=np.int64(32), image_channels=np.int64(1), num_classes=np.array([0, 2]).max() + 1)
    assert counted == make(depth, image_size=32, image_channels=1, num_classes=3)
    json.dumps(dataclasses.asdict(counted))
