"""The whole train state and the run's progress on disk, for resuming; the only file that knows Orbax's manager.

With every checkpoint lies a digest of what was saved, so that one bit that is no longer as it was is noticed, and the
checkpoint before it taken.
"""

import contextlib
import functools
import hashlib
import json
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any, Self

import flax.struct
import jax
import numpy as np
import orbax.checkpoint as ocp

from codinet_jax.routing.controller import ControllerState
from codinet_jax.runtime import files, hosts
from codinet_jax.runtime.console import log
from codinet_jax.runtime.errors import InputError, first_line
from codinet_jax.runtime.signals import Stopped
from codinet_jax.training.state import TrainState

Progress = dict[str, Any]


@flax.struct.dataclass
class _Saved:
    """A train state under the names that checkpoints have always had."""

    step: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    budget: ControllerState
    averages: Any

    @classmethod
    def of(cls, state: TrainState) -> '_Saved':
        return cls(state.step, state.params, state.batch_stats, state.opt_state, state.controller, state.averages)

    def state(self, teacher: Any) -> TrainState:
        return TrainState(self.step, self.params, self.batch_stats, self.opt_state, self.budget, self.averages, teacher)


class Checkpoints:
    """The newest checkpoints of a run, by step. Saving returns once the state is copied off the device and goes on
    writing behind; leaving the context waits for it. Without a directory nothing is kept."""

    def __init__(self, directory: pathlib.Path | None, keep: int = 2):
        self._directory = directory
        self._manager: ocp.CheckpointManager | None = None
        if directory is None:
            return
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            # Steps are saved when the loop says so, not when the manager thinks it is time.
            save_decision_policy=ocp.checkpoint_managers.FixedIntervalPolicy(1),
        )
        self._manager = ocp.CheckpointManager(directory, options=options)

    def __enter__(self) -> Self:
        _hide_abandoned_writes()
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        try:
            if self._manager is not None:
                self._manager.close()
        except Exception as error:
            if failure in (None, Stopped):  # which says that it is saved; else what came first is to be reported
                raise self._reported(error) from error

    @property
    def newest_step(self) -> int | None:
        """The step of the newest checkpoint, whole or not; None if there is none."""
        return self._manager.latest_step() if self._manager else None

    def newest_written(self) -> int | None:
        """Waits for what is being written; the step of the newest checkpoint that is there then, if any is."""
        if self._manager is None or self._directory is None:
            return None
        with contextlib.suppress(Exception):  # the disk refused it, and the one before it is named
            self._manager.wait_until_finished()
        return max((int(path.name) for path in self._directory.iterdir() if path.name.isdigit()), default=None)

    def save(self, step: int, state: TrainState, progress: Progress) -> None:
        """Saves a step once; `progress` is what JSON can hold.

        Raises:
          InputError: it cannot be written, or the one before it could not; those before are as they were.
        """
        if self._manager is None or step == self.newest_step:
            return
        # Not device arrays, of which Orbax would have every device write a slice, each cut by a program of its own.
        state = jax.device_get(state)
        on_host = _Saved.of(state)
        note = {'progress': progress, 'digest': _digest(on_host, state.teacher, progress)}
        items = {'state': ocp.args.StandardSave(on_host), 'progress': ocp.args.JsonSave(note)}
        if state.teacher is not None:  # an item of its own, for checkpoints had none at first
            items['teacher'] = ocp.args.StandardSave(state.teacher)
        try:
            self._manager.save(step, args=ocp.args.Composite(**items))
        except Exception as error:  # the writing of the one before comes out here too, as whatever it is
            raise self._reported(error) from error

    def check(self) -> None:
        """Reports a checkpoint that could not be written behind.

        Raises:
          InputError: see `save`.
        """
        # Not `check_for_errors`, which takes the error: Orbax would miss it, and drop an older checkpoint for a newer
        # one that is not there.
        if self._manager is None or self._manager.is_saving_in_progress():
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._reported(error) from error

    def is_preempted(self, step: int) -> bool:
        """Whether one of several hosts was told to stop, so that all of them should after this step."""
        return self._manager is not None and self._manager.reached_preemption(step)

    def newest(self, abstract: Callable[[Progress], TrainState]) -> tuple[Progress, TrainState] | None:
        """Progress and state of the newest whole checkpoint, and None if there was never any.

        Newer ones that are damaged are put aside, beside the checkpoints, and reported. `abstract` gives the structure
        and the shardings of the state that goes with a progress.

        Raises:
          InputError: there are checkpoints and none is whole, or the machine does not let the newest be read; all are
            left as they are.
        """
        if self._manager is None or self._directory is None:
            return None
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = _whole(self._manager, step, abstract)
            except Exception as error:  # readers of damaged files raise whatever they stumble over
                if refusal := files.refused(self._directory / str(step), error):  # it may be whole
                    raise refusal from error
                damaged[step] = first_line(error)[:200]
                continue
            for bad in damaged:
                log(f'warning: the checkpoint of step {bad} is damaged ({damaged[bad]}): it is put aside.')
            hosts.together(lambda: self._put_aside(damaged) if jax.process_index() == 0 else None)
            if damaged:
                self._manager.reload()
            return found
        if damaged:
            newest = max(damaged)
            raise InputError(
                f'No checkpoint in {self._directory} can be read (step {newest}: {damaged[newest]}): they are damaged, '
                'or another version wrote them; restore them from a copy, or give another --workdir.'
            )
        return None

    def _put_aside(self, steps: dict[int, str]) -> None:
        assert self._directory is not None
        for step in steps:
            aside = self._directory.parent / 'damaged_checkpoints' / str(step)
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            (self._directory / str(step)).rename(aside)

    def _reported(self, error: Exception) -> Exception:
        """A sentence of what the disk refused; other errors, such as another host's death, as they are."""
        if not isinstance(error, OSError) and 'os_error_code' not in str(error):  # TensorStore's
            return error
        full = 'No space left on device'
        reason = full if full in str(error) else first_line(error)[:200]
        return InputError(
            f'No checkpoint can be written in {self._directory} ({reason}): make room, and the same command goes on '
            'from the last one.'
        )


@functools.cache
def _hide_abandoned_writes() -> None:
    """Orbax abandons its other writes when one fails. Each prints a traceback of its own, sooner or later."""
    report = sys.unraisablehook

    def report_unless_abandoned(unraisable: Any) -> None:
        if str(unraisable.exc_value) != 'Event loop is closed':
            report(unraisable)

    sys.unraisablehook = report_unless_abandoned


def _whole(
    manager: ocp.CheckpointManager, step: int, abstract: Callable[[Progress], TrainState]
) -> tuple[Progress, TrainState]:
    items = {'progress': ocp.args.JsonRestore()}
    note = manager.restore(step, args=ocp.args.Composite(**items))['progress']
    wanted = abstract(note['progress'])
    items = {'state': ocp.args.StandardRestore(_Saved.of(wanted))}
    if wanted.teacher is not None:
        items['teacher'] = ocp.args.StandardRestore(wanted.teacher)
    found = manager.restore(step, args=ocp.args.Composite(**items))
    saved: _Saved = found['state']
    teacher = found['teacher'] if 'teacher' in items else None
    if _digest(jax.device_get(saved), jax.device_get(teacher), note['progress']) != note['digest']:
        raise ValueError('it does not hold what was saved')
    return note['progress'], saved.state(teacher)


def _digest(state: _Saved, teacher: Any, progress: Progress) -> str:
    """SHA-256 of every number of a state on the host, where it stands in it, and of the progress."""
    digest = hashlib.sha256(json.dumps(progress, sort_keys=True).encode())
    leaves = jax.tree_util.tree_leaves_with_path(state) + jax.tree_util.tree_leaves_with_path(teacher)
    for path, leaf in leaves:
        array = np.asarray(leaf)
        digest.update(f'{jax.tree_util.keystr(path)} {array.dtype} {array.shape}'.encode())
        digest.update(np.ascontiguousarray(array).data if array.size else b'')
    return digest.hexdigest()
