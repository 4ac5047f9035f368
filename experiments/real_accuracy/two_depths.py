"""One network of two depths, begun from trained ones, fine-tuned, and tested once: images that the shallow one is
unsure of go on to the deep one.

`python -m experiments.real_accuracy.two_depths --start=resnet56.npz --depth=20 --epochs=3 --seed=0 \
--teachers=resnet56.npz --pool=4 --data_dir=DIR --output=DIR`: the shallow network lies in the deep one (depths.py).
With `--shallow=resnet20.npz`, it is that one, or the first blocks of its stages if there is a `--depth`, and the deep
one's later blocks go on with what it has computed (resumed.py).

Writes NAME.json (accuracies, and what going on is worth, at the costs of `cascade.TARGETS`), NAME_shallow_routes.npz
and NAME_deep_routes.npz (logits, as `cascade` reads them), and the weights: NAME_shallow.npz and NAME_deep.npz, as
import_weights writes them, or NAME_weights.npz. NAME is start, depth or shallow network, epochs and seed. The same
command goes on where it was stopped, and does nothing once all is there; what a run with other settings left under that
name is neither taken for its own nor overwritten.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from codinet_jax.models import execution, resuming, weights_file
from codinet_jax.runtime import command, files, provenance, sharding
from experiments.real_accuracy import (
    cascade,
    depths,
    fine_tuning,
    images,
    kept,
    methods,
    networks,
    resumed,
    settings,
    teachers,
    training,
)
from experiments.real_accuracy.progress import log

del settings  # imported for its flags
FLAGS = flags.FLAGS
flags.DEFINE_string('start', None, 'The deep static network to start from, as import_weights writes it.', required=True)
flags.DEFINE_integer(
    'depth',
    None,
    'Of the shallow network, 6n+2: the first blocks of each stage of --shallow, or else of --start, there 20.',
)
flags.DEFINE_string('shallow', None, 'A static network that the later blocks of the deep one go on from.')
flags.DEFINE_integer('joined_on', 500, 'Training images, from the first, that such blocks are joined to it on.')
flags.DEFINE_float('epochs', 3, 'Passes over the images, two views of each.')
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
SETTINGS = ('teachers', 'epochs', 'batch', 'rate', 'pool', 'cut', 'calibration', 'train_images', 'test_images')
KINDS = ('shallow', 'deep')


class Pair(NamedTuple):
    """Two depths to be trained as one: of what variables, how they answer in training, and what comes of them.

    `ask` takes the trained variables and the images of test and calibration, writes weights, and gives what
    `cascade.ask` does of the two.
    """

    begun: Any
    answer: training.Answer
    ask: Callable[[Any, images.Images, images.Images], list[dict[str, Any]]]


def name() -> str:
    deep, shallow = pathlib.Path(FLAGS.start).stem, FLAGS.shallow and pathlib.Path(FLAGS.shallow).stem
    first = f'_first{FLAGS.depth}' if FLAGS.depth else ''
    kind = f'after_{shallow}{first}' if shallow else f'with_{_depth()}'
    return f'{deep}_{kind}_{FLAGS.epochs:g}epochs_s{FLAGS.seed}'


def main(argv: Sequence[str]) -> None:
    del argv
    command.start_devices(FLAGS.batch, trains=True)
    cache, output = pathlib.Path(FLAGS.cache), pathlib.Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    results_file, saved = output / f'{name()}.json', output / f'{name()}_state.npz'
    if kept.is_finished(results_file, saved, _recorded()):
        log(f'{results_file} is there')
        return
    kept.check_weights(cache, filter(None, [FLAGS.start, FLAGS.shallow, *FLAGS.teachers]))
    train = images.read('train', FLAGS.data_dir, cache).part(slice(FLAGS.train_images))
    log(f'{name()}: {len(train.labels_N)} images, {jax.devices()[0]}')
    pair = _resumed(train, output / name()) if FLAGS.shallow else _within(output / name())
    trained = _trained(pair, train, cache, saved)
    test = images.read('test', FLAGS.data_dir, cache).part(slice(FLAGS.test_images))
    for kind, found in zip(KINDS, pair.ask(trained.averages, test, train.part(slice(FLAGS.calibration))), strict=True):
        np.savez_compressed(output / f'{name()}_{kind}_routes.npz', **found)
    small, large = (cascade.read(output / f'{name()}_{kind}_routes.npz') for kind in KINDS)
    results = {
        'name': name(),
        'machine': provenance.machine(),
        'seed': FLAGS.seed,
        'settings': _recorded(),
        'num_steps': trained.num_steps,
        'ms_per_step': trained.ms_per_step,
        'history': trained.shown,
        'shallow': {'accuracy': small.accuracy, 'macs': small.macs},
        'deep': {'accuracy': large.accuracy, 'macs_of_going_on': large.macs},
        'points': points(small, large, cascade.together),
        'points_of_the_deep_answer_alone': points(small, large, cascade.of_large),
    }
    files.write(results_file, lambda file: file.write(files.json_bytes(results)))
    saved.unlink()
    log(results['shallow'], results['deep'])
    for point in results['points_of_the_deep_answer_alone' if FLAGS.shallow else 'points']:
        log(f'{point["mean_macs"] / 1e6:.2f} M {point["accuracy"]:.2f} %', point['own_less_shuffled'])


def _recorded() -> dict[str, Any]:
    of_kind = ('shallow', 'joined_on') if FLAGS.shallow else ()
    depth = FLAGS.depth if FLAGS.shallow else _depth()
    return {key: FLAGS[key].value for key in (*SETTINGS, *of_kind)} | {'depth': depth}


def points(small: cascade.Answerer, large: cascade.Answerer, answer: Callable[..., np.ndarray]) -> list[dict[str, Any]]:
    """Accuracy at the costs of `cascade.TARGETS`, and what going on is worth there."""
    return [
        point | {'own_less_shuffled': cascade.worth(small, large, target, FLAGS.shuffles, answer)}
        for target in cascade.TARGETS
        if (point := cascade.pair(small, large, target, answer))
    ]


def _within(prefix: pathlib.Path) -> Pair:
    deep = networks.read(FLAGS.start)

    def ask(variables: Any, test: images.Images, calibration: images.Images) -> list[dict[str, Any]]:
        answers = []
        for kind, network in zip(KINDS, depths.both(variables, deep, _depth()), strict=True):
            _write(f'{prefix}_{kind}.npz', network.variables)
            answers.append(cascade.ask_static(network, test, calibration, FLAGS.eval_batch))
        return answers

    return Pair(depths.begin(deep, _depth()), depths.answer(deep, _depth()), ask)


def _depth() -> int:
    return FLAGS.depth or 20


def _resumed(train: images.Images, prefix: pathlib.Path) -> Pair:
    shallow, deep = networks.read(FLAGS.shallow), networks.read(FLAGS.start)
    if FLAGS.depth:
        shallow = depths.shallow(shallow, FLAGS.depth)
    model = resumed.network(shallow.architecture, deep.architecture)
    costs, first_n = model.costs, resuming.first_pass_n(model.architecture)
    first_macs = costs.mean_macs(np.array(first_n))

    def ask(variables: Any, test: images.Images, calibration: images.Images) -> list[dict[str, Any]]:
        _write(f'{prefix}_weights.npz', variables)

        def answer(inputs: jax.Array) -> Any:
            output: Any = model.apply(variables, inputs, execution.all_run(), train=False)
            return output.of_stages

        macs = [first_macs, costs.mean_macs(np.ones(costs.num_blocks)) - first_macs]
        return cascade.ask(answer, macs, test, calibration, FLAGS.eval_batch)

    begun = resumed.begin(shallow, deep, train.part(slice(FLAGS.joined_on)))
    return Pair(begun, resumed.answer(model), ask)


def _write(path: str, variables: Any) -> None:
    weights_file.write(pathlib.Path(path), jax.tree.map(np.asarray, variables), weights_file.read_input(FLAGS.start))


def _trained(pair: Pair, train: images.Images, cache: pathlib.Path, saved: pathlib.Path) -> fine_tuning.Trained:
    names = FLAGS.teachers or [FLAGS.start]
    soft_KxNxY = teachers.soft_targets(cache, names, train, FLAGS.pool, FLAGS.cut, FLAGS.teacher_batch)
    mesh = sharding.data_mesh()
    data = training.Data(*train, images.draws(FLAGS.pool, len(train.labels_N)), soft_KxNxY)
    data = jax.device_put(data, sharding.replicated(mesh))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, *mesh.axis_names))
    per_call = fine_tuning.steps_per_call()
    call = training.make_call(pair.answer, NUM_VIEWS, FLAGS.cut, per_call)

    def place(drawn: training.Batches) -> training.Batches:
        return training.Batches(*jax.device_put(tuple(drawn), rows))

    steps = fine_tuning.Steps(call, data, FLAGS.batch, NUM_VIEWS, FLAGS.pool, per_call, FLAGS.seed, place)
    recipe = methods.Recipe(FLAGS.rate, 0.0)
    schedule = methods.schedule('static', recipe, steps.num_of(FLAGS.epochs), np.ones(1))
    return fine_tuning.train(steps, schedule, pair.begun, saved, _recorded(), FLAGS.save_seconds)


if __name__ == '__main__':
    command.run(main)
