"""The whole train state and the run's progress on disk, for resuming; the only file that knows Orbax's manager."""

import pathlib
from typing import Any, Self

import orbax.checkpoint as ocp

from codinet_jax.training.state import TrainState


class Checkpoints:
    """The newest checkpoints of a run, by step. Saving returns once the state is copied off the device and goes on
    writing behind; leaving the context waits for it."""

    def __init__(self, directory: pathlib.Path, keep: int = 2):
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.LatestN(keep),
            # Steps are saved when the loop says so, not when the manager thinks it is time.
            save_decision_policy=ocp.checkpoint_managers.FixedIntervalPolicy(1),
        )
        self._manager = ocp.CheckpointManager(directory, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def save(self, step: int, state: TrainState, progress: dict[str, Any]) -> None:
        """Saves a step once; `progress` is what JSON can hold."""
        if step != self._manager.latest_step():
            items = {'state': ocp.args.StandardSave(state), 'progress': ocp.args.JsonSave(progress)}
            self._manager.save(step, args=ocp.args.Composite(**items))

    def is_preempted(self, step: int) -> bool:
        """Whether one of several hosts was told to stop, so that all of them should after this step."""
        return self._manager.reached_preemption(step)

    def progress(self) -> dict[str, Any] | None:
        """The progress saved with the newest checkpoint; None if there is no checkpoint."""
        step = self._manager.latest_step()
        if step is None:
            return None
        return self._manager.restore(step, args=ocp.args.Composite(progress=ocp.args.JsonRestore()))['progress']

    def state(self, abstract: TrainState) -> TrainState:
        """The newest state, restored into the structure and shardings of `abstract`."""
        items = {'state': ocp.args.StandardRestore(abstract)}
        return self._manager.restore(self._manager.latest_step(), args=ocp.args.Composite(**items))['state']
