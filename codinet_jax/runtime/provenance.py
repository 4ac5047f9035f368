"""On what a number was had: code, machine and versions, without which it cannot be had again."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

PACKAGES = ('codinet_jax', 'jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def machine() -> dict[str, Any]:
    """Commit, devices, processor and versions."""
    device = jax.devices()[0]
    return {
        'commit': commit(),
        'num_devices': jax.device_count(),
        'platform': device.platform,
        'device': _processor() if device.platform == 'cpu' else device.device_kind,
        'cpu_cores': os.cpu_count(),
        'python': platform.python_version(),
        'versions': {package: _version(package) for package in PACKAGES},
    }


def commit() -> str | None:
    """The commit of this code: what the environment variable CODINET_JAX_COMMIT says, which whoever copies it can set;
    else that of the clone it is in, with a plus where it was changed since; None where it is in none.
    """
    if said := os.environ.get('CODINET_JAX_COMMIT'):
        return said

    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(['git', *arguments], cwd=Path(__file__).parent, capture_output=True, text=True)
        except OSError:  # no git here
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    is_ours = git('ls-files', '--error-unmatch', Path(__file__).name) is not None  # not of what it is installed in
    return git('describe', '--always', '--abbrev=7', '--dirty=+', '--exclude=*') if is_ours else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a copy that was never installed
        return None


def _processor() -> str:
    try:
        with open('/proc/cpuinfo') as file:
            return next(line.split(':', 1)[1].strip() for line in file if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
