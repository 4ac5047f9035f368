"""The kernel's library: built by nvcc when it is first asked for, kept in a cache, and made known to JAX."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax

from codinet_jax.errors import InputError

SOURCES = Path(__file__).parent
HEADERS = ('kernel.h', 'primitives.h')
TARGET = 'codinet_fused'
ARCHITECTURES = ('80', '90')
FLAGS = ('-O3', '-std=c++17', '-shared', '-Xcompiler', '-fPIC')


@functools.cache
def register() -> str:
    """The name under which JAX knows the kernel, on CUDA devices.

    Raises:
      InputError: there is no nvcc, or it does not build the kernel.
    """
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(getattr(load(), TARGET)), platform='CUDA')
    return TARGET


@functools.cache
def load() -> ctypes.CDLL:
    """The library, built if the cache has none of these sources.

    Raises:
      InputError: there is no nvcc, or it does not build the kernel.
    """
    return ctypes.CDLL(str(build()))


def build() -> Path:
    """Where the library is. The cache is $CODINET_JAX_CACHE, or ~/.cache/codinet_jax.

    Raises:
      InputError: there is no nvcc, it does not build the kernel, or the cache cannot be written.
    """
    flags = [*FLAGS, *(f'-gencode=arch=compute_{arch},code=sm_{arch}' for arch in ARCHITECTURES)]
    digest = hashlib.sha256(' '.join([*flags, jax.__version__]).encode())
    for name in ('launch.cu', *HEADERS):
        digest.update((SOURCES / name).read_bytes())
    directory = Path(os.environ.get('CODINET_JAX_CACHE') or Path.home() / '.cache' / 'codinet_jax')
    built = directory / f'{TARGET}_{digest.hexdigest()[:16]}.so'
    if built.exists():
        return built
    nvcc = find_nvcc()
    if nvcc is None:
        raise InputError('The fused kernel is built by nvcc, which is not here: install CUDA, or put nvcc on the PATH.')
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Under another name first: a process beside this one must not load half a library.
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            fresh = Path(scratch) / built.name
            command = [nvcc, *flags, '-I', jax.ffi.include_dir(), str(SOURCES / 'launch.cu'), '-o', str(fresh)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                errors = [line for line in (done.stdout + done.stderr).splitlines() if 'error' in line.lower()]
                what = '; '.join(errors[:3]) or f'exit status {done.returncode}'
                raise InputError(f'nvcc does not build the fused kernel: {what}')
            fresh.replace(built)
    except OSError as error:
        raise InputError(f'{directory} cannot be written; name another in CODINET_JAX_CACHE.') from error
    return built


def find_nvcc() -> str | None:
    return shutil.which('nvcc') or next((str(path) for path in (Path('/usr/local/cuda/bin/nvcc'),) if path.exists()), None)
