"""Our static and compacted forward against PyTorch's static and gathered ones: same weights, decisions and run.

    python -m experiments.compare_pytorch --config=configs/cifar10_r110.py --run_rate=0.5 --batch_size=128

PyTorch is not a requirement of the package: pip install torch. Its network is written out below, folded and in
channels_last as ours is; "gathered" is the way a PyTorch user skips at batch: eager, block by block, the rows that run
taken out by a boolean mask and put back, routers and all. Logits are compared before anything is timed.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from ml_collections import config_flags

from codinet_jax import doors
from codinet_jax.errors import InputError

CONFIG = config_flags.DEFINE_config_file('config', 'configs/cifar10_r110.py', 'A CIFAR ResNet with linear routers.')
RUN_RATE = flags.DEFINE_float('run_rate', 0.5, 'Share of blocks run, at random.', lower_bound=0, upper_bound=1)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Images at a time.', lower_bound=1)
REPEATS = flags.DEFINE_integer('repeats', 15, 'Turns that are timed, of every program.', lower_bound=1)

Forward = Callable[[int], Any]


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        import torch
    except ImportError as error:
        raise InputError('PyTorch is not installed: pip install torch.') from error
    config = doors.read_config(CONFIG)
    doors.start_devices()
    torch.set_num_threads(len(os.sched_getaffinity(0)))

    from codinet_jax import provenance
    from codinet_jax.inference import program, timing
    from codinet_jax.inference.folding import fold

    variables = program.untrained(config)
    draws = timing.random_draws(config, BATCH_SIZE.value, RUN_RATE.value, min(REPEATS.value, 8))
    ours = timing.contest(config, variables, [draws], repeats=3, report=lambda line: print(line, flush=True))
    theirs = TorchNetwork(torch, config, fold(variables)['params'], draws)
    calls: dict[str, Forward] = {
        'codinet_jax static': ours.programs['static'].on(draws),
        'codinet_jax compacted': ours.programs['compacted'].on(draws),
        'PyTorch static': theirs.static,
        'PyTorch gathered': theirs.gathered,
    }
    for ours_name, theirs_name in (list(calls)[::2], list(calls)[1::2]):
        logits, expected = np.asarray(calls[ours_name](0)[0]), calls[theirs_name](0).numpy()
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    medians = timing.interleaved(calls, REPEATS.value)
    print(
        json.dumps(
            {
                'machine': provenance.machine() | {'torch': torch.__version__, 'threads': torch.get_num_threads()},
                'network': f'{config.model.backbone} {config.model.depth}, batch {BATCH_SIZE.value}',
                'run_rate': RUN_RATE.value,
                'repeats': REPEATS.value,
                'median_seconds': medians,
                'compacted_over_static': medians['codinet_jax compacted'] / medians['codinet_jax static'],
                'static_over_PyTorch_static': medians['codinet_jax static'] / medians['PyTorch static'],
                'compacted_over_PyTorch_gathered': medians['codinet_jax compacted'] / medians['PyTorch gathered'],
            },
            indent=2,
        )
    )


class TorchNetwork:
    """A folded CIFAR ResNet with linear routers in eager PyTorch, answering the i-th of some draws."""

    def __init__(self, torch: Any, config: Any, params: Mapping[str, Any], draws: Any):
        self.torch, self.nn = torch, torch.nn.functional
        self.images = [self._images(config, pixels) for pixels in draws.images]
        self.noise = [torch.from_numpy(noise) for noise in draws.noise]
        self.stem, self.head = self._conv(params['stem_conv']), self._dense(params['head'])
        self.blocks = [
            {name: self._conv(block['residual'][name]) for name in ('conv1', 'conv2')}
            | {name: self._dense(block['router'][name]) for name in ('hidden', 'decide')}
            for block in _blocks(params)
        ]

    def static(self, i: int) -> Any:
        with self.torch.inference_mode():
            return self._forward(i, lambda block, a, shortcut, u_B: self._run(block, a, shortcut))

    def gathered(self, i: int) -> Any:
        with self.torch.inference_mode():
            return self._forward(i, self._gather, is_routed=True)

    def _forward(self, i: int, combine: Callable[..., Any], *, is_routed: bool = False) -> Any:
        a = self.nn.relu(self.nn.conv2d(self.images[i % len(self.images)], *self.stem, padding=1))
        noise = self.noise[i % len(self.noise)]
        for k, block in enumerate(self.blocks):
            channels, stride = block['conv2'][0].shape[0], block['conv2'][0].shape[0] // a.shape[1]
            shortcut, padding = a[:, :, ::stride, ::stride], channels - a.shape[1]
            if padding:
                shortcut = self.nn.pad(shortcut, (0, 0, 0, 0, padding // 2, padding - padding // 2))
            u_B = None
            if is_routed:
                z = self.nn.relu(self.nn.linear(a.mean((2, 3)), *block['hidden']))
                logits = self.nn.linear(z, *block['decide']) + noise[:, k]
                u_B = self.torch.sigmoid(logits[:, 1] - logits[:, 0]) >= 0.5
            a = combine(block, a, shortcut, u_B)
        return self.nn.linear(a.mean((2, 3)), *self.head)

    def _run(self, block: Mapping[str, Any], a: Any, shortcut: Any) -> Any:
        x = self.nn.relu(self.nn.conv2d(a, *block['conv1'], stride=a.shape[2] // shortcut.shape[2], padding=1))
        return self.nn.relu(shortcut + self.nn.conv2d(x, *block['conv2'], padding=1))

    def _gather(self, block: Mapping[str, Any], a: Any, shortcut: Any, u_B: Any) -> Any:
        skipped = a if shortcut.shape == a.shape else self.nn.relu(shortcut)
        if u_B.any():
            skipped[u_B] = self._run(block, a[u_B], shortcut[u_B])
        return skipped

    def _images(self, config: Any, pixels: np.ndarray) -> Any:
        import jax.numpy as jnp

        from codinet_jax import settings
        from codinet_jax.data import augment

        dataset = settings.dataset(config)
        normalised = np.asarray(augment.normalise(jnp.asarray(pixels), dataset.mean, dataset.std)).transpose(0, 3, 1, 2)
        return self.torch.from_numpy(normalised.copy()).contiguous(memory_format=self.torch.channels_last)

    def _conv(self, conv: Mapping[str, Any]) -> tuple[Any, Any]:
        kernel = self.torch.from_numpy(np.array(np.transpose(conv['kernel'], (3, 2, 0, 1))))
        return kernel.contiguous(memory_format=self.torch.channels_last), self.torch.from_numpy(np.array(conv['bias']))

    def _dense(self, dense: Mapping[str, Any]) -> tuple[Any, Any]:
        return self.torch.from_numpy(np.array(dense['kernel'].T)), self.torch.from_numpy(np.array(dense['bias']))


def _blocks(params: Mapping[str, Any]) -> Iterator[Any]:
    """The blocks' parameters in the order in which they run."""
    import jax

    for name in sorted(params):  # stage1_blocks, stage2_blocks, stage2_transition, ...
        if name.endswith('_blocks'):
            if (transition := name.replace('_blocks', '_transition')) in params:
                yield params[transition]
            for k in range(len(params[name]['residual']['conv1']['bias'])):
                yield jax.tree.map(lambda leaf, k=k: leaf[k], params[name])


if __name__ == '__main__':
    doors.open_door(main)
