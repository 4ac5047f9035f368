"""Accelerators that programs can be compiled for without one: slices of TPU chips, an H100; and this machine's CPU."""

import importlib.util
import math
import os
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from codinet_jax.compiling import nvidia
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError

GIB = 2**30
KNOWN = 'v5e-2x2, v5e-4x4, v4-2x2x1, v4-2x2x4, v5p-2x2x1, v6e-4x4, h100 or cpu'


class Chip(NamedTuple):
    """One chip's memory in bytes, and what of it a program may use; `axes` of the slices that such chips form."""

    memory: int
    usable: int
    axes: int = 0


# Memory by Google's documentation; usable is what libtpu 0.0.42 says it has when a program asks for more.
TPUS = {
    'v4': Chip(32 * GIB, int(30.75 * GIB), 3),
    'v5e': Chip(16 * GIB, int(15.75 * GIB), 2),
    'v5p': Chip(96 * GIB, int(95.73 * GIB), 3),
    'v6e': Chip(32 * GIB, int(31.24 * GIB), 2),
}
# JAX's allocator takes three quarters of a GPU unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
GPUS = {'h100': (nvidia.H100, Chip(nvidia.H100_MEMORY_BYTES, nvidia.H100_MEMORY_BYTES * 3 // 4))}


class Target(NamedTuple):
    """What to compile for. `chip` is None for the CPU, whose memory is not its own."""

    name: str
    platform: str
    generation: str
    shape: tuple[int, ...]
    chip: Chip | None

    @property
    def num_chips(self) -> int:
        return math.prod(self.shape)


def parse(name: str) -> Target:
    """The target of a name as v5e-4x4, v4-2x2x4, h100 or cpu.

    Raises:
      InputError: there is none of that name.
    """
    if name == 'cpu':
        return Target(name, 'cpu', 'cpu', (jax.device_count(),), None)
    if name in GPUS:
        return Target(name, 'cuda', name, (1,), GPUS[name][1])
    found = re.fullmatch(r'(\w+)-([1-9]\d*(?:x[1-9]\d*)*)', name)
    generation, sizes = found.groups() if found else ('', '')
    if generation not in TPUS:
        raise InputError(f'There is no topology {name!r}: take one like {KNOWN}.')
    chip, shape = TPUS[generation], tuple(int(size) for size in sizes.split('x'))
    if len(shape) != chip.axes:
        example = 'x'.join('2' * chip.axes)
        raise InputError(
            f'{name} has {len(shape)} sizes, but a slice of {generation} has {chip.axes}: {generation}-{example}.'
        )
    return Target(name, 'tpu', generation, shape, chip)


def prepare_process() -> None:
    """Keeps this process on its CPU, whatever accelerator is here; to be called before anything touches a device."""
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_enable_compilation_cache', False)  # the compiler is to be watched, and its time taken
    # libtpu asks Google's metadata server where it is, and locks a chip, even if it is to compile and nothing else.
    for name, value in {
        'TPU_SKIP_MDS_QUERY': '1',
        'TPU_WORKER_HOSTNAMES': 'localhost',
        'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
        'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
        'TPU_MIN_LOG_LEVEL': '3',
        'TPU_STDERR_LOG_LEVEL': '3',
    }.items():
        os.environ.setdefault(name, value)


def mesh(target: Target) -> Mesh:
    """The target's chips in a row along the axis 'data', as `sharding.data_mesh` would find them.

    Raises:
      InputError: the package that compiles for them is missing, or knows no such slice.
    """
    if target.platform == 'cpu':
        return sharding.data_mesh()
    _check_installed(target)
    options: dict[str, Any]
    if target.platform == 'cuda':
        options = {'topology': '1x1x1', 'target_config': GPUS[target.generation][0]}
    else:
        # A v4 or v5p chip is one device to JAX, although it has two cores; a lone chip is a host of its own.
        cores = {'chip_config_name': 'megacore'} if target.generation in ('v4', 'v5p') else {}
        hosts = {'chips_per_host_bounds': (1, 1, 1)} if math.prod(target.shape) == 1 else {}
        options = {'topology_name': f'{target.generation}:{target.name.split("-")[1]}', **cores, **hosts}
    try:
        devices = topologies.get_topology_desc(platform=target.platform, **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f'{target.name} cannot be compiled for: {str(error).splitlines()[0]}') from error
    return sharding.data_mesh(devices=devices)


def _check_installed(target: Target) -> None:
    module, what, package = {
        'tpu': ('libtpu', 'libtpu', 'jax[tpu]'),
        'cuda': ('jax_cuda13_plugin', "JAX's CUDA plug-in", 'jax[cuda13]'),
    }[target.platform]
    if importlib.util.find_spec(module) is None:
        raise InputError(f"Compiling for {target.name} needs {what}, which is not installed: pip install '{package}'.")
