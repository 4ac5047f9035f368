"""What routing adds to a training step: the routed network's stage 1 step against the static one's, same batch.

    python -m experiments.step_time --config=configs/cifar10_r32.py --config.batch_size=32

Both are compiled first, then timed in turns, so that a machine that slows down slows both; medians are printed.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from codinet_jax import doors

CONFIG = config_flags.DEFINE_config_file('config', 'configs/cifar10_r32.py', 'Network, batch and views to time.')
REPEATS = flags.DEFINE_integer('repeats', 20, 'Steps of each network that are timed.', lower_bound=1)


def main(argv: Sequence[str]) -> None:
    del argv
    config = doors.read_config(CONFIG)
    doors.start_devices(config.batch_size)

    from codinet_jax import provenance

    static = config.copy_and_resolve_references()
    static.model.router = 'static'
    steps = {'routed': _stepper(config), 'static': _stepper(static)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(REPEATS.value):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    row = {
        'network': f'{config.model.backbone} {config.model.depth}, router {config.model.router}',
        'images_x_views': f'{config.batch_size} x {config.num_views}',
        'repeats': REPEATS.value,
        'median_seconds': {name: round(value, 4) for name, value in medians.items()},
        'routed_over_static': round(medians['routed'] / medians['static'], 3),
        'views_per_second': {
            name: round(config.batch_size * config.num_views / value) for name, value in medians.items()
        },
    }
    print(json.dumps(row | {'seed': config.seed} | provenance.machine(), indent=2))


def _stepper(config: ConfigDict) -> Callable[[], None]:
    """A function that takes one training step and waits for it; compiled already."""
    import jax

    from codinet_jax import settings, sharding
    from codinet_jax.models.codinet import fresh_variables
    from codinet_jax.training import stages
    from codinet_jax.training import state as train_state

    settings.check(config)
    mesh = sharding.data_mesh()
    settings.check_devices(config, mesh.size)
    model, spec = settings.network(config), settings.dataset(config)
    stage = stages.plan(config, model, settings.costs(config), spec, num_images=50_000)[0]
    rng = np.random.default_rng(config.seed)
    batch = sharding.put(
        mesh,
        rng.integers(0, 256, (config.batch_size, *spec.image_shape), np.uint8),
        rng.integers(0, spec.num_classes, config.batch_size, np.int32),
    )
    step = stages.compiled(stage.step, mesh)

    def fresh() -> train_state.TrainState:
        variables = fresh_variables(model, config.seed)
        return train_state.create(variables, stage.step.optimizer, config.loss.gamma, is_averaged=False)

    state = jax.jit(fresh, out_shardings=sharding.replicated(mesh))()

    def take_step() -> None:
        nonlocal state
        state, metrics = step(state, *batch)
        jax.block_until_ready((state, metrics))

    take_step()
    take_step()
    return take_step


if __name__ == '__main__':
    doors.open_door(main)
