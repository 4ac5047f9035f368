"""The fused kernel on a GPU: first whether it is right, then what it takes beside XLA.

    python -m experiments.measure.fused_gpu --config=cifar10_r110 --config.model.dtype=bfloat16 --output=FILE.json

Nothing is timed if anything is wrong. Programs are compiled first and timed in turns, in bursts: back to back, with one
wait at a burst's end, and with a wait after each call. Medians count. Weights of convolutions are bfloat16 beforehand
for all where the config's dtype is.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from codinet_jax.config import flags as config_flag
from codinet_jax.config import setup
from codinet_jax.data.spec import DataSpec
from codinet_jax.inference.folding import cast
from codinet_jax.inference.fused import cuda
from codinet_jax.inference.program import program
from codinet_jax.inference.timing import random_draws
from codinet_jax.models.architecture import Architecture
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import command
from codinet_jax.runtime.errors import InputError
from experiments.measure import fused_check, kernel_trial
from experiments.measure.kernel_trial import log, platform

flags.adopt_module_key_flags(kernel_trial)
CONFIG = config_flag.define_config('Network to check and to time.', 'cifar10_r110')
BATCH_SIZES = flags.DEFINE_list('batch_sizes', ['1', '32', '256', '1024'], 'Batches to time.')
RUN_RATES = flags.DEFINE_list('run_rate', ['0.25', '0.5', '1.0'], 'Shares of blocks that run, dictated.')
COMPACTED = flags.DEFINE_bool('compacted', False, 'Also time compacted execution by XLA.')
UNROLLED = flags.DEFINE_bool('unrolled', False, 'Also time the static network of XLA unrolled.')
TILE = flags.DEFINE_integer(
    'tile', 0, 'Rows at a time of compacted execution; 0: max(256, B / 2), or B if that is less.'
)
CHECK_IMAGES = flags.DEFINE_integer('check_images', 300, 'Images to check: more than run at once.', lower_bound=1)
BURST = flags.DEFINE_float('burst', 0.2, 'Seconds of a burst.', lower_bound=0.0)
TURNS = flags.DEFINE_integer('turns', 3, 'Bursts of each kind.', lower_bound=1)
SECONDS = flags.DEFINE_float('seconds', 150.0, 'After so many, no batch size is begun.')

# Of the largest logit. Rounding alone sets 54 blocks' bfloat16 apart by about four thousandths, and by one where it is
# rounded in the same places; a fault, by a hundred times that.
ALLOWED = {'twin': 0.01, 'float32': 0.03, 'bfloat16': 0.03}
THRESHOLD = np.float32(0.5)


def main(argv: Sequence[str]) -> int:
    del argv
    config = config_flag.read(CONFIG)
    try:
        batch_sizes, run_rates = [int(b) for b in BATCH_SIZES.value], [float(r) for r in RUN_RATES.value]
    except ValueError as error:
        raise InputError('Write numbers, as in --batch_sizes=1,32 and --run_rate=0.25,1.') from error
    named = setup.read(config)
    model, spec = named.model, named.data.spec
    if why_not := cuda.supports(model):
        raise InputError(why_not)
    log(f'{jax.devices()[0].device_kind}, JAX {jax.__version__}')
    started = time.perf_counter()
    cuda.LIBRARY.register(platform())
    is_rehearsed = platform() == 'cpu'
    resident = 1 if is_rehearsed else cuda.LIBRARY.load('CUDA').codinet_fused_blocks_per_multiprocessor()
    build_seconds = time.perf_counter() - started
    log(f'library in {build_seconds:.1f} s; {resident} blocks a multiprocessor')
    if resident < 1:
        raise InputError(f'The kernel does not fit this device: CUDA reports {resident}.')
    report = kernel_trial.Report(
        config=config.model.to_dict(), build_seconds=build_seconds, blocks_per_multiprocessor=resident
    )
    right = check(model, spec, report.checks)
    report.save()
    if not right and not kernel_trial.TIME_ANYWAY.value:
        log('WRONG: nothing is timed')
        return 1
    for batch_size in batch_sizes:
        if kernel_trial.seconds() > SECONDS.value:
            log(f'out of time before batch {batch_size}')
            break
        report.add('times', clock(model, spec, batch_size, run_rates))
    return 0 if right else 1


# --- Whether it is right. ---


def check(model: RoutedResNet, spec: DataSpec, rows: list[dict[str, Any]]) -> bool:
    """Adds a row for every comparison; True if none is further apart than it may be."""
    right = True
    for name, each in (('routed', model), ('static', model.static)):
        compared = Compared(name, each, spec)
        for run_rate in fused_check.CASES if name == 'routed' else (None,):
            right &= compared.check(run_rate, rows)
    return right


class Compared:
    """A network by the kernel, by the kernel's twin in plain JAX, and by XLA in two types."""

    def __init__(self, name: str, model: RoutedResNet, spec: DataSpec):
        self.name, self.arch, self.model = name, model.architecture, model
        folded = fused_check.random_folded(model)
        self.packed, self.weights = jax.device_put(cuda.pack(model, spec, folded)), jax.device_put(folded)
        self.ours = jax.jit(cuda.program(model, spec, means=True, platform=platform()))
        self.twin = jax.jit(lambda *inputs: fused_check.twin(model, spec, *inputs))
        self.masked_bfloat16 = jax.jit(program(model, spec, 'masked'))
        self.masked_float32 = jax.jit(program(model.clone(dtype=jnp.float32), spec, 'masked'))

    def check(self, run_rate: float | None, rows: list[dict[str, Any]]) -> bool:
        """Adds a row for each comparison at a run rate; True if none is further apart than it may be."""
        images, noise = fused_check.random_inputs(self.model, CHECK_IMAGES.value, run_rate, seed=7)
        kernel_trial.spoil_memory()
        answer = jax.block_until_ready(self.ours(self.packed, images, THRESHOLD, noise))
        steady = self._steadiness(answer, images, noise)
        right = all(steady.values())
        others = self._others(images, noise)
        # The same comparison of XLA's own bfloat16 with float32 shows what rounding alone does.
        pairs = {f'fused against {name}': (answer, other, ALLOWED[name]) for name, other in others.items()}
        pairs['XLA bfloat16 against float32'] = (others['bfloat16'], others['float32'], math.inf)
        for pair, (mine, theirs, allowed) in pairs.items():
            found = fused_check.agreement(mine, theirs, float(THRESHOLD))
            # Where routers decide, a gate near the threshold may fall either way; not so of the same arithmetic.
            is_dictated = run_rate is not None or self.name == 'static'
            fine = _is_fine(found, allowed, 1.0 if is_dictated else 0.5 if 'twin' in pair else 0.0)
            right &= fine
            rows.append({'network': self.name, 'run_rate': run_rate, 'pair': pair, 'fine': fine, **found, **steady})
            log(
                f'{self.name:7} rate {run_rate}: {pair:28} logits {found["logits"]:.2e}  v {found["v"]:.2e}  '
                f'same routes {found["same"]:.3f}  {"" if fine else "WRONG"}'
            )
        ran = np.mean(np.asarray(answer[1]) >= THRESHOLD)
        log(f'        ran {ran:.3f} of blocks; {steady}')
        if not right:
            _log_blocks(np.asarray(answer[2]), [np.asarray(z) for z in others['twin'][2]], self.arch)
        return right

    def _steadiness(self, answer: Any, images: np.ndarray, noise: np.ndarray | None) -> dict[str, bool]:
        """Whether the same images get the same bits again, and in smaller batches."""
        again = self.ours(self.packed, images, THRESHOLD, noise)
        few = [self.ours(self.packed, images[:c], THRESHOLD, None if noise is None else noise[:c]) for c in (1, 3)]

        def is_same(part: Any) -> bool:
            return all(np.array_equal(part[i], np.asarray(answer[i])[: len(part[i])]) for i in (0, 1))

        return {'repeats': is_same(again), 'alike_in_any_batch': all(map(is_same, few))}

    def _others(self, images: np.ndarray, noise: np.ndarray | None) -> dict[str, Any]:
        if noise is None and self.name == 'routed':  # the same, and compiled once
            noise = np.zeros((len(images), self.arch.num_blocks, 2), np.float32)
        inputs = (self.weights, images, THRESHOLD, noise)
        with jax.default_matmul_precision('highest'):
            whole = self.masked_float32(*inputs)
        return {'twin': self.twin(*inputs), 'float32': whole, 'bfloat16': self.masked_bfloat16(*inputs)}


def _is_fine(found: Mapping[str, float], allowed: float, enough: float) -> bool:
    """Whether logits are as near as allowed, of at least so large a share of images that take the same route."""
    if allowed == math.inf:
        return True
    is_near = found['logits'] <= allowed or (math.isnan(found['logits']) and not enough)
    return found['same'] >= enough and is_near


def _log_blocks(means_Bxmx64: np.ndarray, true: Sequence[np.ndarray], arch: Architecture) -> None:
    """Where it goes wrong: the pooled input of each block, the first image alone and all of them."""
    for k, z_BxC in enumerate(true):
        apart = np.abs(means_Bxmx64[:, k, : z_BxC.shape[1]] - z_BxC)
        size = np.max(np.abs(z_BxC))
        where = f'channels {arch.blocks[k].in_channels}' if k < arch.num_blocks else 'head'
        worst = np.unravel_index(np.argmax(np.nan_to_num(apart, nan=np.inf)), apart.shape)
        log(
            f'        block {k:3} {where:11} apart {np.max(apart) / size:.1e} at image {worst[0]}, channel {worst[1]}; '
            f'first image {np.max(apart[0]) / size:.1e}'
        )


# --- What it takes. ---


def clock(model: RoutedResNet, spec: DataSpec, batch_size: int, run_rates: Sequence[float]) -> list[dict[str, Any]]:
    """Times all at one batch size; seconds a batch."""
    times = bursts(_compiled(model, spec, batch_size, run_rates))
    reference = min(t['back_to_back'] for name, t in times.items() if name.startswith('XLA static'))
    rows = []
    for name, taken in times.items():
        share, images = taken['back_to_back'] / reference, batch_size / taken['back_to_back']
        rows.append({'name': name, 'batch_size': batch_size, **taken, 'of_xla_static': share})
        log(
            f'batch {batch_size:5} {name:32} {1e3 * taken["back_to_back"]:9.3f} ms back to back ({share:6.3f} of XLA '
            f'static), {1e3 * taken["each_waited_for"]:9.3f} waited for, {images:10.0f} images/s'
        )
    return rows


def _compiled(
    model: RoutedResNet, spec: DataSpec, batch_size: int, run_rates: Sequence[float]
) -> dict[str, Callable[[int], Any]]:
    """What is timed at one batch size, as far as there is time to compile it."""
    static, threshold = model.static, jax.device_put(THRESHOLD)
    folded, folded_static = (fused_check.random_folded(each) for each in (model, static))
    routed_weights, static_weights = (jax.device_put(cast(each, model.dtype)) for each in (folded, folded_static))
    packed, packed_static = (
        jax.device_put(cuda.pack(each, spec, weights)) for each, weights in ((model, folded), (static, folded_static))
    )
    draws = {rate: random_draws(model, batch_size, rate, 4, seed=0) for rate in run_rates}
    by_rate = {
        f' {rate}': [
            (jax.device_put(i), threshold, jax.device_put(e)) for i, e in zip(d.images, d.noise or (), strict=True)
        ]
        for rate, d in draws.items()
    }
    plain = {'': [inputs[:2] for inputs in next(iter(by_rate.values()))]}
    calls: dict[str, Callable[[int], Any]] = {}

    def add(name: str, forward: Any, first: Any, inputs: dict[str, list[Any]]) -> None:
        if kernel_trial.seconds() > SECONDS.value:
            log(f'out of time: {name} is left out at batch {batch_size}')
            return
        started = time.perf_counter()
        compiled = jax.jit(forward).lower(first, *next(iter(inputs.values()))[0]).compile()
        log(f'batch {batch_size}: compiled {name} in {time.perf_counter() - started:.1f} s')
        for suffix, each in inputs.items():
            calls[name + suffix] = lambda i, each=each: compiled(first, *each[i % len(each)])  # type: ignore[misc]

    n, tile = model.architecture.num_blocks, TILE.value or min(batch_size, max(256, batch_size // 2))
    add('fused static', cuda.program(static, spec, platform=platform()), packed_static, plain)
    add('fused routed', cuda.program(model, spec, platform=platform()), packed, by_rate)
    add('XLA static, loop', program(static, spec, 'masked', unroll=1), static_weights, plain)
    if UNROLLED.value:
        add('XLA static, unrolled', program(static, spec, 'masked', unroll=n), static_weights, plain)
    if COMPACTED.value:
        add(f'XLA compacted, tile {tile},', program(model, spec, 'compacted', tile=tile), routed_weights, by_rate)
    return calls


def bursts(calls: dict[str, Callable[[int], Any]]) -> dict[str, dict[str, float]]:
    """The median seconds of a call over bursts in turns, `back_to_back` and `each_waited_for`."""

    def seconds(call: Callable[[int], Any], count: int, wait: bool) -> float:
        started = time.perf_counter()
        for i in range(count):
            out = call(i)
            if wait:
                jax.block_until_ready(out)
        jax.block_until_ready(out)
        return (time.perf_counter() - started) / count

    counts = {}
    for name, call in calls.items():
        seconds(call, 3, True)
        counts[name] = max(3, math.ceil(BURST.value / seconds(call, 5, False)))
    found: dict[str, dict[str, list[float]]] = {name: {'back_to_back': [], 'each_waited_for': []} for name in calls}
    for _ in range(TURNS.value):
        for name, call in calls.items():
            found[name]['back_to_back'].append(seconds(call, counts[name], False))
            found[name]['each_waited_for'].append(seconds(call, max(3, counts[name] // 4), True))
    return {name: {kind: statistics.median(each) for kind, each in kinds.items()} for name, kinds in found.items()}


if __name__ == '__main__':
    command.run(main)
