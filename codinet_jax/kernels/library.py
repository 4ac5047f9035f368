"""A kernel's library: built when it is first asked for, kept in a cache, and made known to JAX.

By nvcc for CUDA devices, and by g++ for tests: the same source, every thread of it on the CPU. Kernels for CPUs are
built by g++ for the processor at hand.
"""

import ctypes
import dataclasses
import functools
import hashlib
import os
import platform as machine
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import jax

from codinet_jax.runtime import files
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.waiting import waiting

Platform = Literal['CUDA', 'cpu']
SHARED = Path(__file__).parent
SHARED_HEADERS = ('primitives.h', 'emulation.h')
CAPABILITIES = (80, 90)  # of CUDA devices; code for one runs on later ones of its generation, as of 80 on 89
CUDA_COMPILER = Path('/usr/local/cuda/bin/nvcc')  # where it is put, and not always on the PATH


class Recipe(NamedTuple):
    """How a library is built; `headers` of SHARED are part of it, and `of_processor` if it runs on one kind alone."""

    compiler: str
    source: str
    flags: tuple[str, ...]
    headers: tuple[str, ...] = ()
    of_processor: bool = False


RECIPES: dict[Platform, Recipe] = {
    'CUDA': Recipe(
        'nvcc',
        'launch.cu',
        (
            '-O3',
            '-std=c++17',
            '-shared',
            '-Xcompiler',
            '-fPIC',
            *(f'-gencode=arch=compute_{a},code=sm_{a}' for a in CAPABILITIES),
        ),
        SHARED_HEADERS,
    ),
    'cpu': Recipe(
        'g++',
        'emulate.cpp',
        # Jumps between stacks are what a fortified longjmp refuses.
        ('-O2', '-std=c++17', '-shared', '-fPIC', '-Wall', '-Wextra', '-U_FORTIFY_SOURCE', '-D_FORTIFY_SOURCE=0'),
        SHARED_HEADERS,
    ),
}
FOR_CPUS: dict[Platform, Recipe] = {
    'cpu': Recipe(
        'g++',
        'call.cpp',
        ('-O3', '-std=c++17', '-march=native', '-ffp-contract=fast', '-shared', '-fPIC', '-Wall', '-Wextra'),
        of_processor=True,
    )
}


@dataclasses.dataclass(frozen=True)
class Library:
    """Kernels that are built together.

    Attributes:
      name: of the file, and the beginning of its symbols' names.
      title: how it is called in a sentence.
      sources: the folder of its recipes' sources.
      headers: of that folder.
      targets: the symbols that are XLA's custom calls.
      recipes: how it is built, by platform.
    """

    name: str
    title: str
    sources: Path
    headers: tuple[str, ...]
    targets: tuple[str, ...]
    recipes: Mapping[Platform, Recipe] = dataclasses.field(default_factory=lambda: RECIPES, hash=False)

    def register(self, platform: Platform) -> None:
        """Makes its targets known to JAX on a platform's devices.

        Raises:
          InputError: its compiler is not here, or does not build the kernel.
        """
        _register(self, platform)

    def load(self, platform: Platform) -> ctypes.CDLL:
        """The library, built if the cache has none of these sources.

        Raises:
          InputError: its compiler is not here or does not build the kernel, or what is in the cache cannot be loaded.
        """
        return _load(self, platform)

    def build(self, platform: Platform) -> Path:
        """Where the library is. The cache is $CODINET_JAX_CACHE, or ~/.cache/codinet_jax.

        Raises:
          InputError: its compiler is not here or does not build the kernel, or the cache cannot be written.
        """
        recipe, built = self.recipes[platform], self._built(platform)
        directory = built.parent
        try:
            if built.exists():
                return built
            compiler = find_compiler(recipe)
            if compiler is None:
                raise InputError(f'The {self.title} is built by {recipe.compiler}: install it, or put it on the PATH.')
            directory.mkdir(parents=True, exist_ok=True)
            # Under another name first: a process beside this one must not load half a library.
            with tempfile.TemporaryDirectory(dir=directory) as scratch:
                fresh = Path(scratch) / built.name
                command = [compiler, *recipe.flags, *includes(), str(self.sources / recipe.source), '-o', str(fresh)]
                with waiting(f'{recipe.compiler} builds the {self.title}, once for this machine', file=sys.stderr):
                    done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    errors = [line for line in (done.stdout + done.stderr).splitlines() if 'error' in line.lower()]
                    what = '; '.join(errors[:3]) or f'exit status {done.returncode}'
                    raise InputError(f'{recipe.compiler} does not build the {self.title}: {what}')
                fresh.replace(built)
        except OSError as error:
            raise InputError(f'{directory} cannot be read or written; name another in CODINET_JAX_CACHE.') from error
        return built

    def can_be_built(self, platform: Platform) -> bool:
        """Whether it is here or its compiler builds it, and it can be loaded, which is tried."""
        return _can_be_built(self, platform)

    def _built(self, platform: Platform) -> Path:
        recipe = self.recipes[platform]
        processor = _processor() if recipe.of_processor else ''
        digest = hashlib.sha256(repr((recipe, jax.__version__, processor)).encode())
        for path in (
            *(self.sources / name for name in (recipe.source, *self.headers)),
            *(SHARED / name for name in recipe.headers),
        ):
            digest.update(path.read_bytes())
        directory = files.expanded(os.environ.get('CODINET_JAX_CACHE') or '~/.cache/codinet_jax')
        return directory / f'{self.name}_{platform}_{digest.hexdigest()[:16]}.so'


@functools.cache
def _register(library: Library, platform: Platform) -> None:
    for target in library.targets:
        capsule = jax.ffi.pycapsule(getattr(library.load(platform), target))
        jax.ffi.register_ffi_target(target, capsule, platform=platform)


@functools.cache
def _load(library: Library, platform: Platform) -> ctypes.CDLL:
    built = library.build(platform)
    try:
        return ctypes.CDLL(str(built))
    except OSError as error:
        raise InputError(
            f'The {library.title} cannot be loaded: delete {built}, or name another directory in CODINET_JAX_CACHE.'
        ) from error


@functools.cache
def _can_be_built(library: Library, platform: Platform) -> bool:
    try:
        library.load(platform)
    except InputError:
        return False
    return True


def includes() -> list[str]:
    """A compiler's flags that find what kernels share, and XLA's headers."""
    return ['-I', str(SHARED), '-isystem', jax.ffi.include_dir()]


def find_compiler(recipe: Recipe) -> str | None:
    found = shutil.which(recipe.compiler)
    return found or (str(CUDA_COMPILER) if recipe.compiler == CUDA_COMPILER.name and CUDA_COMPILER.exists() else None)


@functools.cache
def _processor() -> str:
    """What tells processors apart that do not run each other's instructions, for a cache may be of several machines."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return f'{machine.machine()} {machine.processor()}'
    return next((line for line in lines if line.startswith(('flags', 'Features'))), machine.machine())
