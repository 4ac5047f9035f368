"""What routing adds to a training step: the routed network's stage 1 step against the static one's, same batch.

    python -m experiments.step_time --config=configs/cifar10_r32.py --config.batch_size=32

Both are compiled first, then timed in turns, so that a machine that slows down slows both; medians are printed.
"""

import json
import statistics
import time
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from codinet_jax import doors

CONFIG = config_flags.DEFINE_config_file('config', 'configs/cifar10_r32.py', 'Network, batch and views to time.')
REPEATS = flags.DEFINE_integer('repeats', 20, 'Steps of each network that are timed.', lower_bound=1)


def main(argv: Sequence[str]) -> None:
    del argv
    config = doors.read_config(CONFIG)
    doors.start_devices(config.batch_size)

    from codinet_jax import provenance
    from experiments.stepper import Stepper

    static = config.copy_and_resolve_references()
    static.model.router = 'static'
    steppers = {'routed': Stepper(config), 'static': Stepper(static)}
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(REPEATS.value):
        for name, stepper in steppers.items():
            started = time.perf_counter()
            stepper.step()
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


if __name__ == '__main__':
    doors.open_door(main)
