"""Finds what thresholds on the gates cost, and those at which a finished run costs what it should:

    python -m codinet_jax.calibrate --workdir=runs/digits_r14
    python -m codinet_jax.calibrate --workdir=runs/digits_r14 --target_cost=0.4,0.6

The threshold on the gates v is moved, on training images that were held out (config.val_split), from every block run to
none, or to those that run for every image, whatever it is. The accuracy-cost curve is printed and kept in the workdir:
predict, evaluate, export and benchmark read the threshold of any --cost off it. For a target the threshold is searched
until the mean image costs that share of the static network, and kept under a name that they take as --operating_point.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import command, plugins
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir

if TYPE_CHECKING:
    from codinet_jax.inference.operating_points import Point

WORKDIR = flags.DEFINE_string('workdir', None, 'The directory of a finished run, as runs/digits_r14.')
plugins.define_import()
TARGET_COST = flags.DEFINE_list(
    'target_cost', None, "Wanted shares of the static network's MACs, as 0.4 or 0.4,0.6; the curve alone if not given."
)
NAME = flags.DEFINE_string('name', None, 'What the operating point is called; the target cost if not given.')
DATA_DIR = flags.DEFINE_string('data_dir', None, "Where the data lie, if not where the run's config says.")
NUM_IMAGES = flags.DEFINE_integer('num_images', 5000, 'Images to calibrate on, at most.', lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Images at a time.', lower_bound=1)
NUM_POINTS = flags.DEFINE_integer('num_points', 25, 'Points of the curve.', lower_bound=3)

TAKE_IT = 'to predict, evaluate, export or benchmark'


def main(argv: Sequence[str]) -> None:
    del argv
    workdir = Workdir.named(WORKDIR.value)
    targets = _targets(TARGET_COST.value or [], NAME.value)
    command.start_devices()

    from codinet_jax.config import setup
    from codinet_jax.inference import calibration, load

    config = workdir.read_config()
    config.data_dir, variables = DATA_DIR.value or config.data_dir, workdir.read_weights()
    named = setup.read(config)
    if named.model.router is None:
        raise InputError(f'{workdir} holds a static network, whose cost is one: there is nothing to calibrate.')
    data = named.data
    predictor = load.from_network(named.model, data.spec, variables)
    split = 'validation' if data.val_split else 'train'
    images = data.open(split).sample(NUM_IMAGES.value, named.recipe.seed)
    print(f'{images.num_images} images of {data.name} {split}')
    if not data.val_split:
        print('This run held none out (val_split=0), so it has seen these: new ones cost as much; fewer may be right.')
    points: list[calibration.Point] = []

    def measure(threshold: float) -> calibration.Point:
        points.append(calibration.measured(predictor, images, BATCH_SIZE.value, threshold))
        print(f'  at {threshold:.6f}: {points[-1].macs_share:.2%}', flush=True)
        return points[-1]

    print(f'what the mean image costs, of the static network, at each threshold of some {NUM_POINTS.value}:')
    num_forced = calibration.num_forced(named.model)
    curve = calibration.trace_curve(measure, NUM_POINTS.value, calibration.fewest_run(named.model))
    _keep(workdir, points, split, images.num_images)  # though a target may turn out to be out of reach
    found = {
        name: calibration.find_threshold(measure, points, target, has_floor=num_forced > 0)
        for name, target in targets.items()
    }
    in_order = _keep(workdir, points, split, images.num_images)
    for name, point in found.items():
        rest = {'target_cost': targets[name], 'split': split, 'num_images': images.num_images}
        workdir.write_operating_point(name, point._asdict() | rest | {'curve': [each._asdict() for each in curve]})
    print(f'{calibration.COLUMNS}\n{calibration.readable(curve, list(found.values()))}')
    if num_forced:
        print(f'The last is the floor: {num_forced} of {named.costs.num_blocks} blocks run for every image.')
    if warning := calibration.warning(curve, found):
        print(warning)
    print(
        f'The curve is kept in {workdir}: give --cost=0.5, or any from {in_order[-1].macs_share:.3f} to '
        f'{in_order[0].macs_share:.3f}, {TAKE_IT}.'
    )
    for name in found:
        print(f'operating point {name} is kept in {workdir}: give --operating_point={name} {TAKE_IT}.')


def _keep(workdir: Workdir, points: Sequence['Point'], split: str, num_images: int) -> list['Point']:
    """Keeps the curve in the workdir, and returns it by rising threshold."""
    in_order = sorted(points, key=lambda point: point.threshold)
    workdir.write_cost_curve([point._asdict() for point in in_order], split, num_images)
    return in_order


def _targets(texts: Sequence[str], name: str | None) -> dict[str, float]:
    """The wanted costs by what their operating points are to be called."""
    targets = config_flag.shares(texts)
    if name is None:
        return {f'{target:g}': target for target in targets}
    if len(targets) != 1:
        raise InputError(f'--name={name} is the name of one operating point: give one cost, as --target_cost=0.4.')
    if not re.fullmatch(r'[\w.-]+', name):
        raise InputError(f'{name!r} cannot be a name: give --name letters, digits, dots, dashes and underscores.')
    return {name: targets[0]}


if __name__ == '__main__':
    command.run(main)
