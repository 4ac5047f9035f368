"""A whole network as a kernel of its own, on a CUDA device, a TPU or a CPU: strategy 'fused'.

Each of the three says which networks it computes (`supports`), whether it can be had here (`is_possible`) and whether
it is then the way to run one unless told otherwise (`is_default`).
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax

from codinet_jax.data.spec import DataSpec
from codinet_jax.inference.fused import cpu, cuda, tpu
from codinet_jax.inference.predictor import Program
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime.errors import InputError

KERNELS: dict[str, ModuleType] = {'gpu': cuda, 'tpu': tpu, 'cpu': cpu}


def is_possible(model: RoutedResNet) -> bool:
    """Whether there is a kernel for a network here."""
    kernel = _kernel()
    return kernel is not None and bool(kernel.is_possible(model))


def is_default(model: RoutedResNet) -> bool:
    """Whether it is the way to run a network here."""
    kernel = _kernel()
    return kernel is not None and bool(kernel.is_default(model))


def ready(model: RoutedResNet, spec: DataSpec, folded: Mapping[str, Any]) -> tuple[Program, Any]:
    """The program of a network here, and folded variables as it reads them.

    Raises:
      InputError: the kernel does not compute this network, or cannot be built here.
    """
    kernel = _kernel()
    if kernel is None:
        raise InputError(f'There is no fused kernel for {jax.default_backend()} devices: take another strategy.')
    return kernel.program(model, spec), kernel.pack(model, spec, folded)


def _kernel() -> ModuleType | None:
    return KERNELS.get(jax.default_backend())
