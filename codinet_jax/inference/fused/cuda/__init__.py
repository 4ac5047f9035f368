"""A routed CIFAR ResNet as one CUDA kernel: one launch a batch, one thread block an image, a skipped block a branch.

    weights = jax.device_put(cuda.pack(model, spec, fold(variables)))  # once
    logits_BxY, v_Bxn = jax.jit(cuda.program(model, spec))(weights, images_BxHxWxC, threshold)

It computes what `masked` does of a network in bfloat16. Activations and convolutions' weights are that, sums float32
until they are an activation; pooling, routers, gates and the head are float32.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.data import augment
from codinet_jax.data.spec import DataSpec
from codinet_jax.inference.fused.weights import flat, of_stage
from codinet_jax.inference.predictor import Program
from codinet_jax.kernels.library import CAPABILITIES, Library, Platform
from codinet_jax.models.architecture import Architecture, Shortcut, cifar_resnet
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime.errors import InputError

IMAGE_SIZE, CHANNELS, THREADS = 32, (16, 32, 64), 256
MOST_CLASSES = 128
TARGET = 'codinet_fused'
LIBRARY = Library('codinet_fused', 'fused kernel', Path(__file__).parent, ('handler.h', 'kernel.h'), (TARGET,))


def supports(model: RoutedResNet) -> str | None:
    """None if the kernel computes a network; otherwise a sentence that says why not."""
    arch = model.architecture
    if not _is_cifar_resnet(arch):
        return f'The fused kernel computes CIFAR ResNets, not {arch.name}.'
    if any(block.shortcut == 'projection' for block in arch.blocks):
        return "The fused kernel has shortcuts 'pad', not 'projection'."
    if model.router not in ('linear', None):
        return f"The fused kernel has routers 'linear', or none, not {model.router!r}."
    if (arch.image_size, arch.image_channels) != (IMAGE_SIZE, 3):
        shape = f'{arch.image_size}x{arch.image_size} and {arch.image_channels} channels'
        return f'The fused kernel reads 32x32 RGB images, not of {shape}.'
    if arch.num_classes > MOST_CLASSES:
        return f'The fused kernel knows {MOST_CLASSES} classes at most, not {arch.num_classes}.'
    if (dtype := jnp.dtype(model.dtype)) != jnp.bfloat16:
        return f'The fused kernel computes in bfloat16, and this network was trained in {dtype.name}: take masked.'
    return None


def is_possible(model: RoutedResNet) -> bool:
    """Whether the kernel is for a network here: it computes it, on these devices, and can be built."""
    return supports(model) is None and _is_built_for(jax.devices()[0]) and LIBRARY.can_be_built('CUDA')


def _is_built_for(device: Any) -> bool:
    """Whether a device is of a generation that the library has code for."""
    generations = {str(capability // 10) for capability in CAPABILITIES}
    return str(getattr(device, 'compute_capability', '')).partition('.')[0] in generations


is_default = is_possible


def pack(model: RoutedResNet, spec: DataSpec, folded: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The weights of a folded network as the kernel reads them, to be put on the device once.

    Returns:
      `pixels` uint16 [3, 256], `weights` uint32 and `floats` float32; see `Network` in kernel.h.

    Raises:
      InputError: the kernel does not compute this network.
    """
    arch = _supported(model)
    params = flat(folded['params'])
    weights, floats = [_stem(params['stem_conv/kernel'])], [params['stem_conv/bias']]
    blocks = (block for i in range(1, 4) for block in of_stage(arch, i, params))
    for block in blocks:
        weights += [_conv(block['residual/conv1/kernel']), _conv(block['residual/conv2/kernel'])]
        floats += [*_router(block), block['residual/conv1/bias'], block['residual/conv2/bias']]
    floats += [params['head/kernel'], params['head/bias']]
    every = jnp.arange(256, dtype=jnp.uint8)
    normalised_256x3 = augment.normalise(jnp.stack([every] * 3, axis=-1), *spec.normalisation)
    return {
        'pixels': _bfloat16_bits(normalised_256x3).T.copy(),
        'weights': np.concatenate(weights),
        'floats': np.concatenate([np.asarray(part, np.float32).ravel() for part in floats]),
    }


def program(model: RoutedResNet, spec: DataSpec, *, means: bool = False, platform: Platform = 'CUDA') -> Program:
    """The pure function of a network, for a CUDA device or, thread by thread and slowly, for the CPU.

    It takes `pack`'s arrays, uint8 images [B, 32, 32, 3], a threshold and, to dictate decisions, noise [B, n, 2]; it
    returns logits [B, Y] and v [B, n], float32. With `means`, to look for a fault, it also returns what was pooled:
    float32 [B, n + 1, 64], of every block's input and of the head's, in as many numbers as there are channels; the
    rest is undefined.

    Raises:
      InputError: the kernel does not compute this network, or cannot be built here.
    """
    del spec  # `pack` has made its normalisation part of the weights
    arch, routed = _supported(model), model.router is not None
    n = arch.num_blocks
    LIBRARY.register(platform)
    blocks = {f'blocks{i}': np.int64(stage.num_blocks) for i, stage in enumerate(arch.stages, start=1)}

    def forward(
        packed: Any, images_BxHxWxC: jax.Array, threshold: jax.Array, noise_Bxnx2: jax.Array | None = None
    ) -> Any:
        num_images = images_BxHxWxC.shape[0]
        no_floats = jnp.zeros((0,), jnp.float32)
        call = jax.ffi.ffi_call(
            TARGET,
            (
                jax.ShapeDtypeStruct((num_images, arch.num_classes), jnp.float32),
                jax.ShapeDtypeStruct((num_images, n), jnp.float32),
                jax.ShapeDtypeStruct((num_images, n + 1, 64) if means else (0,), jnp.float32),
            ),
        )
        logits_BxY, v_Bxn, means_Bxmx64 = call(
            images_BxHxWxC,
            packed['pixels'],
            packed['weights'],
            packed['floats'],
            jnp.asarray(threshold, jnp.float32),
            no_floats if noise_Bxnx2 is None or not routed else noise_Bxnx2.astype(jnp.float32),
            routed=routed,
            **blocks,
        )
        return (logits_BxY, v_Bxn, means_Bxmx64) if means else (logits_BxY, v_Bxn)

    return forward


def _supported(model: RoutedResNet) -> Architecture:
    why_not = supports(model)
    if why_not:
        raise InputError(why_not)
    return model.architecture


def _is_cifar_resnet(arch: Architecture) -> bool:
    if arch.num_blocks % 3:
        return False
    shape = {'image_size': arch.image_size, 'image_channels': arch.image_channels, 'num_classes': arch.num_classes}
    shortcuts: tuple[Shortcut, ...] = ('pad', 'projection')
    known = (cifar_resnet(2 * arch.num_blocks + 2, shortcut=shortcut, **shape) for shortcut in shortcuts)
    return any(dataclasses.replace(each, name=arch.name) == arch for each in known)


def _bfloat16_bits(x: Any) -> np.ndarray:
    return np.asarray(x).astype(jnp.bfloat16).view(np.uint16)


def _pairs(bits_2: np.ndarray) -> np.ndarray:
    """Two neighbours along the last axis as one number, the first in the lower half; flat."""
    return np.ascontiguousarray(bits_2).view(np.uint32).ravel()


def _conv(kernel_3x3xIxO: np.ndarray) -> np.ndarray:
    """A convolution in the order of `Stream` in kernel.h: part, 16 input channels, dx, dy, lane, tile, register.

    A lane holds inputs 2 (lane % 4) + (0, 1), and eight further in its second register, of output lane / 4.
    """
    _, _, inputs, outputs = kernel_3x3xIxO.shape
    tiles = 1 if outputs == CHANNELS[-1] else 2
    axes = _bfloat16_bits(kernel_3x3xIxO).reshape(3, 3, inputs // 16, 2, 4, 2, outputs // (8 * tiles), tiles, 8)
    #                                             dy dx chunk register column pair part tile group
    return _pairs(axes.transpose(6, 2, 1, 0, 8, 4, 7, 3, 5))


def _stem(kernel_3x3x3x16: np.ndarray) -> np.ndarray:
    """The stem's convolution: two taps of eight channels at a time, of which three are used and the tenth tap none."""
    taps_10x8x16 = np.zeros((10, 8, 16), np.float32)
    taps_10x8x16[:9, :3] = kernel_3x3x3x16.reshape(9, 3, 16)
    axes = _bfloat16_bits(taps_10x8x16).reshape(5, 2, 4, 2, 2, 8)
    #                                           step register column pair tile group
    return _pairs(axes.transpose(0, 5, 2, 4, 1, 3))


def _router(block: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """A router as `Floats` in kernel.h; zeros if the network is static.

    A thread has one hidden unit, and as many of its inputs in turn as let all threads be of use.
    """
    inputs = block['residual/conv1/kernel'].shape[-2]
    if 'router/hidden/kernel' not in block:
        return [np.zeros(inputs**2 + 3 * inputs + 4, np.float32)]
    each = inputs**2 // THREADS
    width = min(each, 4)
    axes = block['router/hidden/kernel'].T.reshape(THREADS, each // width, width)
    return [
        axes.swapaxes(0, 1),
        block['router/hidden/bias'],
        block['router/decide/kernel'],
        np.pad(block['router/decide/bias'], (0, 2)),
    ]
