"""Makes the network that comes with the package: a cascade of two static CIFAR-10 ResNets, nothing trained.

`python -m experiments.ship_cifar10 --members=runs/r20,runs/r44 --data_dir=DIR` writes cifar10.npz and cifar10.json into
codinet_jax/inference/shipped. The members are runs of no epochs from weights that codinet_jax.import_weights read. The
threshold is `cascade.UNSURE`, chosen on nothing; test images are asked of once, for the card.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from codinet_jax.config import setup
from codinet_jax.inference import cascade, cascade_answers, shipped
from codinet_jax.models import weights_file
from codinet_jax.runtime import command, provenance
from codinet_jax.workdir import Workdir

MEMBERS = flags.DEFINE_list('members', None, 'Workdirs of the two, the cheaper one first.', required=True)
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS keeps CIFAR-10.')
LICENCE = 'BSD-2-Clause, (c) 2018 Yerlan Idelbayev, github.com/akamaster/pytorch_resnet_cifar10; see LICENSE.txt'
BATCH_SIZE = 250
THRESHOLDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def main(argv: Sequence[str]) -> None:
    del argv
    command.start_devices()
    configs = [Workdir(path).read_config() for path in MEMBERS.value]
    members = [
        member._replace(variables=_in_float16(member.variables)) for member in cascade.read_members(MEMBERS.value)
    ]
    spec = cascade.network_spec(members)
    configs[-1].data_dir = DATA_DIR.value or configs[-1].data_dir
    tested = cascade_answers.answers(members, setup.read(configs[-1]).data.open('test'), BATCH_SIZE)
    alone = {
        member.model.architecture.name: {
            'top1': float(np.mean(predictions_N == tested.labels_N)),
            'mmacs': member.model.costs.static_macs / 1e6,
        }
        for member, predictions_N in zip(members, tested.alone_KxN, strict=True)
    }
    sources = [source for config in configs if (source := weights_file.read_input(config.init_from or ''))]
    about = {
        'name': ' > '.join(alone),
        'data': 'CIFAR-10; the networks were trained on its 50,000 training images by the author of the weights',
        'weights': {source.source: source.sha256 for source in sources},
        'licence': LICENCE,
        'test': [_on_test(tested, spec, threshold) for threshold in THRESHOLDS],
        'alone': alone,
        'commit': provenance.machine()['commit'],
    }
    depths = [config.model.depth for config in configs]
    shipped.write(shipped.DIRECTORY, 'cifar10', depths, members, cascade.UNSURE, about)
    for line in (*alone.items(), *about['test']):
        print(line)


def _on_test(tested: cascade_answers.Answers, spec: Any, threshold: float) -> dict[str, float]:
    found = cascade_answers.point(tested, spec, threshold)
    return {'threshold': threshold, 'top1': found.top1, 'mmacs': found.macs_share * spec.static_macs / 1e6}


def _in_float16(variables: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x, np.float16).astype(np.float32), variables)


if __name__ == '__main__':
    command.run(main)
