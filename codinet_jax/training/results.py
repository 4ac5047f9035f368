"""What came of a run, as a person reads it."""

from collections.abc import Mapping
from typing import Any


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
