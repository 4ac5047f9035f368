"""A routed ResNet on a CPU as one call: image by image, each thread one at a time, and a skipped block is a branch.

    weights = jax.device_put(cpu.pack(model, spec, fold(variables)))  # once
    logits_BxY, v_Bxn = jax.jit(cpu.program(model, spec))(weights, images_BxHxWxC, threshold)

It computes what `masked` does, in float32 whatever the network's dtype. An image's activations stay in a core's own
cache, and nothing is gathered or scattered.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.data import augment
from codinet_jax.data.spec import DataSpec
from codinet_jax.inference.fused.weights import flat, of_stage, under
from codinet_jax.inference.predictor import Program
from codinet_jax.kernels.library import FOR_CPUS, Library
from codinet_jax.kernels.simd import CHANNELS, MOST_WEIGHTS
from codinet_jax.models.architecture import Architecture, Conv, Stage
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime.errors import InputError

TARGET = 'codinet_routed'
LIBRARY = Library(
    'codinet_routed',
    'fused kernel for CPUs',
    Path(__file__).parent,
    ('network.h', 'plan.h'),
    (TARGET,),
    {'cpu': FOR_CPUS['cpu']._replace(headers=('simd/kernel.h', 'simd/tasks.h'))},
)
DECIDING = {None: 0, 'linear': 1, 'resuming': 2}  # `Deciding` in plan.h
SHORTCUTS = {'identity': 0, 'pad': 1, 'projection': 2}  # `Shortcut`


def supports(model: RoutedResNet) -> str | None:
    """None if the kernel computes a network; otherwise a sentence that says why not."""
    arch = model.architecture
    if model.router not in DECIDING:
        return f"The fused kernel for CPUs has routers 'linear' and 'resuming', or none, not {model.router!r}."
    widths = {arch.stem_channels} | {conv.features for _, conv in _convs(arch)}
    if odd := sorted(width for width in widths if width % CHANNELS):
        return f'The fused kernel for CPUs computes channels by {CHANNELS}, and {arch.name} has {odd[0]}.'
    if any(len(block.convs) < 2 for block in arch.blocks) or any(conv.kernel not in (1, 3) for _, conv in _convs(arch)):
        return f'The fused kernel for CPUs has blocks of two or more convolutions, 1x1 or 3x3; {arch.name} has others.'
    return None


def is_possible(model: RoutedResNet) -> bool:
    """Whether the kernel is for a network here: it computes it, in float32, and its library can be built."""
    return jnp.dtype(model.dtype) == jnp.float32 and supports(model) is None and LIBRARY.can_be_built('cpu')


def is_default(model: RoutedResNet) -> bool:
    """Not of larger kernels, which are read from memory again for every image."""
    sizes = (conv.kernel**2 * in_channels * conv.features for in_channels, conv in _convs(model.architecture))
    return max(sizes) <= MOST_WEIGHTS and is_possible(model)


def pack(model: RoutedResNet, spec: DataSpec, folded: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The weights of a folded network as the kernel reads them, to be put on the device once.

    Returns:
      `pixels` [256, C], what each value of a pixel becomes, and `weights`, all others in the order of plan.h; float32.

    Raises:
      InputError: the kernel does not compute this network.
    """
    _check(model)
    values = jnp.broadcast_to(jnp.arange(256, dtype=jnp.uint8)[:, None], (256, model.architecture.image_channels))
    parts = _weights(model, flat(folded['params']))
    return {
        'pixels': np.asarray(augment.normalise(values, *spec.normalisation), np.float32),
        'weights': np.concatenate([_aligned(np.asarray(part, np.float32).ravel()) for part in parts]),
    }


def program(model: RoutedResNet, spec: DataSpec) -> Program:
    """The pure function of a network, for CPUs.

    It takes `pack`'s arrays, uint8 images [B, H, W, C], a threshold and, to dictate decisions, noise [B, n, 2]; it
    returns logits [B, Y] and v [B, n], float32.

    Raises:
      InputError: the kernel does not compute this network, or cannot be built here.
    """
    del spec  # `pack` has made its normalisation part of the weights
    _check(model)
    LIBRARY.register('cpu')
    arch, plan = model.architecture, np.array(_plan(model), np.int64)

    def forward(
        packed: Any, images_BxHxWxC: jax.Array, threshold: jax.Array, noise_Bxnx2: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        B = images_BxHxWxC.shape[0]
        answers = [jax.ShapeDtypeStruct((B, size), jnp.float32) for size in (arch.num_classes, arch.num_blocks)]
        logits_BxY, v_Bxn = jax.ffi.ffi_call(TARGET, answers)(
            images_BxHxWxC,
            packed['pixels'],
            packed['weights'],
            jnp.asarray(threshold, jnp.float32),
            jnp.zeros((0,), jnp.float32) if noise_Bxnx2 is None else noise_Bxnx2.astype(jnp.float32),
            plan=plan,
        )
        return logits_BxY, v_Bxn

    return forward


def _check(model: RoutedResNet) -> None:
    why_not = supports(model)
    if why_not:
        raise InputError(why_not)


def _convs(arch: Architecture) -> Iterator[tuple[int, Conv]]:
    """Those of all blocks, and how many channels each reads."""
    for block in arch.blocks:
        channels = block.in_channels
        for conv in block.convs:
            yield channels, conv
            channels = conv.features


def _plan(model: RoutedResNet) -> list[int]:
    """The network's shapes, as `Reader` of plan.h reads them."""
    arch = model.architecture
    steps = [step for i, stage in enumerate(arch.stages, start=1) for step in _steps_of(arch, i, stage)]
    return [
        *(arch.image_size, arch.image_channels, arch.num_classes),
        DECIDING[model.router],
        int(arch.stem == 'imagenet'),
        *((3, 1) if arch.stem == 'cifar' else (7, 2)),
        arch.stem_channels,
        len(steps),
        *(number for step in steps for number in step),
    ]


def _steps_of(arch: Architecture, i: int, stage: Stage) -> Iterator[list[int]]:
    for block in ([stage.transition] if stage.transition else []) + [stage.block] * stage.repeats:
        step = [0, SHORTCUTS[block.shortcut], len(block.convs)]
        for conv in block.convs:
            step += [conv.kernel, conv.stride, conv.features]
        yield step + ([1, block.stride, block.channels] if block.shortcut == 'projection' else [])
    if arch.first_pass and i < len(arch.stages):
        end = _End.of(arch, i)
        step = [1, *map(int, end)]
        if end.joins:
            channels = arch.stages[i].block.channels
            step += [i - arch.first_pass, *([1, 2, channels] if end.goes_down else []), 1, 1, channels]
        yield step


class _End(NamedTuple):
    """What follows stage i of a network that resumes; see `resuming.ResumingEnd`."""

    keeps: bool
    answers: bool
    joins: bool
    goes_down: bool

    @classmethod
    def of(cls, arch: Architecture, i: int) -> '_End':
        return cls(i <= arch.first_pass, i == arch.first_pass, i >= arch.first_pass, i > arch.first_pass)


def _weights(model: RoutedResNet, params: Mapping[str, np.ndarray]) -> Iterator[np.ndarray]:
    """In the order in which `Reader` of plan.h takes them."""
    arch = model.architecture
    yield from _conv(params, 'stem_conv')
    for i in range(1, len(arch.stages) + 1):
        for block in of_stage(arch, i, params):
            if model.router == 'linear':
                yield from _dense(block, 'router/hidden')
                yield from (margin[..., 1] - margin[..., 0] for margin in _dense(block, 'router/decide'))
            for name in sorted({path.rpartition('/')[0] for path in block if path.startswith('residual/')}):
                yield from _conv(block, name)
            if 'shortcut/conv/kernel' in block:
                yield from _conv(block, 'shortcut/conv')
        if arch.first_pass and i < len(arch.stages):
            end, own = _End.of(arch, i), under(params, f'stage{i}_end')
            if end.answers:
                yield from (*_dense(own, 'head'), params['router_start/bias'])
            if end.goes_down:
                yield from (_packed(own['down'][None, None]), np.zeros_like(own['bias']))
            if end.joins:
                yield from (_packed(own['join'][None, None]), own['bias'])
    yield from _dense(params, 'head')


def _dense(params: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    return params[f'{name}/kernel'], params[f'{name}/bias']


def _conv(params: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    return _packed(params[f'{name}/kernel']), params[f'{name}/bias']


def _aligned(numbers: np.ndarray) -> np.ndarray:
    """With zeros to the end of a cache line; `aligned` in plan.h."""
    return np.pad(numbers, (0, -numbers.size % CHANNELS))


def _packed(kernel_hxwxCxO: np.ndarray) -> np.ndarray:
    """[O / 16, h, w, C, 16]."""
    return np.moveaxis(kernel_hxwxCxO.reshape(*kernel_hxwxCxO.shape[:3], -1, CHANNELS), 3, 0)
