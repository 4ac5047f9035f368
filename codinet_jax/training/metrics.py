"""What a run says while it runs: means over a window of steps, metric files, progress lines, warnings of collapse."""

import importlib.util
import json
import os
import time
from collections.abc import Mapping
from typing import Any, Self

import jax
import numpy as np

from codinet_jax import optional_tensorflow
from codinet_jax.errors import InputError
from codinet_jax.workdir import Workdir

SECONDS_BETWEEN_LINES = 15.0


class RunningMeans:
    """Means of every metric since the last reset; its sums travel with the checkpoint, so a resumed window is whole."""

    def __init__(self, sums: Mapping[str, Any] | None = None, count: int = 0):
        self.sums = {name: np.asarray(value, np.float64) for name, value in (sums or {}).items()}
        self.count = count

    def add(self, metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + np.asarray(value, np.float64)
        self.count += 1

    def means(self) -> dict[str, Any]:
        return {name: (total / self.count).tolist() for name, total in self.sums.items()}

    def as_json(self) -> dict[str, Any]:
        return {'sums': {name: total.tolist() for name, total in self.sums.items()}, 'count': self.count}


class MetricWriter:
    """Appends rows to metrics.jsonl, and to TensorBoard's files where TensorFlow is installed. First host only."""

    def __init__(self, workdir: Workdir, keep_bytes: int = 0):
        """`keep_bytes`: where the file ended at the checkpoint that the run goes on from; what follows is redone."""
        self._file = self._board = None
        if jax.process_index() > 0:
            return
        self._file = open(workdir.metrics, 'a+b')  # noqa: SIM115 (closed on exit)
        self._file.truncate(min(keep_bytes, self._file.seek(0, os.SEEK_END)))
        self._file.seek(0, os.SEEK_END)
        if optional_tensorflow.is_installed() and importlib.util.find_spec('tensorboard'):
            optional_tensorflow.load()
            from clu import metric_writers

            self._board = metric_writers.SummaryWriter(str(workdir.tensorboard))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()
        if self._board:
            self._board.close()

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """One row: `kind` is 'train' or 'evaluation'; values are numbers or lists of them, one a block."""
        if not self._file:
            return
        try:
            self._file.write((json.dumps({'step': step, 'kind': kind} | dict(values)) + '\n').encode())
            self._file.flush()
        except OSError as error:
            raise InputError(
                f'{self._file.name} cannot be written ({error.strerror}): make room, and the same command goes on from '
                'the last checkpoint.'
            ) from error
        if self._board:
            self._board.write_scalars(step, {f'{kind}/{name}': value for name, value in _scalars(values)})
            self._board.flush()

    def tell(self) -> int:
        """Where the file ends now."""
        return self._file.tell() if self._file else 0


class ProgressLines:
    """One line on the console a few times a minute. First host only."""

    def __init__(self, stage: int, last_step: int, images_per_step: int):
        """`last_step` is that of the run, so that the time left is what a person waits for."""
        self._stage, self._last_step, self._images = stage, last_step, images_per_step
        self._line_at, self._steps, self._seconds = time.monotonic(), 0, 0.0
        self.images_per_second: float | None = None

    def update(self, step: int, metrics: Mapping[str, Any], timed_steps: int, timed_seconds: float) -> None:
        """Says how far the run is, if it has not said so for a while; `metrics` are the last step's.

        The run has spent `timed_seconds` on `timed_steps`: evaluations, checkpoints and compiling are not among them.
        """
        steps, seconds = timed_steps - self._steps, timed_seconds - self._seconds
        if time.monotonic() - self._line_at < SECONDS_BETWEEN_LINES or not steps:
            return
        self._line_at, self._steps, self._seconds = time.monotonic(), timed_steps, timed_seconds
        self.images_per_second = self._images * steps / seconds
        left = (self._last_step - step) * seconds / steps
        say(
            f'stage {self._stage}  step {step}/{self._last_step}  {step / self._last_step:4.0%}  '
            f'{duration(left)} left  {self.images_per_second:.0f} images/s | {describe(metrics)}'
        )


def describe(metrics: Mapping[str, Any]) -> str:
    """The metrics of a progress line: losses, accuracy and, of a routed network, K, gamma and #paths."""
    names = {'loss': 'loss', 'cross_entropy': 'ce', 'consistency': 'con', 'diversity': 'div', 'cost': 'cost'}
    parts = [f'{short} {float(metrics[name]):.3f}' for name, short in names.items() if name in metrics]
    parts.append(f'| acc {float(metrics["accuracy"]):.1%}')
    if 'mean_path_length' in metrics:
        parts.append(
            f'K {float(metrics["mean_path_length"]):.1f}/{len(metrics["run_rates_n"])} '
            f'γ {float(metrics["gamma"]):.3f} paths {int(metrics["num_paths"])}'
        )
    return ' '.join(parts)


def first_not_finite(metrics: Mapping[str, Any]) -> str | None:
    """The term that first went wrong in a step, by name; None if all are finite."""
    terms = ('cross_entropy', 'consistency', 'diversity', 'cost', 'loss', 'gradient_norm')
    return next((name for name in terms if name in metrics and not np.isfinite(metrics[name])), None)


def routing_warning(means: Mapping[str, Any]) -> str | None:
    """One sentence when a window's routing has collapsed, wholly or in some blocks; None when it is alive."""
    if 'num_paths' not in means:
        return None
    if means['num_paths'] <= 1:
        return (
            'routing has collapsed: every image takes one route, so this is a static sub-network; '
            'raise loss.beta or loss.diversity_margin.'
        )
    rates = means['run_rates_n']
    never = [k for k, rate in enumerate(rates, start=1) if rate == 0]
    always = [k for k, rate in enumerate(rates, start=1) if rate == 1]
    parts = [
        f'{"block" if len(blocks) == 1 else "blocks"} {", ".join(map(str, blocks))} {what}'
        for blocks, what in ((never, 'never run'), (always, 'always run'))
        if blocks
    ]
    return f'part of the routing is fixed: {" and ".join(parts)}.' if parts else None


def say(text: str) -> None:
    """A line for the person who started the run, once however many hosts there are."""
    if jax.process_index() == 0:
        print(text, flush=True)


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours}h{minutes:02d}m'
    return f'{minutes}m{seconds:02d}s' if minutes else f'{seconds}s'


def _scalars(values: Mapping[str, Any]) -> list[tuple[str, float]]:
    scalars: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, list):
            scalars += [(f'{name}/block_{k:02d}', item) for k, item in enumerate(value, start=1)]
        elif isinstance(value, int | float):
            scalars.append((name, float(value)))
    return scalars
