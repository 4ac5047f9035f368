"""Our stage 1 step as a PyTorch user would write it, timed: the opponent of `codinet_jax.profile`.

    python -m experiments.torch_training --config=configs/cifar10_r110.py:static --config.batch_size=128 \\
        --config.num_views=2 --config.model.dtype=bfloat16 --output=torch_r110.json

The same networks, losses, batch and views, on made-up pixels that are on the device already; crops and mirrors are
drawn there within the step, as ours are. channels_last, autocast where the dtype is bfloat16, fused SGD, convolutions
chosen by trial. A router other than linear or static is not written out. Variants, in the order in which they are
timed if not told otherwise:

    eager           as it is
    graph           the whole step, update and all, in one CUDA graph
    blocks          each block compiled, equal ones once
    blocks_graph    the same in one CUDA graph
    compiled        the network and its losses under torch.compile
    reduce_overhead the same with mode='reduce-overhead', which is CUDA graphs

PyTorch is not a requirement of the package: pip install torch. The file is written after each variant.
"""

import faulthandler
import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from codinet_jax import doors
from codinet_jax.errors import InputError

if TYPE_CHECKING:
    import torch

CUDA_ONLY = ('graph', 'blocks_graph', 'reduce_overhead')
VARIANTS = ('eager', 'graph', 'blocks', 'blocks_graph', 'compiled', 'reduce_overhead')

CONFIG = config_flags.DEFINE_config_file('config', 'configs/cifar10_r110.py:static', 'Network, batch and views.')
WANTED = flags.DEFINE_list('variants', None, f'Of {", ".join(VARIANTS)}; unset: all that this device has.')
REPEATS = flags.DEFINE_integer('repeats', 7, 'Bursts that are timed, of every variant.', lower_bound=1)
COMPILE_LIMIT = flags.DEFINE_float('compile_limit', 200.0, 'Seconds for a variant, compilation and all.')
TIME_LIMIT = flags.DEFINE_float('time_limit', 540.0, 'Seconds for all variants; those that are left are left out.')
OUTPUT = flags.DEFINE_string('output', None, 'A JSON file to write the numbers to.')


def main(argv: Sequence[str]) -> None:
    del argv
    started = time.monotonic()
    # Beyond a limit that asks, one that does not: a driver that hangs is not asked.
    faulthandler.dump_traceback_later(TIME_LIMIT.value + 30, exit=True)
    try:
        import torch
    except ImportError as error:
        raise InputError('PyTorch is not installed: pip install torch.') from error
    config, output = doors.read_config(CONFIG), doors.output_file(OUTPUT)
    jax.config.update('jax_platforms', 'cpu')  # it only reads the config here, and takes no memory of the card

    from codinet_jax import settings
    from experiments import torch_measure

    settings.check(config)
    if config.model.router not in ('linear', settings.STATIC):
        raise InputError(f'model.router is {config.model.router!r}; here it must be linear or static.')
    if config.routing.relaxation != 'gumbel_softmax':
        raise InputError(f'routing.relaxation is {config.routing.relaxation!r}; here it must be gumbel_softmax.')
    device = torch_measure.start()
    variants = WANTED.value or [name for name in VARIANTS if device.type == 'cuda' or name not in CUDA_ONLY]
    if unknown := [name for name in variants if name not in VARIANTS]:
        raise InputError(f'There is no variant {unknown[0]!r}: take some of {", ".join(VARIANTS)}.')
    if device.type != 'cuda' and (wrong := [name for name in variants if name in CUDA_ONLY]):
        raise InputError(f'{wrong[0]} needs CUDA: leave it out of --variants.')

    found: dict[str, Any] = {
        'framework': 'PyTorch',
        'machine': torch_measure.machine(device),
        'network': f'{config.model.backbone} {config.model.depth}, router {config.model.router}, {config.model.dtype}',
        'batch_size': config.batch_size,
        'num_views': config.num_views,
        'repeats': REPEATS.value,
        'rows': [],
    }
    print(found['network'], found['machine'], flush=True)
    for name in variants:
        left = TIME_LIMIT.value - (time.monotonic() - started)
        torch.manual_seed(config.seed)
        print(f'{name} ...', flush=True)
        row = {'variant': name} | torch_measure.attempt(
            min(COMPILE_LIMIT.value, left), lambda name=name: _measured(name, config, device)
        )
        found['rows'].append(row)
        print(json.dumps(row), flush=True)
        if output:
            output.write_text(json.dumps(found, indent=2) + '\n')
    faulthandler.cancel_dump_traceback_later()
    print(readable(found))


def readable(found: dict[str, Any]) -> str:
    lines = [f'{found["network"]}, {found["batch_size"]} x {found["num_views"]} views']
    for row in found['rows']:
        if 'failed' in row:
            lines.append(f'  {row["variant"]:16} {row["failed"]}')
            continue
        seconds = row['seconds']
        lines.append(
            f'  {row["variant"]:16} {1e3 * seconds["step"]:9.2f} ms a step  {row["images_per_second"]:10.1f} images/s  '
            f'{row["tflops_per_device"]:7.2f} TFLOP/s  first step {seconds["compile"]:6.1f} s'
        )
    return '\n'.join(lines)


class Trainer:
    """A network, its optimiser and one batch of made-up pixels, on a device."""

    def __init__(self, config: ConfigDict, device: 'torch.device'):
        import torch

        from codinet_jax import settings
        from experiments.torch_network import Network

        self.config, self.device, self.torch = config, device, torch
        self.dataset = settings.dataset(config)
        arch, self.is_routed = settings.architecture(config), config.model.router != settings.STATIC
        self.num_blocks = arch.num_blocks
        self.network = Network(arch, self.dataset.mean, self.dataset.std, routed=self.is_routed).to(device)
        self.costs_n = torch.from_numpy(settings.costs(config).costs_n).to(device)
        base = config.optimizer.base_batch_size or config.batch_size
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            config.stage1.learning_rate * config.batch_size / base,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )
        rng = np.random.default_rng(config.seed)
        # Of photographs the host crops views, and they are only mirrored here, as in our step.
        views = (config.num_views,) if self.dataset.is_streamed else ()
        shape = (config.batch_size, *views, *self.dataset.image_shape)
        self.images = torch.from_numpy(rng.integers(0, 256, shape, np.uint8)).to(device)
        self.labels = torch.from_numpy(rng.integers(0, self.dataset.num_classes, config.batch_size)).to(device)

    def step(self) -> Any:
        """Takes one; its loss."""
        noise_Bxnx2 = None
        if self.is_routed:
            shape = (self.config.batch_size * self.config.num_views, self.num_blocks, 2)
            noise_Bxnx2 = -self.torch.empty(shape, device=self.device).exponential_().log()  # Gumbel's
        return self.step_on(self.views(), self.labels, noise_Bxnx2)

    def step_on(self, views_BxHxWxC: Any, labels_L: Any, noise_Bxnx2: Any) -> Any:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(views_BxHxWxC, labels_L, noise_Bxnx2)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def views(self) -> Any:
        """M of each image, as `augment.make_views` draws them, image by image: uint8 [L * M, H, W, C]."""
        torch, images, device = self.torch, self.images, self.device
        num_rows = self.config.batch_size * self.config.num_views
        is_mirrored_B = torch.rand(num_rows, device=device) < 0.5
        if images.ndim == 5:
            views_BxHxWxC = images.flatten(0, 1)
            if not self.dataset.flip:
                return views_BxHxWxC
            return torch.where(is_mirrored_B[:, None, None, None], views_BxHxWxC.flip(2), views_BxHxWxC)
        size, padding = self.dataset.image_size, self.dataset.crop_padding
        padded = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
        corners_2xBx1 = torch.randint(0, 2 * padding + 1, (2, num_rows, 1), device=device)
        steps_S = torch.arange(size, device=device)
        columns_BxS = steps_S.expand(num_rows, size)
        if self.dataset.flip:
            columns_BxS = torch.where(is_mirrored_B[:, None], size - 1 - columns_BxS, columns_BxS)
        rows_BxS, columns_BxS = corners_2xBx1[0] + steps_S, corners_2xBx1[1] + columns_BxS
        image_B = torch.arange(num_rows, device=device) // self.config.num_views
        return padded[image_B[:, None, None], rows_BxS[:, :, None], columns_BxS[:, None, :]]

    def loss(self, views_BxHxWxC: Any, labels_L: Any, noise_Bxnx2: Any) -> Any:
        """Cross-entropy, and of a routed network Eq. 12 with a gamma that stays as it is."""
        torch, terms = self.torch, self.config.loss
        labels_B = labels_L.repeat_interleave(self.config.num_views)
        in_bfloat16 = self.config.model.dtype == 'bfloat16'
        # No cache: a weight is read once a step, and a CUDA graph must not hold on to a cast of it.
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=in_bfloat16, cache_enabled=False)
        v_Bxn = None
        with autocast:
            if self.is_routed:
                logits_BxY, v_Bxn, _ = self.network.relaxed(views_BxHxWxC, noise_Bxnx2, self.config.routing.temperature)
            else:
                logits_BxY = self.network(views_BxHxWxC)
        loss = torch.nn.functional.cross_entropy(logits_BxY, labels_B, label_smoothing=terms.label_smoothing)
        if v_Bxn is None:
            return loss
        paths_LxMxn = v_Bxn.unflatten(0, (-1, self.config.num_views))
        centres_Lxn = paths_LxMxn.mean(1)
        straying_LxM = torch.linalg.vector_norm(paths_LxMxn - centres_Lxn[:, None], dim=-1)
        consistency = (straying_LxM - terms.consistency_margin).relu().square().mean()
        L = len(centres_Lxn)
        distance_LxL = torch.linalg.vector_norm(centres_Lxn[:, None] - centres_Lxn, dim=-1)
        missing_LxL = (terms.diversity_margin - distance_LxL).relu().square()
        # An image lies nowhere from itself, so the diagonal is the margin squared, and has no gradient.
        diversity = (missing_LxL.sum() - L * terms.diversity_margin**2) / max(L * (L - 1), 1)
        cost = (v_Bxn.mean(0) * self.costs_n).sum()
        return loss + terms.alpha * consistency + terms.beta * diversity + terms.gamma * cost


def _measured(name: str, config: ConfigDict, device: 'torch.device') -> dict[str, Any]:
    import torch

    from codinet_jax import settings
    from experiments import torch_measure

    torch_measure.compile_afresh()
    if device.type == 'cuda':
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(config, device)
    started = time.perf_counter()
    if name.startswith('blocks'):
        for block in trainer.network.blocks:
            block.forward = torch.compile(block.forward, dynamic=False)
            block.relaxed = torch.compile(block.relaxed, dynamic=False)
    elif name in ('compiled', 'reduce_overhead'):
        mode = 'reduce-overhead' if name == 'reduce_overhead' else None
        trainer.loss = torch.compile(trainer.loss, dynamic=False, mode=mode)  # type: ignore[method-assign]
    step: Callable[[], Any] = trainer.step
    if name == 'reduce_overhead':
        step = _in_turns_of_their_own(trainer.step)
    loss = float(step())  # read at once, for replays write over it
    if name.endswith('graph'):
        step, result = torch_measure.captured(trainer.step)
        step()
        loss = float(result)
    compile_seconds = time.perf_counter() - started
    print(f'  first step after {compile_seconds:.1f} s', flush=True)
    seconds = torch_measure.median_seconds(lambda i: step(), device, REPEATS.value)
    costs = settings.costs(config)
    flops = 3 * 2 * costs.mean_macs(np.ones(costs.num_blocks)) * config.batch_size * config.num_views
    return {
        'stage': 1,
        'batch_size': config.batch_size,
        'num_views': config.num_views,
        'seconds': {'step': seconds, 'compile': compile_seconds},
        'images_per_second': config.batch_size / seconds,
        'tflops_per_device': flops / seconds / 1e12,
        'peak_bytes': torch.cuda.max_memory_allocated() if device.type == 'cuda' else None,
        'loss': loss,
    }


def _in_turns_of_their_own(step: Callable[[], Any]) -> Callable[[], Any]:
    """A step that tells compiled CUDA graphs that the one before is over, and its memory theirs."""
    import torch

    def marked() -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return step()

    return marked


if __name__ == '__main__':
    doors.open_door(main)
