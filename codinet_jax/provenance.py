"""On what a number was had: machine and versions, without which it cannot be had again."""

import importlib.metadata
import os
import platform
from typing import Any

import jax

PACKAGES = ('codinet_jax', 'jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def machine() -> dict[str, Any]:
    """Devices, processor and versions."""
    device = jax.devices()[0]
    return {
        'num_devices': jax.device_count(),
        'platform': device.platform,
        'device': _processor() if device.platform == 'cpu' else device.device_kind,
        'cpu_cores': os.cpu_count(),
        'python': platform.python_version(),
        'versions': {package: _version(package) for package in PACKAGES},
    }


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
