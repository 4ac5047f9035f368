"""The programs that training and inference run, lowered for devices that need not be here: of shapes, with no array."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from codinet_jax import settings, sharding
from codinet_jax.errors import InputError
from codinet_jax.inference import program
from codinet_jax.inference.folding import fold
from codinet_jax.models.codinet import fresh_variables
from codinet_jax.training import stages
from codinet_jax.training import state as train_state

NUM_IMAGES = 50_000  # of a train set that is not read: only constants of the learning rate's schedule hang on it


def training_step(config: ConfigDict, mesh: Mesh, number: int = 1) -> Any:
    """A stage's step as `training.loop` runs it, lowered for the mesh's devices.

    Args:
      config: what would be trained; its data are not read.
      mesh: of one axis, 'data'.
      number: of the stage, 1 or 2.

    Raises:
      InputError: the config cannot be used, or its batch not divided among the devices.
    """
    settings.check(config)
    settings.check_devices(config, mesh.size)
    config = _for_platform(config, mesh)
    model = settings.network(config)
    # The network counts the devices that are here.
    model = model.clone(norm_groups=mesh.size if config.model.batch_norm == 'device' else 1)
    spec = settings.dataset(config)
    step = stages.plan(config, model, settings.costs(config), spec, NUM_IMAGES)[number - 1].step
    state = jax.eval_shape(
        lambda: train_state.create(
            fresh_variables(model, config.seed),
            step.optimizer,
            config.loss.gamma,
            is_averaged=config.optimizer.ema_decay > 0,
        )
    )
    # The host crops photographs, so that it sends views; of small images the device makes them.
    views = (config.num_views,) if spec.is_streamed else ()
    images = jax.ShapeDtypeStruct((config.batch_size, *views, *spec.image_shape), jnp.uint8)
    labels = jax.ShapeDtypeStruct((config.batch_size,), jnp.int32)
    rows, everywhere = sharding.by_rows(mesh), sharding.replicated(mesh)
    step_fn: Any = stages.compiled(step, mesh)
    return step_fn.lower(_placed(state, everywhere), _placed(images, rows), _placed(labels, rows))


def inference(
    config: ConfigDict, mesh: Mesh, batch_size: int, strategy: str | None = None, tile: int | None = None
) -> Any:
    """Inference as `Predictor` runs it, lowered for the mesh's devices.

    Args:
      config: of the network; no weights are read.
      mesh: of one axis, 'data', over which the batch is spread.
      batch_size: images a call, over all devices.
      strategy: as in `program.STRATEGIES`; None: 'conditional' for one image, 'compacted' for more.
      tile: rows at a time, of 'compacted'; None: the platform's own.

    Raises:
      InputError: the config or the strategy cannot be used, or the batch not divided among the devices.
    """
    settings.check(config)
    if batch_size % mesh.size:
        nearest = max(1, batch_size // mesh.size) * mesh.size
        raise InputError(
            f'batch_size {batch_size} cannot be divided evenly among {mesh.size} devices: try batch_size={nearest}.'
        )
    config, strategy = _for_platform(config, mesh), strategy or ('conditional' if batch_size == 1 else 'compacted')
    if tile and strategy != 'compacted':
        raise InputError(f'A tile is of compacted execution, and the strategy is {strategy}: leave it out.')
    forward = program.program(config, strategy, **({'tile': tile} if tile else {}))
    # Folding computes; of zeros, which take neither time nor memory, for shapes are all that is wanted.
    shapes = jax.eval_shape(lambda: fresh_variables(settings.network(config), config.seed))
    weights = fold(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))
    images = jax.ShapeDtypeStruct((batch_size, *settings.dataset(config).image_shape), jnp.uint8)
    threshold = jax.ShapeDtypeStruct((), jnp.float32)
    everywhere = sharding.replicated(mesh)
    return sharding.spread(forward, mesh).lower(
        _placed(weights, everywhere), _placed(images, sharding.by_rows(mesh)), _placed(threshold, everywhere)
    )


def _for_platform(config: ConfigDict, mesh: Mesh) -> ConfigDict:
    """The config as it would be read on the target: how far blocks are unrolled is the platform's, where left open."""
    config = config.copy_and_resolve_references()
    if mesh.devices.flat[0].platform != 'cpu' and config.model.unroll is None:
        config.model.unroll = 1
    return config


def _placed(tree: Any, where: NamedSharding) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree)
