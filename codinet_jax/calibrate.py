"""Finds the threshold at which a finished run costs what it should:

    python -m codinet_jax.calibrate --workdir=runs/digits_r14 --target_cost=0.4

The threshold on the gates v is moved, on training images that were held out (config.val_split), until the mean image
costs the wanted share of the static network. It is kept in the workdir under a name that predict, evaluate, export and
benchmark take as --operating_point. The accuracy-cost curve of the one trained network is printed on the way.
"""

import re
from collections.abc import Sequence

from absl import flags

from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import command
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir

WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run is kept.')
config_flag.define_import()
TARGET_COST = flags.DEFINE_float('target_cost', None, "Wanted share of the static network's MACs, as 0.4.")
NAME = flags.DEFINE_string('name', None, 'What the operating point is called; the target cost if not given.')
DATA_DIR = flags.DEFINE_string('data_dir', None, "Where TFDS keeps its sets, if not where the run's config says.")
NUM_IMAGES = flags.DEFINE_integer('num_images', 5000, 'Images to calibrate on, at most.', lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Images at a time.', lower_bound=1)
NUM_POINTS = flags.DEFINE_integer('num_points', 10, 'Points of the curve.', lower_bound=3)


def main(argv: Sequence[str]) -> None:
    del argv
    workdir = Workdir.named(WORKDIR.value)
    target = TARGET_COST.value
    if target is None or not 0 < target < 2:
        raise InputError(
            "Say what the mean image may cost, as a share of the static network's MACs: --target_cost=0.4."
        )
    name = NAME.value or f'{target:g}'
    if not re.fullmatch(r'[\w.-]+', name):
        raise InputError(f'{name!r} cannot be a name: give --name letters, digits, dots, dashes and underscores.')
    command.start_devices()

    from codinet_jax.config import setup
    from codinet_jax.inference import calibration, load

    config = workdir.read_config()
    config.data_dir = DATA_DIR.value or config.data_dir
    named = setup.read(config)
    if named.model.router is None:
        raise InputError(f'{workdir} holds a static network, whose cost is one: there is nothing to calibrate.')
    data = named.data
    predictor = load.from_network(named.model, data.spec, workdir.read_weights())
    split = 'validation' if data.val_split else 'train'
    images = data.open(split).sample(NUM_IMAGES.value, named.recipe.seed)
    print(f'{images.num_images} images of {data.name} {split}')
    if not data.val_split:
        print('This run held none out (val_split=0): costs are true of new images too, but it has seen these labels.')

    def measure(threshold: float) -> calibration.Point:
        point = calibration.measured(predictor, images, BATCH_SIZE.value, threshold)
        print(f'  at {point.threshold:.6f}: {point.macs_share:.2%}', flush=True)
        return point

    print('measuring what thresholds cost ...')
    curve = calibration.trace_curve(measure, NUM_POINTS.value)
    found = calibration.find_threshold(measure, curve, target)
    rest = {'target_cost': target, 'split': split, 'num_images': images.num_images}
    workdir.write_operating_point(name, found._asdict() | rest | {'curve': [point._asdict() for point in curve]})
    print(calibration.readable(curve, found))
    print(
        f'operating point {name} is kept in {workdir}: give --operating_point={name} to predict, evaluate, export or '
        'benchmark.'
    )


if __name__ == '__main__':
    command.run(main)
