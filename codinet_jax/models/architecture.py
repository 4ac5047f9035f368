"""A residual network as plain data: stem, stages and every block's shapes, from a depth and an image size."""

import dataclasses
import operator
from typing import Literal, NamedTuple

from codinet_jax.runtime.errors import InputError

Shortcut = Literal['identity', 'pad', 'projection']
StrideOn = Literal['1x1', '3x3']

DEEPEST = 1202  # of the CIFAR ResNets
# Of the ImageNet ResNets; those of the first two depths are basic blocks, the others bottlenecks.
BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BASIC_DEPTHS = (18, 34)


class Conv(NamedTuple):
    """One convolution of a block: a square kernel, padded so that stride 1 keeps the image's size."""

    kernel: int
    features: int
    stride: int = 1


@dataclasses.dataclass(frozen=True)
class Block:
    """One residual block F_k: its convolutions in order, what it reads, and how it is skipped.

    `shortcut` is 'identity' where input and output have one shape; else 'pad' (He et al.'s option A: subsample,
    zero-pad channels) or 'projection' (option B: a strided 1x1 convolution and its norm).
    """

    in_size: int
    in_channels: int
    convs: tuple[Conv, ...]
    shortcut: Shortcut

    @property
    def channels(self) -> int:
        return self.convs[-1].features

    @property
    def stride(self) -> int:
        return max(conv.stride for conv in self.convs)

    @property
    def out_size(self) -> int:
        return _strided(self.in_size, self.stride)


class Stage(NamedTuple):
    """An optional first block that changes the shape, then `repeats` equal ones that do not."""

    transition: Block | None
    block: Block
    repeats: int

    @property
    def num_blocks(self) -> int:
        return (self.transition is not None) + self.repeats


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A residual classifier. Sizes are in pixels a side; `stem` is 'cifar' (3x3) or 'imagenet' (7x7/2,
    max-pool/2); `name` is for people. Of a network that answers early and resumes, `first_pass` is how many of its
    stages come before that answer, see `resumed`; it is 0 of all others."""

    image_size: int
    image_channels: int
    num_classes: int
    stem: Literal['cifar', 'imagenet']
    stem_channels: int
    stages: tuple[Stage, ...]
    name: str = 'ResNet'
    first_pass: int = 0

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """[H, W, C] of one image."""
        return (self.image_size, self.image_size, self.image_channels)

    @property
    def stem_size(self) -> int:
        """Side of the stem convolution's output, before any pooling."""
        return self.image_size if self.stem == 'cifar' else _strided(self.image_size, 2)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """All n blocks, in the order in which they run."""
        return tuple(
            block
            for stage in self.stages
            for block in ([stage.transition] if stage.transition else []) + [stage.block] * stage.repeats
        )

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    @property
    def in_order(self) -> 'Architecture':
        """The deep network of one that resumes, its blocks in the usual order; any other as it is."""
        if not self.first_pass:
            return self
        pairs = zip(self.stages[: self.first_pass], self.stages[self.first_pass :], strict=True)
        stages = tuple(first._replace(repeats=first.repeats + later.repeats) for first, later in pairs)
        return dataclasses.replace(self, stages=stages, name=self.name.partition(' answering ')[0], first_pass=0)

    @property
    def answering_first(self) -> 'Architecture':
        """The shallow network of one that resumes; any other as it is."""
        if not self.first_pass:
            return self
        stages = self.stages[: self.first_pass]
        return dataclasses.replace(self, stages=stages, name=f'what {self.in_order.name} resumes', first_pass=0)

    @property
    def out_channels(self) -> int:
        return self.stages[-1].block.channels

    @property
    def stride_on(self) -> StrideOn | None:
        """Which convolution of its bottlenecks strides, as in `imagenet_resnet`; None if it has none."""
        bottlenecks = [block.convs for block in self.blocks if len(block.convs) == 3 and block.stride > 1]
        if not bottlenecks:
            return None
        return '1x1' if bottlenecks[0][0].stride > 1 else '3x3'


def resumed(first: Architecture, whole: Architecture) -> Architecture:
    """The blocks of a deep network in another order: all that a shallow one has too, then stage by stage the others.

    After the shallow network's last stage there is an answer; the stages that follow resume its stages one by one. How
    they are joined is the router's matter (`models.resuming`).

    Raises:
      InputError: the two are not of one kind, or some stage of the deep one has no block more.
    """
    pairs = list(zip(first.stages, whole.stages, strict=False))
    if dataclasses.replace(first, stages=whole.stages, name=whole.name) != whole or any(
        (a.transition, a.block) != (b.transition, b.block) or a.num_blocks >= b.num_blocks for a, b in pairs
    ):
        raise InputError(
            f'{whole.name} cannot resume {first.name}: every stage of it must have more of the same blocks.'
        )
    later = tuple(Stage(None, b.block, b.num_blocks - a.num_blocks) for a, b in pairs)
    name = f'{whole.name} answering after {first.num_blocks} blocks'
    return dataclasses.replace(whole, stages=(*first.stages, *later), name=name, first_pass=len(first.stages))


def first_third(whole: Architecture) -> Architecture:
    """The first third of each stage's blocks, and one at least: a shallow network for `resumed`."""
    stages = []
    for stage in whole.stages:
        num_blocks = max(1, stage.num_blocks // 3)
        stages.append(stage._replace(repeats=num_blocks - (stage.transition is not None)))
    return dataclasses.replace(whole, stages=tuple(stages), name=f'a third of {whole.name}')


def _written(*counts: int) -> tuple[int, ...]:
    """Counts as Python's own: those of NumPy's, as labels.max() + 1, cannot be written into what is exported."""
    return tuple(map(operator.index, counts))


def cifar_resnet(
    depth: int,
    *,
    image_size: int = 32,
    image_channels: int = 3,
    num_classes: int = 10,
    shortcut: Shortcut = 'pad',
) -> Architecture:
    """The CIFAR ResNet of He et al. (arXiv 1512.03385), 4.2: three stages of basic blocks, 16, 32, 64 channels wide.

    Args:
      depth: 6n+2, with n = (depth - 2) / 6 blocks a stage.
      image_size: pixels a side.
      image_channels: of an image.
      num_classes: Y.
      shortcut: of the blocks that change the shape: 'pad', their option A, or 'projection', option B.

    Raises:
      InputError: the depth is not 6n+2 or is above 1202, He et al.'s deepest, or the shortcut is neither 'pad' nor
        'projection'.
    """
    if not 8 <= depth <= DEEPEST or (depth - 2) % 6:
        near = min(max(8, 6 * round((depth - 2) / 6) + 2), DEEPEST)
        raise InputError(f'depth is {depth}, and a CIFAR ResNet has 6n+2 (8, 14, 20, 32, ...): try {near}.')
    if shortcut not in ('pad', 'projection'):
        raise InputError(f"shortcut is {shortcut!r}; it must be 'pad' or 'projection'.")
    image_size, image_channels, num_classes = _written(image_size, image_channels, num_classes)
    stages: list[Stage] = []
    size, in_channels, blocks = image_size, 16, (depth - 2) // 6
    for channels in (16, 32, 64):
        stride = 1 if channels == 16 else 2
        first = Block(
            in_size=size,
            in_channels=in_channels,
            convs=(Conv(3, channels, stride), Conv(3, channels)),
            shortcut='identity' if stride == 1 else shortcut,
        )
        body = Block(first.out_size, channels, (Conv(3, channels), Conv(3, channels)), 'identity')
        stages.append(Stage(None, body, blocks) if first == body else Stage(first, body, blocks - 1))
        size, in_channels = body.out_size, channels
    return Architecture(image_size, image_channels, num_classes, 'cifar', 16, tuple(stages), f'CIFAR ResNet-{depth}')


def imagenet_resnet(
    depth: int,
    *,
    image_size: int = 224,
    image_channels: int = 3,
    num_classes: int = 1000,
    stride_on: StrideOn = '3x3',
) -> Architecture:
    """The ResNet of He et al. (arXiv 1512.03385), Table 1: basic blocks for 18 and 34, bottlenecks for others.

    Shortcuts that change the shape are projections.

    Args:
      depth: 18, 34, 50, 101 or 152.
      image_size: pixels a side.
      image_channels: of an image.
      num_classes: Y.
      stride_on: which convolution of a bottleneck strides: '1x1', the paper's, or '3x3', torchvision's and timm's; a
        basic block has it on its first one.

    Raises:
      InputError: the depth is not 18, 34, 50, 101 or 152, or `stride_on` is neither '1x1' nor '3x3'.
    """
    if depth not in BLOCKS_PER_STAGE:
        *others, last = BLOCKS_PER_STAGE
        raise InputError(f'depth is {depth}, and an ImageNet ResNet has {", ".join(map(str, others))} or {last}.')
    if stride_on not in ('1x1', '3x3'):
        raise InputError(f"stride_on is {stride_on!r}; it must be '1x1' or '3x3'.")
    image_size, image_channels, num_classes = _written(image_size, image_channels, num_classes)
    stages: list[Stage] = []
    size, in_channels = _strided(_strided(image_size, 2), 2), 64  # after the stem's convolution and its max-pool
    for index, num_blocks in enumerate(BLOCKS_PER_STAGE[depth]):
        width = 64 * 2**index
        stride = 1 if index == 0 else 2
        first_convs, convs = (_imagenet_convs(depth, width, each, stride_on) for each in (stride, 1))
        channels = convs[-1].features
        keeps_shape = stride == 1 and in_channels == channels
        first = Block(size, in_channels, first_convs, 'identity' if keeps_shape else 'projection')
        body = Block(first.out_size, channels, convs, 'identity')
        stages.append(Stage(None, body, num_blocks) if first == body else Stage(first, body, num_blocks - 1))
        size, in_channels = body.out_size, channels
    return Architecture(image_size, image_channels, num_classes, 'imagenet', 64, tuple(stages), f'ResNet-{depth}')


def _imagenet_convs(depth: int, width: int, stride: int, stride_on: StrideOn) -> tuple[Conv, ...]:
    if depth in BASIC_DEPTHS:
        return Conv(3, width, stride), Conv(3, width)
    on_1x1, on_3x3 = (stride, 1) if stride_on == '1x1' else (1, stride)
    return Conv(1, width, on_1x1), Conv(3, width, on_3x3), Conv(1, 4 * width)


def _strided(size: int, stride: int) -> int:
    return -(-size // stride)
