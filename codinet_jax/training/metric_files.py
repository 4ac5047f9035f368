"""The metric files of a run: metrics.jsonl, and TensorBoard's."""

import contextlib
import importlib.util
import json
import os
from collections.abc import Mapping
from typing import Any, Self

import jax

from codinet_jax.runtime import files, optional_tensorflow
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir


class MetricWriter:
    """Appends rows to metrics.jsonl, and to TensorBoard's files where TensorFlow is installed.

    First host only, and nowhere without a workdir.
    """

    def __init__(self, workdir: Workdir | None, keep_bytes: int = 0):
        """`keep_bytes`: where the file ended at the checkpoint that the run goes on from; what follows is redone."""
        self._file = self._board = None
        if workdir is None or jax.process_index() > 0:
            return
        with files.reading(workdir.metrics):
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
            with contextlib.suppress(OSError):  # closing tries once more, and would have the last word
                self._file.close()
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


def _scalars(values: Mapping[str, Any]) -> list[tuple[str, float]]:
    scalars: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, list):
            scalars += [(f'{name}/block_{k:02d}', item) for k, item in enumerate(value, start=1)]
        elif isinstance(value, int | float):
            scalars.append((name, float(value)))
    return scalars
