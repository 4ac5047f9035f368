"""Makes the network that comes with the package: a cascade of two static CIFAR-10 ResNets, nothing trained.

`python -m experiments.ship_cifar10 --members=runs/r20,runs/r44 --data_dir=DIR` writes cifar10.npz and cifar10.json into
codinet_jax/inference/shipped. The members are runs of no epochs from weights that codinet_jax.import_weights read.
Thresholds are found on views of training images; test images are asked of once, in the end, for the card.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from codinet_jax.config import setup
from codinet_jax.inference import calibration, cascade, shipped
from codinet_jax.inference.operating_points import OperatingPoints
from codinet_jax.models import weights_file
from codinet_jax.runtime import command, provenance
from codinet_jax.workdir import Workdir

MEMBERS = flags.DEFINE_list('members', None, 'Workdirs of the two, the cheaper one first.', required=True)
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS keeps CIFAR-10.')
COST = flags.DEFINE_float('cost', 0.55, 'Share of the second network that an image of train costs in the mean.')
LICENCE = 'BSD-2-Clause, (c) 2018 Yerlan Idelbayev, github.com/akamaster/pytorch_resnet_cifar10; see LICENSE.txt'
NUM_IMAGES, BATCH_SIZE, NUM_POINTS = 10_000, 250, 25


def main(argv: Sequence[str]) -> None:
    del argv
    command.start_devices()
    workdirs = [Workdir(path) for path in MEMBERS.value]
    configs = [workdir.read_config() for workdir in workdirs]
    members = [
        member._replace(variables=_in_float16(member.variables)) for member in cascade.read_members(MEMBERS.value)
    ]
    spec = cascade.network_spec(members)
    configs[-1].data_dir = DATA_DIR.value or configs[-1].data_dir
    data = setup.read(configs[-1]).data
    images, test = data.open('train').sample(NUM_IMAGES, 0), data.open('test')
    measure = functools.partial(cascade.point, cascade.answers(members, images, BATCH_SIZE), spec)
    curve = calibration.trace_curve(measure, NUM_POINTS)
    chosen = calibration.find_threshold(measure, curve, COST.value)
    tested = cascade.answers(members, test, BATCH_SIZE)
    on_test = [cascade.point(tested, spec, each.threshold) for each in (*curve, chosen)]
    alone = {
        member.model.architecture.name: {
            'top1': float(np.mean(predictions_N == tested.labels_N)),
            'macs': member.model.costs.static_macs,
        }
        for member, predictions_N in zip(members, tested.predictions_KxN, strict=True)
    }
    sources = [weights_file.read_input(config.init_from) for config in configs if config.init_from]
    about = {
        'data': 'CIFAR-10; the 10,000 test images were asked of once',
        'weights': [source.source for source in sources if source],
        'sha256': [source.sha256 for source in sources if source],
        'licence': LICENCE,
        'calibrated_on': f'{NUM_IMAGES} training images, which both networks were trained on',
        'test': {'top1': on_test[-1].top1, 'macs': on_test[-1].macs_share * spec.static_macs},
        'test_curve': [each._asdict() for each in on_test[:-1]],
        'alone': alone,
        'commit': provenance.machine()['commit'],
    }
    shipped.write(
        shipped.DIRECTORY,
        'cifar10',
        [config.model.depth for config in configs],
        members,
        chosen.threshold,
        OperatingPoints({}, tuple(curve)),
        about,
    )
    for name, network in alone.items():
        print(f'{name} alone: top-1 {network["top1"]:.2%} at {network["macs"] / 1e6:.2f} MMACs')
    for each in on_test:
        print(f'{each.threshold:9.6f}: top-1 {each.top1:.2%} at {each.macs_share * spec.static_macs / 1e6:.2f} MMACs')


def _in_float16(variables: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float16).astype(np.float32), variables)


if __name__ == '__main__':
    command.run(main)
