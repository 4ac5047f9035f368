"""The programs that training and inference run, lowered for devices that need not be here: of shapes, with no array."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from codinet_jax.config.setup import Setup
from codinet_jax.data.spec import DataSpec
from codinet_jax.inference import program
from codinet_jax.inference.folding import cast, fold
from codinet_jax.inference.fused import tpu
from codinet_jax.models.network import RoutedResNet, fresh_variables
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from codinet_jax.training import stages

NUM_IMAGES = 50_000  # of a train set that is not read: only constants of the learning rate's schedule hang on it


def training_step(setup: Setup, mesh: Mesh, number: int = 1) -> Any:
    """A stage's step as `training.loop` runs it, lowered for the mesh's devices.

    Args:
      setup: what would be trained; its data are not read.
      mesh: of one axis, 'data'.
      number: of the stage, 1 or 2.

    Raises:
      InputError: the batch cannot be divided among the devices.
    """
    recipe, data = setup.recipe, setup.data
    recipe.check_devices(mesh.size)
    stage = stages.plan(setup, NUM_IMAGES, _for_platform(setup, mesh))[number - 1]
    state = jax.eval_shape(stage.first_state)
    # The host crops photographs, so that it sends views; of small images the device makes them.
    views = (recipe.num_views,) if data.dataset.is_streamed else ()
    images = jax.ShapeDtypeStruct((recipe.batch_size, *views, *data.image_shape), jnp.uint8)
    labels = jax.ShapeDtypeStruct((recipe.batch_size,), jnp.int32)
    rows, everywhere = sharding.by_rows(mesh), sharding.replicated(mesh)
    step_fn: Any = stages.compiled(stage.step, mesh)
    return step_fn.lower(_placed(state, everywhere), _placed(images, rows), _placed(labels, rows))


def inference(
    model: RoutedResNet,
    spec: DataSpec,
    mesh: Mesh,
    batch_size: int,
    strategy: str | None = None,
    tile: int | None = None,
) -> Any:
    """Inference as `Predictor` runs it, lowered for the mesh's devices.

    Args:
      model: the network; its weights are not read.
      spec: of the images.
      mesh: of one axis, 'data', over which the batch is spread.
      batch_size: images a call, over all devices.
      strategy: as in `program.STRATEGIES`, or 'fused' for TPUs; None: 'conditional' for one image,
        'compacted' for more.
      tile: rows at a time, of 'compacted'; None: the platform's own.

    Raises:
      InputError: the strategy cannot be used, or the batch not divided among the devices.
    """
    if batch_size % mesh.size:
        nearest = max(1, batch_size // mesh.size) * mesh.size
        raise InputError(
            f'batch_size {batch_size} cannot be divided evenly among {mesh.size} devices: try batch_size={nearest}.'
        )
    strategy = strategy or ('conditional' if batch_size == 1 else 'compacted')
    if tile and strategy != 'compacted':
        raise InputError(f'A tile is of compacted execution, and the strategy is {strategy}: leave it out.')
    # Folding computes; of zeros, which take neither time nor memory, for shapes are all that is wanted.
    shapes = jax.eval_shape(lambda: fresh_variables(model, 0))
    weights = fold(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes))
    if strategy == program.FUSED:
        if mesh.devices.flat[0].platform != 'tpu':
            raise InputError('Strategy fused is compiled here for TPUs alone: a CUDA device has its kernel from nvcc.')
        forward, weights = tpu.program(model, spec), tpu.pack(model, spec, weights)
    else:
        program.check_can_run(strategy, batch_size // mesh.size, mesh.devices.flat[0].platform)
        forward = program.program(model, spec, strategy, **({'tile': tile} if tile else {}))
        weights = cast(weights, model.dtype)
    images = jax.ShapeDtypeStruct((batch_size, *program.network_spec(model, spec).image_shape), jnp.uint8)
    threshold = jax.ShapeDtypeStruct((), jnp.float32)
    everywhere = sharding.replicated(mesh)
    return sharding.spread(forward, mesh).lower(
        _placed(weights, everywhere), _placed(images, sharding.by_rows(mesh)), _placed(threshold, everywhere)
    )


def _for_platform(setup: Setup, mesh: Mesh) -> RoutedResNet:
    """The network as the target would read it, in all that hangs on how many and which devices there are."""
    platform, settings = mesh.devices.flat[0].platform, setup.record['model']
    model = setup.training_model() if platform == 'cpu' else setup.model
    is_tpu = platform == 'tpu'
    return model.clone(
        unroll=1 if is_tpu and settings['unroll'] is None else model.unroll,
        norm_groups=(settings['norm_groups'] or mesh.size) if settings['batch_norm'] == 'device' else 1,
    )


def _placed(tree: Any, where: NamedSharding) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree)
