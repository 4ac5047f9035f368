"""What came of a run: the numbers of results.json, and the summary a person reads."""

import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

PACKAGES = ('codinet_jax', 'jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy')


def provenance(config: ConfigDict) -> dict[str, Any]:
    """Seed, versions and device, without which a number cannot be had again."""
    device = jax.devices()[0]
    return {
        'seed': config.seed,
        'num_devices': jax.device_count(),
        'platform': device.platform,
        'device': _processor() if device.platform == 'cpu' else device.device_kind,
        'python': platform.python_version(),
        'versions': {package: _version(package) for package in PACKAGES},
    }


def readable(results: Mapping[str, Any]) -> str:
    """Results, or a summary from `evaluate.summarise` alone, as a few aligned lines."""
    n = results['num_blocks']
    lines = {
        'top-1': f'{results["top1"]:.2%} of {results["num_test_images"]} images',
        'K': f'{results["mean_path_length"]:.2f} of {n} blocks run',
        'routes': f'{results["num_paths"]} distinct, entropy {results["route_entropy"]:.2f} bits',
        'cost': (
            f'{results["mean_macs"] / 1e6:.2f} MMACs an image, '
            f'{results["macs_share"]:.1%} of the static {results["static_macs"] / 1e6:.2f}'
        ),
        'blocks': ' '.join(f'{rate:.2f}' for rate in results['run_rate_per_block']) + '  (share of images that run)',
    }
    if results.get('top1_stage1') is not None:
        lines['top-1'] += f' ({results["top1_stage1"]:.2%} after stage 1)'
    if 'seconds_train' in results:
        lines['time'] = f'{results["seconds_train"]:.0f} s, {results["images_per_second"]:.0f} images/s'
    return '\n'.join(f'  {name:8}{text}' for name, text in lines.items())


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
