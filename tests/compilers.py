"""The compilers that tests of kernels need, where they are installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from codinet_jax.kernels import library
from codinet_jax.kernels.library import Library

compiled = pytest.mark.skipif(shutil.which('g++') is None, reason='g++ is not here to compile the emulation')


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
