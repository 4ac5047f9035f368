"""A trained network fine-tuned at two depths that share their convolutions, and tested once, as a cascade of the two.

`python -m experiments.real_accuracy.two_depths --start=resnet56.npz --depth=20 --epochs=3 --seed=0 \
--teachers=resnet56.npz --pool=4 --data_dir=DIR --output=DIR`

Writes NAME.json (accuracies, and what images are worth that go on to the deep one, at the costs of `cascade.TARGETS`),
and of either network NAME_shallow.npz or NAME_deep.npz (weights, as import_weights writes them) and ..._routes.npz
(logits, as `cascade` reads them), NAME being start, depth, epochs and seed. The same command goes on where it was
stopped.
"""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from absl import app, flags

from codinet_jax.models import weights_file
from codinet_jax.runtime import files, provenance, sharding
from experiments.real_accuracy import (
    cascade,
    depths,
    fine_tuning,
    images,
    methods,
    networks,
    settings,
    teachers,
    training,
)
from experiments.real_accuracy.progress import log

del settings  # imported for its flags
FLAGS = flags.FLAGS
flags.DEFINE_string('start', None, 'The static network to start from, as import_weights writes it.', required=True)
flags.DEFINE_integer('depth', 20, 'Of the shallow network: 6n+2.')
flags.DEFINE_float('epochs', 3, 'Passes over the images, each image twice: once by each network.')
flags.DEFINE_integer('seed', 0, 'Of order and views.')
flags.DEFINE_integer('batch', 128, 'Images a step.')
flags.DEFINE_float('rate', 0.03, 'Learning rate at first; it falls linearly to 0.')
flags.DEFINE_string('output', 'runs/real_accuracy', 'Where results go.')
flags.DEFINE_integer('calibration', 10_000, 'Training images, in a plain view, that thresholds are also set on.')
flags.DEFINE_integer('eval_batch', 500, 'Images at a time where nothing is trained.')
flags.DEFINE_integer('test_images', 10_000, 'Images of test, from the first.')
flags.DEFINE_integer('shuffles', 20, 'Times that decisions are shuffled, of each kind.')
flags.DEFINE_float('save_seconds', 300, 'Between two savings of the state, from which the same command goes on.')
NUM_VIEWS = 2
SETTINGS = ('teachers', 'epochs', 'batch', 'rate', 'depth', 'pool', 'cut', 'calibration', 'train_images', 'test_images')


def name() -> str:
    return f'{pathlib.Path(FLAGS.start).stem}_with_{FLAGS.depth}_{FLAGS.epochs:g}epochs_s{FLAGS.seed}'


def main(argv: Sequence[str]) -> None:
    del argv
    cache, output = pathlib.Path(FLAGS.cache), pathlib.Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    train = images.read('train', FLAGS.data_dir, cache).part(slice(FLAGS.train_images))
    deep = networks.read(FLAGS.start)
    log(f'{name()}: {len(train.labels_N)} images, {jax.devices()[0]}')
    saved = output / f'{name()}_state.npz'
    trained = _trained(deep, train, cache, saved)
    test = images.read('test', FLAGS.data_dir, cache).part(slice(FLAGS.test_images))
    calibration = train.part(slice(FLAGS.calibration))
    small, large = (
        _answerer(f'{name()}_{label}', network, test, calibration, output)
        for label, network in zip(('shallow', 'deep'), depths.both(trained.averages, deep, FLAGS.depth), strict=True)
    )
    results = {
        'name': name(),
        'commit': provenance.commit(),
        'seed': FLAGS.seed,
        'settings': {key: FLAGS[key].value for key in SETTINGS},
        'num_steps': trained.num_steps,
        'ms_per_step': trained.ms_per_step,
        'history': [
            {'step': step, **{key: float(value) for key, value in metrics.items()}}
            for step, metrics in trained.history[:: max(1, len(trained.history) // 40)]
        ],
        'shallow': {'accuracy': _accuracy(small), 'macs': small.macs},
        'deep': {'accuracy': _accuracy(large), 'macs': large.macs},
        'points': [
            point | {'own_less_shuffled': cascade.worth(small, large, target, FLAGS.shuffles)}
            for target in cascade.TARGETS
            if (point := cascade.pair(small, large, target))
        ],
    }
    files.write(output / f'{name()}.json', lambda file: file.write(files.json_bytes(results)))
    saved.unlink()
    log(results['shallow'], results['deep'])
    for point in results['points']:
        log(f'{point["mean_macs"] / 1e6:.2f} M {point["accuracy"]:.2f} %', point['own_less_shuffled'])


def _trained(
    deep: networks.Start, train: images.Images, cache: pathlib.Path, saved: pathlib.Path
) -> fine_tuning.Trained:
    names = FLAGS.teachers or [FLAGS.start]
    soft_KxNxY = teachers.soft_targets(cache, names, train, FLAGS.pool, FLAGS.cut, FLAGS.teacher_batch)
    mesh = sharding.data_mesh()
    data = training.Data(*train, images.draws(FLAGS.pool, len(train.labels_N)), soft_KxNxY)
    data = jax.device_put(data, sharding.replicated(mesh))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, *mesh.axis_names))
    per_call = 1 if jax.default_backend() == 'cpu' else 20
    call = training.make_call(depths.answer(deep, FLAGS.depth), NUM_VIEWS, FLAGS.cut, per_call)

    def place(drawn: training.Batches) -> training.Batches:
        return training.Batches(*jax.device_put(tuple(drawn), rows))

    steps = fine_tuning.Steps(call, data, FLAGS.batch, NUM_VIEWS, FLAGS.pool, per_call, FLAGS.seed, place)
    num_steps = max(1, round(FLAGS.epochs * (len(train.labels_N) // FLAGS.batch) / per_call)) * per_call
    recipe = methods.Recipe(FLAGS.rate, 0.0)
    schedule = methods.schedule('static', recipe, num_steps, np.ones(1))
    begun = depths.begin(deep, FLAGS.depth)
    return fine_tuning.train(
        steps, schedule, begun, num_steps, lambda averages: averages, saved, FLAGS.save_seconds, log
    )


def _answerer(
    label: str, network: networks.Start, test: images.Images, calibration: images.Images, output: pathlib.Path
) -> cascade.Answerer:
    """A network's answers, which are written, as its weights are."""
    trained_on = weights_file.read_input(FLAGS.start)
    weights_file.write(output / f'{label}.npz', jax.tree.map(np.asarray, network.variables), trained_on)
    path = output / f'{label}_routes.npz'
    np.savez_compressed(path, **cascade.ask(network, test, calibration, FLAGS.cut, FLAGS.eval_batch))
    return cascade.read(path)


def _accuracy(answerer: cascade.Answerer) -> float:
    return 100 * float(np.mean(np.argmax(answerer.logits, -1) == answerer.labels))


if __name__ == '__main__':
    app.run(main)
