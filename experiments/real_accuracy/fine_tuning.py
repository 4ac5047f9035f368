"""A fine-tuning from its first step, or the one it was stopped at, to its last."""

import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from experiments.real_accuracy import training
from experiments.real_accuracy.gates import Knobs
from experiments.real_accuracy.progress import log


def steps_per_call() -> int:
    """Of a device that is best left alone for long, and of a CPU, which is not."""
    return 1 if jax.default_backend() == 'cpu' else 20


class Steps(NamedTuple):
    """The jitted training, `per_call` steps at once, and what its batches are drawn from.

    `place` puts batches on devices, as where there are several.
    """

    call: Any
    data: training.Data
    batch: int
    num_views: int
    pool: int
    per_call: int
    seed: int
    place: Callable[[training.Batches], training.Batches] = lambda batches: batches

    @property
    def num_images(self) -> int:
        return len(self.data.labels_N)

    def num_of(self, epochs: float) -> int:
        """Steps of so many passes over the images, in whole calls."""
        return max(1, round(epochs * (self.num_images // self.batch) / self.per_call)) * self.per_call

    def take(self, state: training.State, schedule: Knobs, step: int) -> tuple[training.State, dict[str, Any]]:
        """The next state, which this one is given up for, and metrics; `step` is the first of those taken."""
        return self.call(state, *self._arguments(schedule, step))

    def compile(self, state: training.State, schedule: Knobs) -> None:
        """For JAX's cache, where there is one."""
        self.call.lower(state, *self._arguments(schedule, 0)).compile()

    def _arguments(self, schedule: Knobs, step: int) -> tuple[Any, ...]:
        steps = range(step, step + self.per_call)
        drawn = training.batches(self.num_images, self.batch, self.num_views, self.pool, steps, self.seed)
        return (
            self.data,
            self.place(drawn),
            Knobs(*(knob[step : steps.stop] for knob in schedule)),
            jax.random.key(self.seed),
        )


class Trained(NamedTuple):
    """What training came to; `history` holds the metrics of each call, by its first step."""

    averages: Any
    num_steps: int
    history: list[tuple[int, dict[str, Any]]]
    seconds: float
    ms_per_step: float

    @property
    def shown(self) -> list[dict[str, float]]:
        """The history for a file of results: about forty calls of it."""
        few = self.history[:: max(1, len(self.history) // 40)]
        return [{'step': step, **{key: float(value) for key, value in metrics.items()}} for step, metrics in few]


def train(
    steps: Steps,
    schedule: Knobs,
    variables: Any,
    saved: pathlib.Path,
    settings: Mapping[str, Any],
    save_seconds: float,
    fixed_from: int | None = None,
    fix: Callable[[Any], Any] = lambda averages: averages,
) -> Trained:
    """Takes all steps of a schedule.

    Args:
      steps: what takes them.
      schedule: the knobs of each.
      variables: what they begin from, if no state was saved.
      saved: the file of the state.
      settings: of the run, which are saved with it.
      save_seconds: between two savings.
      fixed_from: the step before which the averages, thresholds fixed, become the variables, if there is one.
      fix: fixes thresholds of averages.
    """
    num_steps, per_call, save_time = len(schedule.rates_n), steps.per_call, time.perf_counter()
    state, history = training.resume(saved, training.begin(variables)), []
    first_step = int(state.step)
    if first_step:
        log(f'going on from step {first_step} of {num_steps}')
    started = compiled_at = time.perf_counter()
    for step in range(first_step, num_steps, per_call):
        if time.perf_counter() - save_time > save_seconds:
            training.save(saved, state, settings)
            save_time = time.perf_counter()
        if step == fixed_from:
            state = training.begin(fix(state.averages), step)
        state, metrics = steps.take(state, schedule, step)
        if step == first_step:
            jax.block_until_ready(metrics)
            log('first call')
            compiled_at = time.perf_counter()
        history.append((step, metrics))
        is_last = step + per_call >= num_steps
        if len(history) % 50 == 0 or is_last:
            at, shown = history[-1 if is_last else -2]  # the devices are at the newest
            log(f'step {at}', {key: round(float(value), 4) for key, value in shown.items()})
    training.save(saved, state, settings)
    ended = time.perf_counter()
    ms_per_step = 1e3 * (ended - compiled_at) / max(1, num_steps - first_step - per_call)
    log(f'{num_steps - first_step} steps, {ms_per_step:.2f} ms each')
    return Trained(state.averages, num_steps, history, ended - started, ms_per_step)
