"""What skipping saves on the clock: static, masked, conditional and compacted, side by side.

Everything is compiled first and timed in turns, so that a machine that slows down slows all alike; medians count.
Static is the same backbone without routers, folded, in the fastest of its arrangements here: on one device or spread
over all, its equal blocks in a loop or unrolled, or in the fused kernel where there is one for it.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from codinet_jax.data.spec import DataSpec
from codinet_jax.inference import fused
from codinet_jax.inference.predictor import Program
from codinet_jax.inference.program import FUSED, STRATEGIES, can_run, network_spec, ready
from codinet_jax.models import execution, resuming
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import sharding
from codinet_jax.runtime.console import plural

Call = Callable[[int], Any]  # answers a batch for the i-th time; what it returns can be waited for
NUM_TRIALS = 3  # of each static arrangement, to find the fastest
BURST_SECONDS = 0.1  # a turn takes as many calls as fit, so that what is short is timed warm and over many decisions


class Row(NamedTuple):
    """One strategy at one batch size. `run_rate` is the share of blocks run; `ideal_ratio` is that of the MACs."""

    strategy: str
    batch_size: int
    run_rate: float
    median_seconds: float
    images_per_second: float
    ratio_to_static: float
    ideal_ratio: float

    @property
    def kept(self) -> float | None:
        """The share of the time that the MACs promise to save which was saved; None where they promise none."""
        return (1 - self.ratio_to_static) / (1 - self.ideal_ratio) if self.ideal_ratio < 1 else None


class Draws(NamedTuple):
    """Batches of one size to be answered in turn, and the noise that dictates decisions where no router takes them."""

    images: Sequence[np.ndarray]
    noise: Sequence[np.ndarray] | None


class Contest(NamedTuple):
    """What came of one batch size; `arrangements` are the static ones that were tried, in seconds."""

    rows: list[Row]
    arrangements: dict[str, float]
    programs: dict[str, 'Contestant']


def random_draws(model: RoutedResNet, batch_size: int, run_rate: float, num_draws: int, seed: int) -> Draws:
    """Random pixels; every image runs blocks of its own random choice, as many of them as the rate says."""
    rng, arch, n = np.random.default_rng(seed), model.architecture, model.architecture.num_blocks
    shape = (batch_size, arch.image_size, arch.image_size, arch.image_channels)
    images, noise = [], []
    for _ in range(num_draws):
        images.append(rng.integers(0, 256, shape, np.uint8))
        u_Bxn = rng.permuted(np.tile(np.arange(n) < round(run_rate * n), (batch_size, 1)), axis=1)
        noise.append(np.asarray(execution.dictated(u_Bxn)))
    return Draws(images, noise)


def real_draws(images_NxHxWxC: np.ndarray, batch_size: int, num_draws: int, seed: int) -> Draws:
    """Batches of real images, at random; decisions are the routers'."""
    rows = np.random.default_rng(seed).integers(0, len(images_NxHxWxC), (num_draws, batch_size))
    return Draws([images_NxHxWxC[chosen] for chosen in rows], None)


class Contestant:
    """A program compiled for one batch size on the first so many devices.

    `peak_bytes` is the most memory it holds at once on a device, weights and images among it.
    """

    def __init__(self, forward: Program, weights: Mapping[str, Any], num_devices: int, draws: Draws, threshold: float):
        self.mesh, self.threshold = sharding.data_mesh(num_devices), np.float32(threshold)
        self.weights = jax.device_put(weights, sharding.replicated(self.mesh))
        started = time.perf_counter()
        self.executable: Any = (
            sharding.spread(forward, self.mesh).lower(self.weights, *self._inputs(draws, 0)).compile()
        )
        self.compile_seconds = time.perf_counter() - started
        self.peak_bytes = sharding.peak_bytes(self.executable)

    def on(self, draws: Draws) -> Call:
        """Answers one batch of the draws after the other; they lie on the devices already.

        One image is waited for, as who sends one waits; of larger batches the next is under way meanwhile.
        """
        inputs = [self._inputs(draws, i) for i in range(len(draws.images))]
        wait = jax.block_until_ready if len(draws.images[0]) == 1 else lambda answer: answer
        return lambda i: wait(self.executable(self.weights, *inputs[i % len(inputs)]))

    def _inputs(self, draws: Draws, i: int) -> tuple[Any, ...]:
        arrays = sharding.put(self.mesh, draws.images[i], *([draws.noise[i]] if draws.noise else []))
        return (arrays[0], self.threshold, *arrays[1:])


def interleaved(calls: Mapping[Any, Call], repeats: int) -> dict[Any, float]:
    """The median seconds of each call, all taken in turns, after a first call each and one that tells how many make a
    turn."""
    for call in calls.values():
        jax.block_until_ready(call(0))  # an accelerator loads modules and records graphs now
    burst = {name: max(1, round(BURST_SECONDS / _seconds(call, range(1)))) for name, call in calls.items()}
    seconds: dict[Any, list[float]] = {name: [] for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            seconds[name].append(_seconds(call, range(turn * burst[name], (turn + 1) * burst[name])))
    return {name: statistics.median(times) for name, times in seconds.items()}


def _seconds(call: Call, numbers: range) -> float:
    """The mean time of a call over its i-th times, the last one waited for."""
    started, answer = time.perf_counter(), None
    for i in numbers:
        answer = call(i)
    jax.block_until_ready(answer)
    return (time.perf_counter() - started) / len(numbers)


def contest(
    model: RoutedResNet,
    spec: DataSpec,
    variables: Mapping[str, Any],
    draws: Sequence[Draws],
    *,
    repeats: int,
    threshold: float = 0.5,
    tile: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Contest:
    """Times every strategy on every one of the draws, all of one batch size, against the fastest static arrangement.

    `report` gets a line on what takes long.
    """
    batch_size, about = len(draws[0].images[0]), network_spec(model, spec)
    spread_over = max(d for d in range(1, jax.device_count() + 1) if batch_size % d == 0)

    def compiled(name: str, program_and_weights: tuple[Program, Any], num_devices: int) -> Contestant:
        contestant = Contestant(*program_and_weights, num_devices, draws[0], threshold)
        report(f'compiled {name} in {contestant.compile_seconds:.1f} s')
        return contestant

    without_routers, in_order = model.static, resuming.in_order(model.architecture, variables)
    static = {
        f'{plural(num_devices, "device")}, blocks {"in a loop" if unroll == 1 else "unrolled"}': (num_devices, unroll)
        for num_devices in sorted({1, spread_over})
        for unroll in (1, len(about.blocks_macs))
    }
    candidates = {
        name: compiled(f'static, {name}', ready(without_routers, spec, 'masked', in_order, unroll=unroll), num_devices)
        for name, (num_devices, unroll) in static.items()
    }
    is_fused = fused.is_possible(model)
    for num_devices in sorted({1, spread_over}) if is_fused else []:
        name = f'{plural(num_devices, "device")}, fused'
        candidates[name] = compiled(f'static, {name}', ready(without_routers, spec, FUSED, in_order), num_devices)
    arrangements = interleaved({name: each.on(draws[0]) for name, each in candidates.items()}, NUM_TRIALS)
    programs = {'static': candidates[min(arrangements, key=arrangements.__getitem__)]}
    strategies = [strategy for strategy in STRATEGIES if can_run(strategy, batch_size)] + ([FUSED] if is_fused else [])
    for strategy in strategies:
        options: dict[str, Any] = {'tile': tile} if strategy == 'compacted' else {}
        programs[strategy] = compiled(strategy, ready(model, spec, strategy, variables, **options), spread_over)

    calls = {('static', 0): programs['static'].on(draws[0])} | {
        (strategy, i): programs[strategy].on(each) for i, each in enumerate(draws) for strategy in strategies
    }
    report(f'timing {len(calls)} programs and decisions at batch {batch_size}, {repeats} times in turns')
    medians = interleaved(calls, repeats)
    decided = [_decisions(calls['masked', i], len(each.images), threshold) for i, each in enumerate(draws)]
    rows = []
    for (strategy, i), seconds in medians.items():
        is_static = strategy == 'static'
        macs = about.fixed_macs + np.mean(decided[i] @ np.asarray(about.blocks_macs))
        rows.append(
            Row(
                strategy=strategy,
                batch_size=batch_size,
                run_rate=1.0 if is_static else float(np.mean(decided[i])),
                median_seconds=seconds,
                images_per_second=batch_size / seconds,
                ratio_to_static=seconds / medians['static', 0],
                ideal_ratio=1.0 if is_static else float(macs / about.static_macs),
            )
        )
    return Contest(rows, arrangements, programs)


def _decisions(call: Call, num_draws: int, threshold: float) -> np.ndarray:
    """What was decided, over all draws: bool [draws * B, n]."""
    return np.concatenate([np.asarray(call(i)[1]) >= np.float32(threshold) for i in range(num_draws)])
