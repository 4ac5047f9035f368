"""One run: a trained network is fine-tuned into a routed one, or a control, and tested once.

`python -m experiments.real_accuracy.run --start=resnet56.npz --variant=rank --target_macs=68.9e6 --epochs=20 --seed=0 \
--teachers=resnet56.npz,resnet44.npz,resnet32.npz --data_dir=DIR --output=DIR`

Writes NAME.json (results; where that is there already it does nothing), NAME_routes.npz (labels, predictions,
decisions, logits; the logits of the calibration views) and NAME_weights.npz (backbone in float16) to the output, NAME
being start, variant, cost and seed. What a run with other settings left under that name is neither taken for its own
nor overwritten.
"""

import functools
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from codinet_jax.kernels import convolution as convolutions
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import command, files, provenance
from experiments.real_accuracy import (
    allocation,
    beginning,
    cascade,
    evaluation,
    fine_tuning,
    gates,
    images,
    kept,
    methods,
    naming,
    networks,
    ordering,
    rungs,
    settings,
    teachers,
    testing,
    training,
)
from experiments.real_accuracy.progress import log, seconds

del settings  # imported for its flags
FLAGS = flags.FLAGS
naming.define()
flags.DEFINE_float('epochs', 20, 'Passes over the images, each of `views` views.')
flags.DEFINE_string('output', 'runs/real_accuracy', 'Where results go.')
flags.DEFINE_integer('batch', 128, 'Images a step.')
flags.DEFINE_integer('views', 2, 'Views of each image in a step.')
flags.DEFINE_float('backbone_rate', 0.015, 'Learning rate at first.')
flags.DEFINE_float('router_rate', 0.08, 'Learning rate at first.')
flags.DEFINE_float('reach', 0.0, "How much of a gate's gradient reaches the backbone through what it reads.")
flags.DEFINE_float('rate_weight', 1.0, 'Of the sum over blocks of (run rate - target)².')
flags.DEFINE_float('batch_rate_weight', 20.0, 'Of (mean run rate - target)².')
flags.DEFINE_float(
    'codinet_weight', 1.0, "Of consistency and diversity in CoDiNet variants, times the paper's weights."
)
flags.DEFINE_list('spreads', ['1.2', '1.2', '1.2'], 'How far run rates follow the order of blocks, by stage.')
flags.DEFINE_integer('decision', None, 'The block where `late`, `rungs` decide; None is the first free one of stage 3.')
flags.DEFINE_float(
    'cheap_macs', None, 'Of `rungs`: the full one leaves nothing out, the cheap one all that it can at this cost.'
)
flags.DEFINE_integer('decision_images', 20_000, 'Training images that the decision of `rungs` is fitted on.')
flags.DEFINE_float('late_rate', 0.5, 'The share of images that run on, about.')
flags.DEFINE_integer('order_images', 2048, 'Augmented training images that the order of blocks is found on.')
flags.DEFINE_integer('calibration', 10_000, 'Training images, in a plain view, that thresholds are set on.')
flags.DEFINE_integer('eval_batch', 10_000, 'Images at a time where nothing is trained; at most `calibration`.')
flags.DEFINE_integer('test_images', 10_000, 'Images of test, from the first.')
flags.DEFINE_integer('shuffles', 3, 'Times that routes are shuffled, of each kind.')
flags.DEFINE_enum('convolution', 'xla', ['xla', 'cuda'], 'Of training; cuda: kernels of our own, on a GPU.')
flags.DEFINE_integer('unroll', 0, 'Blocks unrolled at a time in training; 0 is all of them.')
flags.DEFINE_integer('steps_per_call', 0, 'Training steps a call; 0 is 20, and 1 on a CPU.')
flags.DEFINE_float('save_seconds', 300, 'Between two savings of the state, from which the same command goes on.')
flags.DEFINE_bool('prepare_only', False, 'Compile, write what runs share, and end.')
flags.DEFINE_string('given', 'resnet20', 'The cheap network whose errors costs are correlated with, if cascade.py ran.')
SETTINGS = (
    *('teachers', 'epochs', 'batch', 'views', 'pool', 'cut', 'backbone_rate', 'router_rate', 'rate_weight', 'reach'),
    *('batch_rate_weight', 'codinet_weight', 'spreads', 'decision', 'cheap_macs', 'decision_images', 'late_rate'),
    *('order_images', 'calibration', 'eval_batch', 'holdout', 'test_images', 'train_images', 'shuffles', 'unroll'),
    *('convolution', 'tag'),
)


def main(argv: Sequence[str]) -> None:
    del argv
    command.start_devices(1, trains=True)
    cache, output, variant = pathlib.Path(FLAGS.cache), pathlib.Path(FLAGS.output), FLAGS.variant
    output.mkdir(parents=True, exist_ok=True)
    results_file, saved = output / f'{naming.name()}.json', output / f'{naming.name()}_state.npz'
    if not FLAGS.prepare_only and kept.is_finished(results_file, saved, _recorded()):
        log(f'{results_file} is there')
        return
    kept.check_weights(cache, [FLAGS.start, *FLAGS.teachers])
    train = images.read('train', FLAGS.data_dir, cache).part(slice(FLAGS.train_images))
    used, test = train.part(slice(len(train.labels_N) - FLAGS.holdout)), _test(train, cache)
    start = networks.read(FLAGS.start)
    log(f'{naming.name()}: {start.architecture.num_blocks} blocks, {len(used.labels_N)} images, {jax.devices()[0]}')
    gates.register()
    model = RoutedResNet(start.architecture, 'standardised', networks.train_dtype())
    model = model.clone(unroll=FLAGS.unroll or start.architecture.num_blocks)
    steps = _steps(model, _data(train, used, cache))
    compiling = threading.Thread(target=_compile, args=(steps, start))
    places_n = functools.partial(ordering.places_n, cache, start, used, FLAGS.order_images)
    if FLAGS.prepare_only:  # beside all that follows, for it takes longest
        compiling.start()
        places_n()
    costs = networks.costs(start, has_routers=variant in methods.LEARNT)
    rates_n, copies_n = beginning.run_rates(_wanted(), start, costs, places_n)
    log('run rates', np.round(rates_n, 2).tolist())
    some = used.part(slice(FLAGS.order_images))
    variables = beginning.variables(start, variant, FLAGS.seed, FLAGS.reach, copies_n, some)
    judge = evaluation.Judge(evaluation.make_forward(model), costs, rates_n, FLAGS.eval_batch, variant == 'random')
    calibration = images.calibration(used.part(slice(FLAGS.calibration)))
    accuracy = testing.accuracy_of_rounded_rates(judge, variables, calibration)
    if FLAGS.prepare_only:
        compiling.join()
        return
    trained = _trained(steps, judge, rates_n, variables, calibration, saved)
    averages, rungs_seen = trained.averages, None
    if variant == 'rungs':
        decided_on = used.part(slice(FLAGS.decision_images))
        averages, decided = rungs.decided(start, averages, decided_on, rates_n, min(500, FLAGS.eval_batch))
        second_look = rungs.second_look(judge, averages, rates_n, test, calibration, cascade.TARGETS)
        rungs_seen = {**decided, 'second_look': second_look}
        log('rungs', rungs_seen)
    shift = testing.shift(judge, averages, variant, FLAGS.target_macs, calibration)
    shifted = testing.shifted(averages, shift)
    on_train, answers = (judge.answers(shifted, data.images_NxHxWxC) for data in (calibration, test))
    is_free_n, is_cheap_wrong_N = allocation.free_n(start.architecture), _is_cheap_wrong_N(test, cache)
    results = {
        'name': naming.name(),
        'start': start.name,
        'variant': variant,
        'machine': provenance.machine(),
        'seed': FLAGS.seed,
        'target_macs': FLAGS.target_macs,
        'settings': {key: FLAGS[key].value for key in SETTINGS},
        'target_rates': rates_n.tolist(),
        'shift': shift,
        'start_of_training': {'accuracy_of_rounded_rates': accuracy},
        'num_steps': trained.num_steps,
        'seconds_training': trained.seconds,
        'ms_per_step': trained.ms_per_step,
        'history': trained.shown,
        'rungs': rungs_seen,
        'calibration': {'accuracy': on_train.accuracy(calibration.labels_N), 'mean_macs': judge.macs(on_train)},
        **testing.numbers(judge, shifted, variant, test, answers, is_free_n, FLAGS.shuffles, is_cheap_wrong_N),
    }
    _write_routes(output, test, answers, calibration, on_train, results['mean_macs'])
    _write_weights(output, averages, rates_n, shift)
    results['seconds'] = seconds()
    files.write(results_file, lambda file: file.write(files.json_bytes(results)))
    saved.unlink()
    log({key: results[key] for key in ('accuracy', 'mean_macs', 'num_paths', 'num_open_blocks', 'shuffled')})


def _recorded() -> dict[str, Any]:
    return {key: FLAGS[key].value for key in ('target_macs', *SETTINGS)}


def _wanted() -> beginning.Wanted:
    spreads = tuple(map(float, FLAGS.spreads))
    decision, late_rate = FLAGS.decision, FLAGS.late_rate
    return beginning.Wanted(FLAGS.variant, FLAGS.target_macs, FLAGS.cheap_macs, decision, late_rate, spreads)


def _test(train: images.Images, cache: pathlib.Path) -> images.Images:
    """The test images; or the held-out ones, cropped, mirrored and cut."""
    if not FLAGS.holdout:
        return images.read('test', FLAGS.data_dir, cache).part(slice(FLAGS.test_images))
    held = train.part(slice(len(train.labels_N) - FLAGS.holdout, None))
    return held._replace(images_NxHxWxC=images.drawn(held, 1, seed=2, cut=FLAGS.cut)[:, 0])


def _is_cheap_wrong_N(test: images.Images, cache: pathlib.Path) -> np.ndarray | None:
    """Of the test images, those that the network of --given errs on; None if it was not asked about all of them."""
    path, num_images = cascade.answers_of(FLAGS.given, cache), len(test.labels_N)
    if FLAGS.holdout or not path.exists():
        return None
    logits_NxY = cascade.read(path).logits[:num_images]
    return np.argmax(logits_NxY, axis=-1) != test.labels_N if len(logits_NxY) == num_images else None


def _data(train: images.Images, used: images.Images, cache: pathlib.Path) -> training.Data:
    """The training set on the device; when only preparing, without soft targets unless there are any."""
    num_images, num_used = len(train.labels_N), len(used.labels_N)
    names = FLAGS.teachers or [FLAGS.start]
    if FLAGS.prepare_only and not teachers.path(cache, names, FLAGS.pool, FLAGS.cut, num_images).exists():
        soft_KxNxY = np.zeros((FLAGS.pool, num_images, 10), np.float16)
    else:
        soft_KxNxY = teachers.soft_targets(cache, names, train, FLAGS.pool, FLAGS.cut, FLAGS.teacher_batch)
    draws_KxNx5 = images.draws(FLAGS.pool, num_images)
    return jax.device_put(training.Data(*used, draws_KxNx5[:, :num_used], soft_KxNxY[:, :num_used]))


def _steps(model: RoutedResNet, data: training.Data) -> fine_tuning.Steps:
    per_call = FLAGS.steps_per_call or fine_tuning.steps_per_call()
    convolution = convolutions.conv_general_dilated() if FLAGS.convolution == 'cuda' else networks.convolution()
    answer = training.routed(model.clone(convolution=convolution), FLAGS.views)
    call = training.make_call(answer, FLAGS.views, FLAGS.cut, per_call)
    return fine_tuning.Steps(call, data, FLAGS.batch, FLAGS.views, FLAGS.pool, per_call, FLAGS.seed)


def _compile(steps: fine_tuning.Steps, start: networks.Start) -> None:
    schedule = methods.schedule('static', _recipe(), steps.per_call, np.ones(start.architecture.num_blocks))
    steps.compile(training.begin(networks.gated(start, 'standardised', 0)[1]), schedule)
    log('training is compiled')


def _trained(
    steps: fine_tuning.Steps,
    judge: evaluation.Judge,
    rates_n: np.ndarray,
    variables: Any,
    calibration: images.Images,
    saved: pathlib.Path,
) -> fine_tuning.Trained:
    recipe, num_steps = _recipe(), steps.num_of(FLAGS.epochs)
    schedule = methods.schedule(FLAGS.variant, recipe, num_steps, rates_n)
    fixed_from = round((1 - recipe.last) * num_steps / steps.per_call) * steps.per_call

    def fix(averages: Any) -> Any:
        return testing.fixed(judge, averages, FLAGS.variant, FLAGS.target_macs, calibration)

    return fine_tuning.train(steps, schedule, variables, saved, _recorded(), FLAGS.save_seconds, fixed_from, fix)


def _recipe() -> methods.Recipe:
    return methods.Recipe(
        FLAGS.backbone_rate,
        FLAGS.router_rate,
        rate_weight=FLAGS.rate_weight,
        batch_rate_weight=FLAGS.batch_rate_weight,
        codinet_weight=FLAGS.codinet_weight,
    )


def _write_routes(
    output: pathlib.Path,
    test: images.Images,
    answers: evaluation.Answers,
    calibration: images.Images,
    on_train: evaluation.Answers,
    mean_macs: float,
) -> None:
    np.savez_compressed(
        output / f'{naming.name()}_routes.npz',
        labels=test.labels_N.astype(np.uint8),
        predictions=answers.predictions.astype(np.uint8),
        decisions=answers.decisions,
        logits=answers.logits.astype(np.float16),
        calibration_labels=calibration.labels_N.astype(np.uint8),
        calibration_logits=on_train.logits.astype(np.float16),
        macs=np.float64(mean_macs),
    )


def _write_weights(output: pathlib.Path, variables: Any, rates_n: np.ndarray, shift: float) -> None:
    """Backbone in float16, routers as they are; for the product's linear router where routes have such a form."""
    variables = jax.tree.map(np.asarray, variables)
    if FLAGS.variant not in ('late', 'random', 'rungs'):
        variables = gates.as_linear(variables, rates_n, shift)
    np.savez_compressed(output / f'{naming.name()}_weights.npz', **networks.compact(variables))


if __name__ == '__main__':
    command.run(main)
