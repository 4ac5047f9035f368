"""The compilers that tests of kernels need, where they are installed."""

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jax
import pytest

from codinet_jax.kernels import library
from codinet_jax.kernels.library import Library

compiled = pytest.mark.skipif(shutil.which('g++') is None, reason='g++ is not here to compile the emulation')


PROCESSORS = ('native', 'x86-64-v3', 'x86-64')  # this one, one with AVX2, and one with neither that nor more


def register_for(processor: str, module: Any, names: tuple[str, ...], patch: pytest.MonkeyPatch) -> None:
    """Has the custom calls that a module names be those of its library as it is made for a processor."""
    if processor == 'native':
        module.LIBRARY.register('cpu')
        return
    if os.uname().machine != 'x86_64':
        pytest.skip('this processor is of another kind')
    recipe = module.LIBRARY.recipes['cpu']
    flags = tuple(f'-march={processor}' if flag == '-march=native' else flag for flag in recipe.flags)
    built = dataclasses.replace(module.LIBRARY, recipes={'cpu': recipe._replace(flags=flags)})
    for name in names:
        target = getattr(module, name)
        named = f'{target}_{processor}'
        jax.ffi.register_ffi_target(named, jax.ffi.pycapsule(getattr(built.load('cpu'), target)), platform='cpu')
        patch.setattr(module, name, named)


def by_nvcc(built: Library, directory: Path) -> str:
    """What nvcc says of kernels that it takes: their registers and what is spilled of these."""
    nvcc = library.find_compiler(library.RECIPES['CUDA'])
    if nvcc is None:
        pytest.skip('nvcc is not here')
    done = subprocess.run(
        [
            *(nvcc, '-std=c++17', '-arch=sm_90', '-cubin', '-Xptxas=-v', *library.includes()),
            *(str(built.sources / 'launch.cu'), '-o', str(directory / 'kernels.cubin')),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr
