"""The fused kernel, run thread by thread on the CPU: against the network under masked execution, and against the same
arithmetic in plain JAX, rounded where the kernel rounds."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from codinet_jax import settings
from codinet_jax.errors import InputError
from codinet_jax.inference import fused
from codinet_jax.inference.fused import library
from codinet_jax.inference.program import program
from configs import cifar10_r20, default, digits_r14
from experiments import fused_check
from helpers import quick_jit

compiled = pytest.mark.skipif(shutil.which('g++') is None, reason='g++ is not here to compile the emulation')
THRESHOLD = np.float32(0.5)


def config_of(depth: int, **changes: Any) -> ConfigDict:
    config = cifar10_r20.get_config()
    config.update_from_flattened_dict({'model.depth': depth, 'model.dtype': 'bfloat16'} | changes)
    return config


@pytest.fixture(scope='module')
def emulator(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    built = tmp_path_factory.mktemp('fused') / 'emulate.so'
    # Jumps between stacks are what a fortified longjmp refuses.
    flags = ['-O2', '-std=c++17', '-shared', '-fPIC', '-Wall', '-Wextra', '-U_FORTIFY_SOURCE', '-D_FORTIFY_SOURCE=0']
    done = subprocess.run(
        ['g++', *flags, str(library.SOURCES / 'emulate.cpp'), '-o', str(built)], capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return ctypes.CDLL(str(built))


def emulated(
    emulator: ctypes.CDLL,
    config: ConfigDict,
    folded: Any,
    images: np.ndarray,
    noise: np.ndarray | None = None,
    *,
    direction: int = 1,
    threshold: float = 0.5,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, v and means of the emulated kernel, whose outputs are NaN until it writes them."""
    packed, arch = fused.pack(config, folded), settings.architecture(config)
    logits = np.full((len(images), arch.num_classes), np.nan, np.float32)
    v = np.full((len(images), arch.num_blocks), np.nan, np.float32)
    means = np.full((len(images), arch.num_blocks + 1, 64), np.nan, np.float32)
    inputs = [np.ascontiguousarray(images), packed['pixels'], packed['weights'], packed['floats'], np.float32([threshold])]
    assert packed['weights'].ctypes.data % 16 == packed['floats'].ctypes.data % 16 == 0
    addresses = [each.ctypes.data_as(ctypes.c_void_p) for each in (*inputs, logits, v, means)]
    addresses.insert(5, None if noise is None else noise.ctypes.data_as(ctypes.c_void_p))
    emulator.codinet_fused_emulate(
        *addresses,
        len(images),
        *fused.blocks_per_stage(arch),
        arch.num_classes,
        config.model.router != settings.STATIC,
        direction,
    )
    return logits, v, means


@compiled
@pytest.mark.parametrize('run_rate', fused_check.CASES)
@pytest.mark.parametrize('depth', [8, 20])
def test_a_routed_network_computes_what_plain_jax_does(
    emulator: ctypes.CDLL, depth: int, run_rate: float | None
) -> None:
    config = config_of(depth)
    folded = fused_check.random_folded(config)
    images, noise = fused_check.random_inputs(config, 4, run_rate, seed=depth)
    ours = emulated(emulator, config, folded, images, noise)
    theirs = quick_jit(lambda *inputs: fused_check.twin(config, *inputs))(folded, images, THRESHOLD, noise)
    for k, z_BxC in enumerate(theirs[2]):
        print(k, np.max(np.abs(ours[2][:, k, : z_BxC.shape[1]] - z_BxC)))
    print(fused_check.agreement(ours, theirs, 0.5, noise))


@compiled
def test_a_static_network_computes_what_plain_jax_does(emulator: ctypes.CDLL) -> None:
    config = config_of(14, **{'model.router': 'static'})
    folded = fused_check.random_folded(config)
    images, _ = fused_check.random_inputs(config, 2, None, seed=3)
    ours = emulated(emulator, config, folded, images)
    theirs = quick_jit(lambda *inputs: fused_check.twin(config, *inputs))(folded, images, THRESHOLD, None)
    for k, z_BxC in enumerate(theirs[2]):
        print(k, np.max(np.abs(ours[2][:, k, : z_BxC.shape[1]] - z_BxC)))
    print(fused_check.agreement(ours, theirs, 0.5, None))
