"""A network's first training step, compiled, with made up images to take it on: what scripts time."""

import jax

from codinet_jax.config.setup import Setup
from codinet_jax.runtime import sharding
from codinet_jax.training import profiling, stages


class Stepper:
    """Takes steps of stage 1 from a fresh state, on one batch, on all devices; two are taken already."""

    def __init__(self, setup: Setup):
        mesh = sharding.data_mesh()
        setup.recipe.check_devices(mesh.size)
        stage = stages.plan(setup, num_images=50_000)[0]
        self._batch = sharding.put(mesh, *profiling.random_batch(setup))
        self._step = stages.compiled(stage.step, mesh)
        self.state = stage.placed_state(mesh)
        self.step()
        self.step()

    def step(self) -> None:
        """Takes one step and waits for it."""
        self.state, metrics = self._step(self.state, *self._batch)
        jax.block_until_ready((self.state, metrics))
