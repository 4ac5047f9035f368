"""Makes one network of several: the cheapest answers every image, and those it is unsure of go on to the next:

    python -m codinet_jax.cascade --members=runs/r20,runs/r56 --target_cost=0.5 --output=cascade.exported

Members are finished static runs, cheapest first, of the same images and classes; nothing is trained. The first may be
a run whose network resumes: it answers twice, and who is unsure still goes on to the next. An image's answer is the
mean of all that were asked. How unsure a network must be for the next to be asked is found on training images that were
held out of the last run (config.val_split), or else on those it was trained on, of which networks are surer than of
others: on new images such a cascade costs more than was asked for. What each target comes to on the test split is
printed, if there is one. What is written is an exported network like any other, which predicts and serves; its --cost
is a share of the last member's. With --workdir=DIRECTORY what it does with every test image is recorded there as a
run's evaluation is, for analyze and compare: an image's route is which networks it was sent to.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import command, plugins
from codinet_jax.runtime.errors import InputError, NoSuchSplit

if TYPE_CHECKING:
    from codinet_jax.data.datasets import DataSource
    from codinet_jax.data.split import Split
    from codinet_jax.inference.cascade import Member
    from codinet_jax.inference.operating_points import Point

MEMBERS = flags.DEFINE_list('members', [], 'Workdirs of finished static runs, cheapest first; the first may resume.')
plugins.define_import()
OUTPUT = flags.DEFINE_string('output', None, 'A new directory to export into.')
WORKDIR = flags.DEFINE_string('workdir', None, 'A new directory to record the evaluation of the first target in.')
TARGET_COST = flags.DEFINE_list('target_cost', ['0.5'], "Wanted shares of the last member's MACs; the first is used.")
DATA_DIR = flags.DEFINE_string('data_dir', None, "Where TFDS keeps its sets, if not where the last run's config says.")
NUM_IMAGES = flags.DEFINE_integer('num_images', 5000, 'Images to find thresholds on, at most.', lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 250, 'Images at a time.', lower_bound=1)
NUM_POINTS = flags.DEFINE_integer('num_points', 25, 'Points of the accuracy-cost curve.', lower_bound=3)


def main(argv: Sequence[str]) -> None:
    del argv
    targets = config_flag.shares(TARGET_COST.value)
    if not MEMBERS.value or OUTPUT.value is None or not targets:
        raise InputError(
            'Say what to make one network of, for what cost, and where to: --members=WORKDIR,WORKDIR '
            '--target_cost=0.5 --output=DIRECTORY.'
        )
    command.start_devices()

    from codinet_jax.config import setup
    from codinet_jax.inference import calibration, cascade, cascade_answers, cascade_record, exported
    from codinet_jax.inference.operating_points import OperatingPoints
    from codinet_jax.workdir import Workdir

    exported.check_new(OUTPUT.value)
    workdir = Workdir(WORKDIR.value) if WORKDIR.value else None
    if workdir and workdir.path.exists():
        raise InputError(f'{workdir} is there already: give --workdir a new directory.')
    members = cascade.read_members(MEMBERS.value)
    spec = cascade.network_spec(members)
    least = spec.fixed_macs / spec.static_macs
    if min(targets) < least:
        raise InputError(
            f'--target_cost is {min(targets):g}, but an image that gets the first answer costs {least:.3f} of '
            'the last: ask for more, or begin with a cheaper network.'
        )
    config = Workdir(MEMBERS.value[-1]).read_config()
    config.data_dir = DATA_DIR.value or config.data_dir
    named = setup.read(config)
    split, test = ('validation' if named.data.val_split else 'train'), _test_images(named.data, is_needed=bool(workdir))
    images = named.data.open(split).sample(NUM_IMAGES.value, named.recipe.seed)
    print(f'asking {len(members)} networks of {images.num_images} images of {named.data.name} {split} ...', flush=True)
    measure = functools.partial(cascade_answers.point, cascade_answers.answers(members, images, BATCH_SIZE.value), spec)
    curve = calibration.trace_curve(measure, NUM_POINTS.value)
    found = {f'{target:g}': calibration.find_threshold(measure, curve, target) for target in targets}
    print(calibration.readable(curve, list(found.values())))
    held_to = found[f'{targets[0]:g}'].threshold
    rest = {'split': split, 'num_images': images.num_images}
    known = OperatingPoints({name: each._asdict() | rest for name, each in found.items()}, tuple(curve))
    cascade.from_networks(members, threshold=held_to, operating_points=known).export(OUTPUT.value)
    if test is not None:
        _report(members, test, found)
    if workdir and test is not None:
        print('asking them of the augmentations of these, too ...', flush=True)
        cascade_record.write(workdir, members, named, test, held_to, BATCH_SIZE.value)
        print(f'recorded in {workdir}: see codinet_jax.analyze and codinet_jax.compare')
    print(f'{OUTPUT.value}: {exported.size(OUTPUT.value) / 1e6:.1f} MB, the next network asked below {1 - held_to:.2%}')


def _test_images(data: 'DataSource', is_needed: bool) -> 'Split | None':
    """The test split; None where train is all there is, and what is held out of it finds the thresholds.

    Raises:
      InputError: there is none, and it is needed, or nothing is held out; or it cannot be read.
    """
    try:
        return data.open('test')
    except NoSuchSplit as error:
        if is_needed or not data.val_split:
            raise
        print(f'This cascade cannot be tested on other images than those its thresholds are found on. {error}')
        return None


def _report(members: Sequence['Member'], test: 'Split', found: Mapping[str, 'Point']) -> None:
    """Prints what the networks alone, and the cascade at each threshold, do with the test images."""
    from codinet_jax.inference import cascade, cascade_answers

    spec = cascade.network_spec(members)
    print(f'asking them of the {test.num_images} test images ...', flush=True)
    tested = cascade_answers.answers(members, test, BATCH_SIZE.value)
    for step, predictions_N in zip(cascade.steps(members), tested.alone_KxN, strict=True):
        top1 = np.mean(predictions_N == tested.labels_N)
        print(f'  {step.name} alone: top-1 {top1:.2%} at {step.macs_alone / 1e6:.2f} MMACs')
    for name, each in found.items():
        top1, share = cascade_answers.point(tested, spec, each.threshold)[2:0:-1]
        print(
            f'  --operating_point={name}: top-1 {top1:.2%} at {share * spec.static_macs / 1e6:.2f} MMACs, {share:.1%} '
            'of the last alone'
        )


if __name__ == '__main__':
    command.run(main)
