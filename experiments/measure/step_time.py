"""What routing adds to a training step: the routed network's stage 1 step against the static one's, same batch.

    python -m experiments.measure.step_time --config=cifar10_r32 --config.batch_size=32

Both are compiled first, then timed in turns, so that a machine that slows down slows both; medians are printed.
"""

import statistics
import time
from collections.abc import Sequence

from absl import flags

from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import command

CONFIG = config_flag.define_config('Network, batch and views to time.', 'cifar10_r32')
REPEATS = flags.DEFINE_integer('repeats', 20, 'Steps of each network that are timed.', lower_bound=1)


def main(argv: Sequence[str]) -> None:
    del argv
    config = config_flag.read(CONFIG)
    command.start_devices(config.batch_size, trains=True)

    from codinet_jax.config import default, setup
    from codinet_jax.runtime import provenance
    from experiments.measure import report
    from experiments.measure.stepper import Stepper

    static = default.with_variant(config.copy_and_resolve_references(), 'static')
    steppers = {'routed': Stepper(setup.read(config)), 'static': Stepper(setup.read(static))}
    seconds: dict[str, list[float]] = {name: [] for name in steppers}
    for _ in range(REPEATS.value):
        for name, stepper in steppers.items():
            started = time.perf_counter()
            stepper.step()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    numbers = {
        **report.about(config),
        'repeats': REPEATS.value,
        'median_seconds': {name: round(value, 4) for name, value in medians.items()},
        'routed_over_static': round(medians['routed'] / medians['static'], 3),
        'views_per_second': {
            name: round(config.batch_size * config.num_views / value) for name, value in medians.items()
        },
    }
    report.show(numbers | {'seed': config.seed} | provenance.machine())


if __name__ == '__main__':
    command.run(main)
