"""The kernel's library: built when it is first asked for, kept in a cache, and made known to JAX.

By nvcc for CUDA devices, and by g++ for tests: the same source, every thread of it on the CPU.
"""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

import jax

from codinet_jax.errors import InputError

Platform = Literal['CUDA', 'cpu']
SOURCES = Path(__file__).parent
HEADERS = ('handler.h', 'kernel.h', 'primitives.h', 'emulation.h')
TARGET = 'codinet_fused'
CUDA_COMPILER = Path('/usr/local/cuda/bin/nvcc')  # where it is put, and not always on the PATH


class Recipe(NamedTuple):
    compiler: str
    source: str
    flags: tuple[str, ...]


RECIPES = {
    'CUDA': Recipe(
        'nvcc',
        'launch.cu',
        (
            '-O3',
            '-std=c++17',
            '-shared',
            '-Xcompiler',
            '-fPIC',
            *(f'-gencode=arch=compute_{a},code=sm_{a}' for a in (80, 90)),
        ),
    ),
    'cpu': Recipe(
        'g++',
        'emulate.cpp',
        # Jumps between stacks are what a fortified longjmp refuses.
        ('-O2', '-std=c++17', '-shared', '-fPIC', '-Wall', '-Wextra', '-U_FORTIFY_SOURCE', '-D_FORTIFY_SOURCE=0'),
    ),
}


@functools.cache
def register(platform: Platform) -> str:
    """The name under which JAX knows the kernel on a platform's devices.

    Raises:
      InputError: its compiler is not here, or does not build the kernel.
    """
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(getattr(load(platform), TARGET)), platform=platform)
    return TARGET


@functools.cache
def load(platform: Platform) -> ctypes.CDLL:
    """The library, built if the cache has none of these sources.

    Raises:
      InputError: its compiler is not here, or does not build the kernel.
    """
    return ctypes.CDLL(str(build(platform)))


def build(platform: Platform) -> Path:
    """Where the library is. The cache is $CODINET_JAX_CACHE, or ~/.cache/codinet_jax.

    Raises:
      InputError: its compiler is not here or does not build the kernel, or the cache cannot be written.
    """
    recipe, built = RECIPES[platform], _built(platform)
    directory = built.parent
    if built.exists():
        return built
    compiler = find_compiler(platform)
    if compiler is None:
        raise InputError(f'The fused kernel is built by {recipe.compiler}: install it, or put it on the PATH.')
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Under another name first: a process beside this one must not load half a library.
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            fresh = Path(scratch) / built.name
            command = [compiler, *recipe.flags, '-isystem', jax.ffi.include_dir()]
            done = subprocess.run(
                [*command, str(SOURCES / recipe.source), '-o', str(fresh)], capture_output=True, text=True
            )
            if done.returncode:
                errors = [line for line in (done.stdout + done.stderr).splitlines() if 'error' in line.lower()]
                what = '; '.join(errors[:3]) or f'exit status {done.returncode}'
                raise InputError(f'{recipe.compiler} does not build the fused kernel: {what}')
            fresh.replace(built)
    except OSError as error:
        raise InputError(f'{directory} cannot be written; name another in CODINET_JAX_CACHE.') from error
    return built


def is_available(platform: Platform) -> bool:
    """Whether the library is in the cache, or its compiler is here."""
    return _built(platform).exists() or find_compiler(platform) is not None


def _built(platform: Platform) -> Path:
    recipe = RECIPES[platform]
    digest = hashlib.sha256(repr((recipe, jax.__version__)).encode())
    for name in (recipe.source, *HEADERS):
        digest.update((SOURCES / name).read_bytes())
    directory = Path(os.environ.get('CODINET_JAX_CACHE') or Path.home() / '.cache' / 'codinet_jax')
    return directory / f'{TARGET}_{platform}_{digest.hexdigest()[:16]}.so'


def find_compiler(platform: Platform) -> str | None:
    found = shutil.which(RECIPES[platform].compiler)
    return found or (str(CUDA_COMPILER) if platform == 'CUDA' and CUDA_COMPILER.exists() else None)
