"""What may compute the convolutions of training, by name, and which of them is fastest where a run begins."""

from typing import Any

import jax

from codinet_jax.kernels import convolution, cpu_convolution
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime.errors import InputError


def fastest() -> str:
    """Of those that change nothing but rounding."""
    return 'simd' if jax.default_backend() == 'cpu' and cpu_convolution.is_built() else 'xla'


def of_name(name: str, model: RoutedResNet) -> Any:
    """In place of `lax.conv_general_dilated`, or None for that.

    Raises:
      InputError: it is not for the devices here, or cannot be built.
    """
    return CONVOLUTIONS[name](model)


def _xla(model: RoutedResNet) -> Any:
    is_large = model.architecture.image_size >= cpu_convolution.LEAST_SIZE
    return cpu_convolution.conv_general_dilated if jax.default_backend() == 'cpu' and is_large else None


def _simd(model: RoutedResNet) -> Any:
    del model
    if jax.default_backend() != 'cpu':
        raise InputError('model.convolution=simd is for CPUs, and JAX has other devices: leave it out.')
    return cpu_convolution.by_kernels()


def _cuda(model: RoutedResNet) -> Any:
    del model
    if jax.default_backend() != 'gpu':
        raise InputError('model.convolution=cuda needs a CUDA device, and JAX finds none: leave it out.')
    if jax.device_count() > 1:
        raise InputError(
            f'model.convolution=cuda computes on one device, and there are {jax.device_count()}: leave it out, '
            'or set CUDA_VISIBLE_DEVICES=0.'
        )
    return convolution.conv_general_dilated()


CONVOLUTIONS = {'xla': _xla, 'simd': _simd, 'cuda': _cuda}
PLATFORMS = {'simd': ('cpu', 'CPUs'), 'cuda': ('gpu', 'CUDA devices')}  # that some are for alone
