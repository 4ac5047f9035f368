"""Makes the network that comes with the package: a CIFAR-10 ResNet-56 that resumes a ResNet-20, nothing trained here.

`python -m experiments.ship_cifar10 --workdir=runs/resumed --trained=NAME.json --start=resnet20.npz,resnet56.npz
--data_dir=DIR` writes cifar10.npz and cifar10.json into codinet_jax/inference/shipped. The run is one of no epochs from
weights that experiments.real_accuracy.two_depths wrote beside NAME.json. The threshold is the one that it comes with,
set before anything was measured; test images are asked of for the card, which is all that they decide.
"""

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from codinet_jax.config import setup
from codinet_jax.inference import calibration, load, shipped
from codinet_jax.inference.operating_points import shift_of, threshold_of
from codinet_jax.models import weights_file
from codinet_jax.runtime import command, provenance
from codinet_jax.workdir import Workdir

WORKDIR = flags.DEFINE_string('workdir', None, 'The run whose network is to be shipped.', required=True)
TRAINED = flags.DEFINE_string('trained', None, 'What two_depths wrote of its training.', required=True)
START = flags.DEFINE_list('start', None, 'The given networks: the one that answers first, the deep one.', required=True)
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS keeps CIFAR-10.')
DEPTHS = (20, 56)
DATA = "CIFAR-10's 50,000 training images; its 10,000 test images for the curve"
LICENCE = (
    'BSD-2-Clause, trained further from weights (c) 2018 Yerlan Idelbayev, '
    'github.com/akamaster/pytorch_resnet_cifar10; see LICENSE.txt'
)
BATCH_SIZE, NUM_POINTS = 250, 20
ASKED_BELOW = (0.5, 0.7, 0.8, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)  # sureness of the first answer


def main(argv: Sequence[str]) -> None:
    del argv
    command.start_devices()
    workdir = Workdir(WORKDIR.value)
    config = workdir.read_config()
    config.data_dir = DATA_DIR.value or config.data_dir
    found = setup.read(config)
    variables = jax.tree.map(lambda x: np.asarray(x, np.float16).astype(np.float32), workdir.read_weights())
    test = found.data.open('test')
    images = test.sample(test.num_images, seed=0)
    predictor = load.from_network(found.model, found.data.spec, variables)
    measure = functools.lru_cache(None)(functools.partial(calibration.measured, predictor, images, BATCH_SIZE))
    bias = float(variables['params']['router_start']['bias'])
    named = {sureness: measure(threshold_of(-shift_of(sureness) - bias)) for sureness in ASKED_BELOW}
    last = calibration.fewest_run(found.model)
    curve = sorted({*named.values(), *calibration.trace_curve(measure, NUM_POINTS, last)})
    trained = json.loads(pathlib.Path(TRAINED.value).read_text())
    sources = [source for path in START.value if (source := weights_file.read_input(path))]
    about = {
        'name': found.model.architecture.name,
        'data': DATA,
        'start': {source.source: source.sha256 for source in sources},
        'training': {key: trained[key] for key in ('name', 'commit', 'seed', 'num_steps')}
        | {key: trained['settings'][key] for key in ('teachers', 'epochs', 'batch', 'rate')},
        'licence': LICENCE,
        'commit': provenance.machine()['commit'],
    }
    facts = {'curve': [point._asdict() for point in curve], 'about': about}
    shipped.write(shipped.DIRECTORY, 'cifar10', DEPTHS, found.data.spec, variables, facts)
    rows: dict[Any, calibration.Point] = {
        'first answer alone': measure(last),
        **named,
        'as it comes': measure(shipped.THRESHOLD),
        'every block': measure(calibration.RUN_ALL),
    }
    for name, point in rows.items():
        print(f'{name!s:>18}  {point.top1:.2%}  {point.macs_share * predictor.spec.static_macs / 1e6:.2f} MMACs')


if __name__ == '__main__':
    command.run(main)
