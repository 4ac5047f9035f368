"""What a run knows and reports of its steps: their metrics, means over a window, time, and whether all is finite."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from codinet_jax.config.recipe import Recipe
from codinet_jax.evaluation.statistics import fixed_in_words
from codinet_jax.methods.terms import RESERVED
from codinet_jax.runtime.console import duration, log, terminal_width
from codinet_jax.runtime.errors import Diverged
from codinet_jax.runtime.waiting import SECONDS_BETWEEN_LINES
from codinet_jax.training.metric_files import MetricWriter
from codinet_jax.training.step import Metrics

MOST_SKIPPED_IN_A_ROW = 20
MOST_UNREAD, MOST_SECONDS_UNREAD = 10, 0.2  # steps whose metrics wait on the devices


@dataclasses.dataclass
class Progress:
    """What a resumed run must know beside the train state; saved with it as JSON."""

    stage: int = 1
    step: int = 0
    top1_stage1: float | None = None
    seconds: float = 0.0
    timed_steps: int = 0  # all but those that compiled or waited for something else than a step
    timed_seconds: float = 0.0
    metrics_bytes: int = 0
    num_skipped: int = 0
    skipped_in_a_row: int = 0
    num_images: int = 0  # of train; 0 in checkpoints of older versions
    is_evaluation_due: bool = False  # a signal ended what was due after this step, cost matching among it
    window: dict[str, Any] = dataclasses.field(default_factory=dict)


class StepReader:
    """Reads the metrics of steps, a few at a time, and counts, times, checks and reports them.

    `newest_checkpoint` gives the step of one that is written, or None, and is itself None where none is kept, as from
    Python; `before_log` is called before a window of means is written; `has_diversity` is whether the method can be
    told to keep routes apart.
    """

    def __init__(
        self,
        progress: Progress,
        writer: MetricWriter,
        recipe: Recipe,
        newest_checkpoint: Callable[[], int | None] | None,
        before_log: Callable[[], None],
        has_diversity: bool,
    ):
        self.progress, self.writer, self.recipe = progress, writer, recipe
        self.window = RunningMeans(**progress.window)
        self._newest_checkpoint, self._before_log = newest_checkpoint, before_log
        self._has_diversity = has_diversity
        self._unread: list[Metrics] = []
        self._read_at = 0.0
        self._last_read: float | None = None
        self._last_warning: str | None = None

    def begin(
        self, stage: int, stage_end: int, run_end: int, always_run_n: Callable[[int], Sequence[bool] | np.ndarray]
    ) -> None:
        """Steps of a stage follow; `always_run_n` gives the blocks that have nothing to decide at a step."""
        self._stage, self._stage_end, self._always_run_n = stage, stage_end, always_run_n
        self._lines = ProgressLines(stage, run_end, self.recipe.batch_size)

    def add(self, metrics: Metrics) -> None:
        """Takes a step's metrics and, where it is time, reads those of steps before.

        They are read now that the next step is on its way: no device waits for the host. Where steps are short, reading
        each by itself would cost the host as much as a step. The first one starts the clock.
        """
        is_late = self._last_read is None or time.monotonic() - self._read_at > MOST_SECONDS_UNREAD
        # Several hosts keep step by reading: one far ahead would be asked to stop at a step that it has passed.
        most_unread = MOST_UNREAD if jax.process_count() == 1 else 1
        if len(self._unread) >= (1 if is_late else most_unread):
            self._read()
        self._unread.append(metrics)

    def read_all(self) -> None:
        """Waits for all steps; the time until the next one is nobody's."""
        self._read()
        self._last_read = None

    def _read(self) -> None:
        progress, unread, values = self.progress, self._unread, {}
        self._unread = []
        for metrics in jax.device_get(unread):
            values = {**metrics.pop('terms'), **metrics}
            self._check_finite(values)
            progress.step += 1
            if values.get('skipped'):
                progress.num_skipped += 1
            self.window.add(values)
            if progress.step % self.recipe.log_every_steps == 0 or progress.step == self._stage_end:
                self._log()
        self._read_at = time.monotonic()
        if unread:
            if self._last_read is not None:
                progress.timed_steps += len(unread)
                progress.timed_seconds += self._read_at - self._last_read
            self._last_read = self._read_at
            self._lines.update(progress.step, values, progress.timed_steps, progress.timed_seconds)

    def _check_finite(self, values: Mapping[str, Any]) -> None:
        """Stops for numbers that no later step can fix, or for too many skipped steps, before any of it is saved."""
        term, progress = first_not_finite(values), self.progress
        progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if term and values.get('skipped') else 0
        if term is None or 0 < progress.skipped_in_a_row < MOST_SKIPPED_IN_A_ROW:
            return
        is_skipping = progress.skipped_in_a_row > 0
        many = f' for {MOST_SKIPPED_IN_A_ROW} steps in a row' if is_skipping else ''
        what = f'Step {progress.step + 1} has a {term.replace("_", " ")} of {values[term]}{many}'
        if self._newest_checkpoint is None:
            hint = '' if is_skipping else ', or skip such steps (skip_nonfinite=True)'
            raise Diverged(f'{what}: give the Trainer a lower learning_rate{hint}.')
        saved = self._newest_checkpoint()
        kept = f'the checkpoint of step {saved} is kept' if saved else 'there is no checkpoint yet'
        hint = '' if is_skipping else ', or skip such steps (optimizer.skip_nonfinite=True)'
        raise Diverged(
            f'{what} ({kept}): train with a lower stage{progress.stage}.learning_rate or a warm-up{hint}, in another '
            '--workdir.'
        )

    def _log(self) -> None:
        means = self.window.means()
        self._before_log()
        rate = {'images_per_second': self._lines.images_per_second}
        self.writer.write(self.progress.step, 'train', {'stage': self._stage} | means | rate)
        first_step = self.progress.step - self.window.count
        self.window = RunningMeans()
        warning = routing_warning(means, self._always_run_n(first_step), has_diversity=self._has_diversity)
        if warning and warning != self._last_warning:
            log(f'warning: {warning}')
        self._last_warning = warning


class RunningMeans:
    """Means of every metric since the last reset; its sums travel with the checkpoint, so a resumed window is whole.

    Of a step that was skipped nothing counts but that: 'skipped' is the share of such steps.
    """

    def __init__(self, sums: Mapping[str, Any] | None = None, count: int = 0):
        self.sums = {name: np.asarray(value, np.float64) for name, value in (sums or {}).items()}
        self.count = count

    def add(self, metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            if name == 'skipped' or not metrics.get('skipped'):
                self.sums[name] = self.sums.get(name, 0.0) + np.asarray(value, np.float64)
        self.count += 1

    def means(self) -> dict[str, Any]:
        num_taken = self.count - self.sums.get('skipped', 0.0)
        return {
            name: (total / (self.count if name == 'skipped' else num_taken)).tolist()
            for name, total in self.sums.items()
        }

    def as_json(self) -> dict[str, Any]:
        return {'sums': {name: total.tolist() for name, total in self.sums.items()}, 'count': self.count}


class ProgressLines:
    """One line on the console a few times a minute. First host only."""

    def __init__(self, stage: int, last_step: int, images_per_step: int):
        """`last_step` is that of the run, so that the time left is what a person waits for."""
        self._stage, self._last_step, self._images = stage, last_step, images_per_step
        self._line_at, self._steps, self._seconds = time.monotonic(), 0, 0.0
        self.images_per_second: float | None = None

    def update(self, step: int, metrics: Mapping[str, Any], timed_steps: int, timed_seconds: float) -> None:
        """Reports how far the run is, if it has not for a while; `metrics` are the last step's.

        The run has spent `timed_seconds` on `timed_steps`: evaluations, checkpoints and compiling are not among them.
        """
        steps, seconds = timed_steps - self._steps, timed_seconds - self._seconds
        if time.monotonic() - self._line_at < SECONDS_BETWEEN_LINES or not steps:
            return
        self._line_at, self._steps, self._seconds = time.monotonic(), timed_steps, timed_seconds
        self.images_per_second = self._images * steps / seconds
        left = (self._last_step - step) * seconds / steps
        parts = (
            Part(f'stage {self._stage}', 2),
            Part(f'step {step}/{self._last_step}', 0),
            Part(f'{step / self._last_step:.0%}', 1),
            Part(f'{duration(left)} left', 0),
            Part(f'{self.images_per_second:.0f} images/s', 4),
        )
        log(fitted((*parts, *described(metrics)), terminal_width()))


class Part(NamedTuple):
    """A part of a line; of those for which there is no room, the ones with the highest `rank` are left out first."""

    text: str
    rank: int


def described(metrics: Mapping[str, Any]) -> list[Part]:
    """The metrics of a progress line: losses, accuracy and, of a routed network, K, gamma and #paths."""
    terms = [name for name in metrics if name not in RESERVED]
    parts = [Part(f'loss {float(metrics["loss"]):.3f}', 0), Part(f'acc {float(metrics["accuracy"]):.1%}', 0)]
    if 'mean_path_length' in metrics:
        parts += [
            Part(f'K {float(metrics["mean_path_length"]):.1f}/{len(metrics["run_rates_n"])}', 1),
            Part(f'paths {int(metrics["num_paths"])}', 3),
            Part(f'γ {float(metrics["gamma"]):.3f}', 5),
        ]
    return parts + [Part(f'{_short(name)} {float(metrics[name]):.3f}', 6 + i) for i, name in enumerate(terms)]


def fitted(parts: Sequence[Part], width: int) -> str:
    """As many of the parts as fit a line of `width` letters, in their order."""
    kept = list(parts)
    while len(line := '  '.join(part.text for part in kept)) > width and any(part.rank for part in kept):
        kept.remove(max(kept, key=lambda part: part.rank))
    return line


def first_not_finite(metrics: Mapping[str, Any]) -> str | None:
    """The term that first went wrong in a step, by name; None if all are finite."""
    names = (*(name for name in metrics if name not in RESERVED), 'loss', 'gradient_norm')
    return next((name for name in names if name in metrics and not np.isfinite(metrics[name])), None)


def _short(name: str) -> str:
    """cross_entropy is ce, consistency con; four letters stay."""
    if '_' in name:
        return ''.join(word[0] for word in name.split('_') if word)
    return name if len(name) <= 4 else name[:3]


def routing_warning(
    means: Mapping[str, Any], always_run_n: Sequence[bool] | np.ndarray = (), *, has_diversity: bool = True
) -> str | None:
    """One sentence when a window's routing has collapsed, wholly or in some blocks; None when it is alive.

    Blocks of `always_run_n` have nothing to decide; `has_diversity` is as in `StepReader`.
    """
    if 'num_paths' not in means:
        return None
    if means['num_paths'] <= 1:
        hint = '; a larger weight or margin of diversity in the loss keeps routes apart (beta, diversity_margin)'
        return (
            'routing has collapsed: every image takes one route, so this is a static sub-network'
            f'{hint if has_diversity else ""}.'
        )
    fixed = fixed_in_words(means['run_rates_n'], always_run_n)
    return f'part of the routing is fixed: {fixed}.' if fixed else None
