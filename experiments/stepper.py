"""A network's first training step, compiled, with made up images to take it on: what scripts time."""

import jax
import numpy as np
from ml_collections import ConfigDict

from codinet_jax import settings, sharding
from codinet_jax.models.codinet import fresh_variables
from codinet_jax.training import stages
from codinet_jax.training import state as train_state


class Stepper:
    """Takes steps of stage 1 from a fresh state, on one batch, on all devices; two are taken already."""

    def __init__(self, config: ConfigDict):
        settings.check(config)
        mesh = sharding.data_mesh()
        settings.check_devices(config, mesh.size)
        model, spec = settings.network(config), settings.dataset(config)
        stage = stages.plan(config, model, settings.costs(config), spec, num_images=50_000)[0]
        rng = np.random.default_rng(config.seed)
        self._batch = sharding.put(
            mesh,
            rng.integers(0, 256, (config.batch_size, *spec.image_shape), np.uint8),
            rng.integers(0, spec.num_classes, config.batch_size, np.int32),
        )
        self._step = stages.compiled(stage.step, mesh)

        def fresh() -> train_state.TrainState:
            variables = fresh_variables(model, config.seed)
            is_averaged = config.optimizer.ema_decay > 0
            return train_state.create(variables, stage.step.optimizer, config.loss.gamma, is_averaged=is_averaged)

        self.state = jax.jit(fresh, out_shardings=sharding.replicated(mesh))()
        self.step()
        self.step()

    def step(self) -> None:
        """Takes one step and waits for it."""
        self.state, metrics = self._step(self.state, *self._batch)
        jax.block_until_ready((self.state, metrics))
