"""What a training step asks of a TPU pod, by arithmetic: input, compute, memory, collectives; what gives out first.

    python -m experiments.measure.pod_scaling --config=imagenet_r50 --images_per_core=RATE

Nothing is measured here but what is given: the images that one core of a host decodes and crops in a second (from
`experiments.measure.input_rate`, at the config's number of views). The rest is the network's own table and the makers'
sheets; what is sent agrees with the compiled step (`codinet_jax.compile`), within the third of a megabyte of norms and
routes.
It is a best case: chips at the floor of their memory or compute, whichever is higher, with nothing overlapped.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from codinet_jax.config import flags as config_flag
from codinet_jax.config import setup
from codinet_jax.models.architecture import Architecture
from codinet_jax.models.network import RoutedResNet, fresh_variables
from codinet_jax.runtime import command
from codinet_jax.runtime.errors import InputError

CONFIG = config_flag.define_config('Network, views and settings.', 'imagenet_r50')
IMAGES_PER_CORE = flags.DEFINE_float('images_per_core', None, 'Images a second that one core makes views of.')
IMAGE_BYTES = flags.DEFINE_float('image_bytes', 110e3, 'Of the mean encoded image.')
IMAGES_PER_CHIP = flags.DEFINE_integer('images_per_chip', 64, 'Images a step on one chip.', lower_bound=1)

# Of a normed layer's output in bfloat16, forward: written, read to be normed, written, read by the next convolution;
# its statistics are taken as it is written. Backward: output, gradient and result of the norm's two passes, and both
# operands of the convolution's two. With a norm in every convolution that is the least a step moves.
PASSES = 4 + 9
HOP_SECONDS = 1e-6  # of a small all-reduce, for each chip along the longest way; an assumption


class Pod(NamedTuple):
    """A slice of chips. Rates are a chip's but for the host's; bytes and FLOPs a second.

    Sources: Cloud TPU documentation, pages "TPU v4" and "TPU v5e" (peak, memory, all-reduce bandwidth of a whole pod
    over its chips, chips and vCPUs of a host, network cards of a v5e host; v4's is taken to be one of 100 Gbit/s).
    """

    name: str
    chips: int
    chips_per_host: int
    flops: float
    memory: float
    all_reduce: float
    host_vcpus: int
    host_network: float
    longest_way: int


PODS = (
    Pod('v4-32 (2x2x4)', 16, 4, 275e12, 1.2e12, 1.1e15 / 4096, 240, 100e9 / 8, 2 + 2 + 4),
    Pod('v5e-64 (8x8)', 64, 8, 197e12, 819e9, 51.2e12 / 256, 224, 200e9 / 8, 8 + 8),
    Pod('v5e-256 (16x16)', 256, 8, 197e12, 819e9, 51.2e12 / 256, 224, 200e9 / 8, 16 + 16),
)


class Demand(NamedTuple):
    """What one view, or one step, asks for."""

    flops_per_view: float
    bytes_per_view: float
    pixels_per_view: int
    gradient_bytes: int
    num_sums: int


def demand(model: RoutedResNet) -> Demand:
    """From the network's own table and shapes."""
    arch, costs = model.architecture, model.costs
    params = jax.eval_shape(lambda: fresh_variables(model, 0))['params']
    width = jnp.dtype(model.dtype).itemsize
    values, sums = activations(arch)
    return Demand(
        flops_per_view=6 * costs.mean_macs(np.ones(costs.num_blocks)),
        bytes_per_view=PASSES * width * values,
        pixels_per_view=arch.image_size**2 * arch.image_channels,
        # XLA sums convolutions' gradients over chips as they are computed, and makes them float32 afterwards.
        gradient_bytes=sum((width if leaf.ndim >= 4 else 4) * leaf.size for leaf in jax.tree.leaves(params)),
        num_sums=sums,
    )


def activations(arch: Architecture) -> tuple[int, int]:
    """Values that all normed layers put out for one image, and how many sums over chips their norms wait for.

    A projection's norm shares its sum with that of its block's last convolution, as XLA joins them.
    """
    layers, num_sums = [arch.stem_size**2 * arch.stem_channels], 1
    for block in arch.blocks:
        size = block.in_size
        for conv in block.convs:
            size = -(-size // conv.stride)
            layers.append(size**2 * conv.features)
            num_sums += 1
        if block.shortcut == 'projection':
            layers.append(size**2 * block.channels)
    return sum(layers), num_sums


def page(pod: Pod, asks: Demand, num_views: int, images_per_core: float, global_norms: bool) -> list[tuple[str, str]]:
    """The lines of one pod."""
    views = IMAGES_PER_CHIP.value * num_views
    compute, memory = views * asks.flops_per_view / pod.flops, views * asks.bytes_per_view / pod.memory
    chip = max(compute, memory)
    summed = 2 * (pod.chips - 1) / pod.chips * asks.gradient_bytes
    gradients = summed / pod.all_reduce
    # Forward and backward each wait for one small sum a norm.
    norms = 2 * asks.num_sums * pod.longest_way * HOP_SECONDS if global_norms else 0.0
    step = chip + gradients + norms
    images_per_host = IMAGES_PER_CHIP.value * pod.chips_per_host / step
    cores = images_per_host / images_per_core
    network = images_per_host * IMAGE_BYTES.value
    of_cores, of_network = cores / pod.host_vcpus, network / pod.host_network
    shares = {
        "the hosts' cores": of_cores,
        "the hosts' network": of_network,
        "the chips' memory": memory / step,
        "the chips' compute": compute / step,
        'the all-reduce of gradients': gradients / step,
        "the norms' sums": norms / step,
    }
    first = max(shares, key=lambda name: shares[name])
    fed = min(1.0, 1 / of_cores, 1 / of_network)
    return [
        ('chips, hosts', f'{pod.chips}, {pod.chips // pod.chips_per_host}'),
        ('a step on a chip: compute, memory', f'{compute * 1e3:.1f} ms, {memory * 1e3:.1f} ms'),
        ('gradients: bytes sent by a chip, time', f'{summed / 1e6:.0f} MB, {gradients * 1e3:.2f} ms'),
        (f'norms: {asks.num_sums} x 2 small sums' if global_norms else 'norms by device', f'{norms * 1e3:.2f} ms'),
        ('step; scaling from one chip', f'{step * 1e3:.1f} ms; {chip / step:.0%}'),
        ('images/s of the pod, were it fed', f'{images_per_host * pod.chips / pod.chips_per_host:,.0f}'),
        ('read by a host', f'{network / 1e6:,.0f} MB/s, {of_network:.0%} of its network'),
        ('sent to its chips', f'{images_per_host * num_views * asks.pixels_per_view / 1e6:,.0f} MB/s'),
        ('cores to decode and crop', f'{cores:.0f} of {pod.host_vcpus} ({of_cores:.0%})'),
        ('gives out first', f'{first}: the pod is fed {fed:.0%}'),
    ]


def main(argv: Sequence[str]) -> None:
    del argv
    config = config_flag.read(CONFIG)
    rate = IMAGES_PER_CORE.value
    if rate is None or not 0 < rate < math.inf:
        raise InputError('Say what a core does: --images_per_core=RATE, from python -m experiments.measure.input_rate.')
    command.start_devices()
    asks, is_global = demand(setup.read(config).model), config.model.batch_norm == 'global'
    pages = {pod.name: page(pod, asks, config.num_views, rate, is_global) for pod in PODS}
    print(
        f'{config.model.backbone} {config.model.depth}, {config.num_views} views of each image: a view takes '
        f'{asks.flops_per_view / 1e9:.1f} GFLOP and moves {asks.bytes_per_view / 1e6:.0f} MB; '
        f'{IMAGES_PER_CHIP.value} images a chip, {rate:g} images/s a core\n'
    )
    print(f'| | {" | ".join(pages)} |')
    print(f'|---|{"---|" * len(pages)}')
    for rows in zip(*pages.values(), strict=True):
        print(f'| {rows[0][0]} | {" | ".join(value for _, value in rows)} |')


if __name__ == '__main__':
    command.run(main)
