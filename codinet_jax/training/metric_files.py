"""The metric files of a run: metrics.jsonl, and TensorBoard's."""

import contextlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, Self

import jax

from codinet_jax.runtime import files, optional_tensorflow
from codinet_jax.runtime.errors import InputError, first_line
from codinet_jax.workdir import Workdir


class MetricWriter:
    """Appends rows to metrics.jsonl, and to TensorBoard's files where TensorFlow is installed.

    First host only, and nowhere without a workdir.
    """

    def __init__(self, workdir: Workdir | None, keep_bytes: int = 0):
        """`keep_bytes`: where the file ended at the checkpoint that the run goes on from; what follows is redone."""
        self._file = self._board = None
        self._refusals: tuple[type[Exception], ...] = (OSError,)  # what the disk's is raised as
        if workdir is None or jax.process_index() > 0:
            return
        if optional_tensorflow.is_installed() and importlib.util.find_spec('tensorboard'):
            self._refusals += (optional_tensorflow.load().errors.OpError,)
            from clu import metric_writers

            with self._writing(workdir.tensorboard):
                self._board = metric_writers.SummaryWriter(str(workdir.tensorboard))
            self._tensorboard = workdir.tensorboard
        with files.reading(workdir.metrics):
            self._file = open(workdir.metrics, 'a+b')  # noqa: SIM115 (closed on exit)
            self._file.truncate(min(keep_bytes, self._file.seek(0, os.SEEK_END)))
            self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        # Closing tries once more what was refused, and would have the last word.
        suppressed = self._refusals if failure else ()
        for each in filter(None, (self._file, self._board)):
            with contextlib.suppress(*suppressed):
                each.close()

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """One row: `kind` is 'train' or 'evaluation'; values are numbers or lists of them, one a block.

        Raises:
          InputError: it cannot be written.
        """
        if not self._file:
            return
        with self._writing(self._file.name):
            self._file.write((json.dumps({'step': step, 'kind': kind} | dict(values)) + '\n').encode())
            self._file.flush()
        if self._board:
            with self._writing(self._tensorboard):
                self._board.write_scalars(step, {f'{kind}/{name}': value for name, value in _scalars(values)})
                self._board.flush()

    @contextlib.contextmanager
    def _writing(self, path: str | os.PathLike[str]) -> Iterator[None]:
        try:
            yield
        except self._refusals as error:
            raise InputError(
                f'{path} cannot be written ({_reason(error)}): make room, and the same command goes on from the last '
                'checkpoint.'
            ) from error

    def tell(self) -> int:
        """Where the file ends now."""
        return self._file.tell() if self._file else 0


def _reason(error: Exception) -> str:
    """What the system said: TensorFlow has it in its first line, after the file."""
    return (isinstance(error, OSError) and error.strerror) or first_line(error).rpartition('; ')[2]


def _scalars(values: Mapping[str, Any]) -> list[tuple[str, float]]:
    scalars: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, list):
            scalars += [(f'{name}/block_{k:02d}', item) for k, item in enumerate(value, start=1)]
        elif isinstance(value, int | float):
            scalars.append((name, float(value)))
    return scalars
