"""One run: a trained network is fine-tuned into a routed one, or a control, and tested once.

`python -m experiments.real_accuracy.run --start=resnet56.npz --variant=rank --target_macs=68.9e6 --epochs=20 --seed=0 \
--teachers=resnet56.npz,resnet44.npz,resnet32.npz --data_dir=DIR --output=DIR`

Writes NAME.json (results; where that is there already it does nothing), NAME_routes.npz (labels, predictions,
decisions, logits; the logits of the calibration views) and NAME_weights.npz (backbone in float16) to the output, NAME
being start, variant, cost and seed. What a run with other settings left under that name is neither taken for its own
nor overwritten.
"""

import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from codinet_jax.evaluation import controls
from codinet_jax.kernels import convolution as convolutions
from codinet_jax.models.cost import CostTable
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import command, files, provenance
from codinet_jax.runtime.errors import InputError
from experiments.real_accuracy import (
    allocation,
    cascade,
    evaluation,
    fine_tuning,
    gates,
    images,
    kept,
    methods,
    networks,
    ordering,
    rungs,
    settings,
    teachers,
    training,
)
from experiments.real_accuracy.progress import log, seconds

del settings  # imported for its flags
FLAGS = flags.FLAGS
flags.DEFINE_string('start', None, 'The static network to start from, as import_weights writes it.', required=True)
flags.DEFINE_enum('variant', 'rank', methods.VARIANTS, 'What gates do; or a control.')
flags.DEFINE_float('target_macs', None, 'MACs of the mean image; static networks have their own.')
flags.DEFINE_float('epochs', 20, 'Passes over the images, each of `views` views.')
flags.DEFINE_integer('seed', 0, 'Of routers, order, noise.')
flags.DEFINE_string('output', 'runs/real_accuracy', 'Where results go.')
flags.DEFINE_string('tag', '', 'Added to the name of the run.')
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
flags.DEFINE_integer('holdout', 0, 'So many last training images are left out and, strongly augmented, are the test.')
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
    *(
        'batch_rate_weight',
        'codinet_weight',
        'spreads',
        'decision',
        'cheap_macs',
        'decision_images',
        'late_rate',
        'order_images',
        'calibration',
        'eval_batch',
        'holdout',
    ),
    *('test_images', 'train_images', 'shuffles', 'unroll', 'convolution', 'tag'),
)
LEAST_STD = 0.3  # of the mean over a block's channels
DIAL = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)


def name() -> str:
    millions = '' if FLAGS.target_macs is None else f'_{FLAGS.target_macs / 1e6:.1f}M'
    tag = f'_{FLAGS.tag}' if FLAGS.tag else ''
    holdout = '_holdout' if FLAGS.holdout else ''
    return f'{pathlib.Path(FLAGS.start).stem}_{FLAGS.variant}{millions}{tag}{holdout}_s{FLAGS.seed}'


def main(argv: Sequence[str]) -> None:
    del argv
    command.start_devices(1, trains=True)
    cache, output = pathlib.Path(FLAGS.cache), pathlib.Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    results_file, saved = output / f'{name()}.json', output / f'{name()}_state.npz'
    if not FLAGS.prepare_only and kept.is_finished(results_file, saved, _recorded()):
        log(f'{results_file} is there')
        return
    kept.check_weights(cache, [FLAGS.start, *FLAGS.teachers])
    train = images.read('train', FLAGS.data_dir, cache).part(slice(FLAGS.train_images))
    used, test = train.part(slice(len(train.labels_N) - FLAGS.holdout)), _test(train, cache)
    start = networks.read(FLAGS.start)
    log(f'{name()}: {start.architecture.num_blocks} blocks, {len(used.labels_N)} images, {jax.devices()[0]}')
    gates.register()
    model = RoutedResNet(start.architecture, 'standardised', networks.train_dtype())
    model = model.clone(unroll=FLAGS.unroll or start.architecture.num_blocks)
    steps = _steps(model, _data(train, used, cache))
    compiling = threading.Thread(target=_compile, args=(steps, start))
    if FLAGS.prepare_only:  # beside all that follows, for it takes longest
        compiling.start()
        ordering.places_n(cache, start, used, FLAGS.order_images)
    costs = networks.costs(start, has_routers=FLAGS.variant in methods.LEARNT)
    rates_n, copies_n = _rates(start, used, cache, costs)
    log('run rates', np.round(rates_n, 2).tolist())
    variables = _variables(start, used, copies_n)
    judge = evaluation.Judge(
        evaluation.make_forward(model), costs, rates_n, FLAGS.eval_batch, FLAGS.variant == 'random'
    )
    calibration = _calibration(used)
    accuracy = _accuracy_of_rounded_rates(judge, variables, calibration)
    if FLAGS.prepare_only:
        compiling.join()
        return
    trained = _trained(steps, judge, rates_n, variables, calibration, saved)
    averages: Any = trained.averages
    rungs_seen: dict[str, Any] | None = None
    if FLAGS.variant == 'rungs':
        decided_on = used.part(slice(FLAGS.decision_images))
        averages, decided = rungs.decided(start, averages, decided_on, rates_n, min(500, FLAGS.eval_batch))
        second_look = rungs.second_look(judge, averages, rates_n, test, calibration, cascade.TARGETS)
        rungs_seen = {**decided, 'second_look': second_look}
        log('rungs', rungs_seen)
    shift = _shift(judge, averages, calibration)
    results = _settings(start, rates_n, shift, accuracy) | _of_training(trained) | {'rungs': rungs_seen}
    results |= _tested(judge, averages, test, calibration, allocation.free_n(start.architecture), shift)
    _write_weights(output, averages, rates_n, shift)
    results['seconds'] = seconds()
    files.write(results_file, lambda file: file.write(files.json_bytes(results)))
    saved.unlink()
    log({key: results[key] for key in ('accuracy', 'mean_macs', 'num_paths', 'num_open_blocks', 'shuffled')})


def _steps(model: RoutedResNet, data: training.Data) -> fine_tuning.Steps:
    per_call = FLAGS.steps_per_call or (1 if jax.default_backend() == 'cpu' else 20)
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
    recipe, per_call = _recipe(), steps.per_call
    num_steps = max(1, round(FLAGS.epochs * (steps.num_images // FLAGS.batch) / per_call)) * per_call
    schedule = methods.schedule(FLAGS.variant, recipe, num_steps, rates_n)
    fixed_from = round((1 - recipe.last) * num_steps / per_call) * per_call

    def fix(averages: Any) -> Any:
        return _fixed(judge, averages, calibration.images_NxHxWxC)

    return fine_tuning.train(steps, schedule, variables, fixed_from, fix, saved, _recorded(), FLAGS.save_seconds, log)


def _recipe() -> methods.Recipe:
    return methods.Recipe(
        FLAGS.backbone_rate,
        FLAGS.router_rate,
        rate_weight=FLAGS.rate_weight,
        batch_rate_weight=FLAGS.batch_rate_weight,
        codinet_weight=FLAGS.codinet_weight,
    )


def _accuracy_of_rounded_rates(judge: evaluation.Judge, variables: Any, calibration: images.Images) -> float:
    """In per cent, before training, where a block runs if its rate is a half or more."""
    answers = judge.answers(variables, calibration.images_NxHxWxC, knobs=judge.knobs(heed=0.0, noise=0.0))
    accuracy = 100 * float(np.mean(answers.predictions == calibration.labels_N))
    num_images = len(calibration.labels_N)
    log(f'evaluation is compiled; at rates rounded to 0 and 1 {accuracy:.2f} % of {num_images} training views')
    return accuracy


def _shift(judge: evaluation.Judge, averages: Any, calibration: images.Images) -> float:
    """Of all logit margins, so that the mean image costs what it should."""
    if FLAGS.variant not in methods.LEARNT:
        return 0.0
    return judge.match_cost(averages, calibration.images_NxHxWxC, FLAGS.target_macs)


def _recorded() -> dict[str, Any]:
    return {key: FLAGS[key].value for key in ('target_macs', *SETTINGS)}


def _settings(start: networks.Start, rates_n: np.ndarray, shift: float, accuracy: float) -> dict[str, Any]:
    return {
        'name': name(),
        'start': start.name,
        'variant': FLAGS.variant,
        'machine': provenance.machine(),
        'seed': FLAGS.seed,
        'target_macs': FLAGS.target_macs,
        'settings': {key: FLAGS[key].value for key in SETTINGS},
        'target_rates': rates_n.tolist(),
        'shift': shift,
        'start_of_training': {'accuracy_of_rounded_rates': accuracy},
    }


def _of_training(trained: fine_tuning.Trained) -> dict[str, Any]:
    shown = trained.history[:: max(1, len(trained.history) // 40)]
    return {
        'num_steps': trained.num_steps,
        'seconds_training': trained.seconds,
        'ms_per_step': trained.ms_per_step,
        'history': [{'step': step, **{key: float(value) for key, value in metrics.items()}} for step, metrics in shown],
    }


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


def _test(train: images.Images, cache: pathlib.Path) -> images.Images:
    """The test images; or the held-out ones, cropped, mirrored and cut."""
    if not FLAGS.holdout:
        return images.read('test', FLAGS.data_dir, cache).part(slice(FLAGS.test_images))
    held = train.part(slice(len(train.labels_N) - FLAGS.holdout, None))
    return held._replace(images_NxHxWxC=_views(held, seed=2, is_cut=True))


def _views(data: images.Images, seed: int, is_cut: bool) -> np.ndarray:
    num_images = len(data.labels_N)
    draws_NxMx5 = jnp.asarray(images.draws(1, num_images, seed).transpose(1, 0, 2))
    drawn = images.views(jnp.asarray(data.images_NxHxWxC), draws_NxMx5, jnp.full((num_images, 1), is_cut), FLAGS.cut)
    return np.asarray(drawn)[:, 0]


def _calibration(used: images.Images) -> images.Images:
    """Training images in a plain view, on which thresholds are set."""
    chosen = used.part(slice(FLAGS.calibration))
    return chosen._replace(images_NxHxWxC=_views(chosen, seed=3, is_cut=False))


def _rates(
    start: networks.Start, used: images.Images, cache: pathlib.Path, costs: CostTable
) -> tuple[np.ndarray, np.ndarray]:
    """Run rates and which blocks copy a decision, by the order of blocks, which a static network does without."""
    nothing_n = np.zeros(start.architecture.num_blocks, bool)
    if FLAGS.variant == 'static':
        return np.ones(len(nothing_n)), nothing_n
    if FLAGS.target_macs is None:
        raise InputError(f'Say what the mean image of {FLAGS.variant} is to cost: --target_macs=68.9e6.')
    place_n = ordering.places_n(cache, start, used, FLAGS.order_images)
    if FLAGS.variant == 'pruned':
        return allocation.pruned(place_n, costs, FLAGS.target_macs), nothing_n
    if FLAGS.variant == 'rungs' and FLAGS.cheap_macs is not None:
        return allocation.cheap_and_full(place_n, costs, FLAGS.target_macs, FLAGS.cheap_macs)
    if FLAGS.variant in ('late', 'rungs'):
        of_stage_3 = np.flatnonzero((allocation.stages_n(start.architecture) == 2) & ~np.isnan(place_n))
        decision = of_stage_3[0] if FLAGS.decision is None else FLAGS.decision
        return allocation.late(place_n, costs, FLAGS.target_macs, int(decision), FLAGS.late_rate)
    spreads = np.zeros(3) if FLAGS.variant in methods.UNIFORM else np.array(list(map(float, FLAGS.spreads)))
    spread_n = spreads[allocation.stages_n(start.architecture)]
    return allocation.allocate(place_n, costs, FLAGS.target_macs, spread_n), nothing_n


def _variables(start: networks.Start, used: images.Images, copies_n: np.ndarray) -> Any:
    """Start weights and fresh routers that read standardised features; `independent` ones read nothing."""
    _, variables = networks.gated(start, 'standardised', FLAGS.seed, methods.initial_margin(FLAGS.variant))
    probe, probed = networks.gated(start, 'probe', 0)
    views = _views(used.part(slice(FLAGS.order_images)), seed=4, is_cut=False)
    pooled = jax.jit(
        lambda variables, views: probe.apply(variables, images.normalise(views), gates.always, train=False)
    )
    features_Bxnx64 = np.asarray(pooled(probed, views).router_logits_Bxnx2)
    mean_nx64, std_nx64 = np.mean(features_Bxnx64, axis=0), np.std(features_Bxnx64, axis=0)
    channels_n = [block.in_channels for block in start.architecture.blocks]
    is_deaf = FLAGS.variant == 'independent'
    centres = [mean[:c] for mean, c in zip(mean_nx64, channels_n, strict=True)]
    stds = [std[:c] for std, c in zip(std_nx64, channels_n, strict=True)]
    # A channel that hardly varies must not be blown up, for it may come alive as the network trains.
    scales = [(0.0 if is_deaf else 1.0) / np.maximum(std, LEAST_STD * np.mean(std)) for std in stds]
    variables = gates.edited(variables, ('centre',), centres)
    variables = gates.edited(variables, ('scale',), scales)
    variables = gates.edited(variables, ('reach',), np.full(len(copies_n), FLAGS.reach))
    return gates.edited(variables, ('copy',), copies_n.astype(np.float32))


def _fixed(judge: evaluation.Judge, averages: Any, calibration: np.ndarray) -> Any:
    """Averaged variables whose thresholds are fixed: block by block for rank gates, by one shift for others."""
    if methods.is_ranked(FLAGS.variant):
        fixed = judge.fix_thresholds(averages, calibration[: FLAGS.eval_batch])
    elif FLAGS.variant in methods.LEARNT and FLAGS.variant != 'rungs':
        shift = judge.match_cost(averages, calibration, FLAGS.target_macs)
        fixed = gates.lowered(averages, np.full(len(judge.rates_n), -shift))
    else:
        return averages
    answers = judge.answers(fixed, calibration)
    log(f'thresholds fixed: {judge.macs(answers) / 1e6:.2f} MMACs', np.round(answers.decisions.mean(0), 2).tolist())
    return fixed


def _tested(
    judge: evaluation.Judge,
    variables: Any,
    test: images.Images,
    calibration: images.Images,
    is_free_n: np.ndarray,
    shift: float,
) -> dict[str, Any]:
    """All numbers of the test images; their routes are written."""
    shifted = gates.lowered(variables, np.full(len(judge.rates_n), -shift))
    on_train = judge.answers(shifted, calibration.images_NxHxWxC)
    answers = judge.answers(shifted, test.images_NxHxWxC)
    found = evaluation.describe(answers, test.labels_N, judge.costs, is_free_n)
    found['calibration'] = {
        'accuracy': 100 * float(np.mean(on_train.predictions == calibration.labels_N)),
        'mean_macs': judge.macs(on_train),
    }
    found |= {'agreement': None, 'shuffled': None, 'dial': None, 'correlation_with_cheap_error': None}
    if FLAGS.variant not in ('static', 'pruned'):
        found |= _of_routes(judge, shifted, test, answers)
    if FLAGS.variant in methods.LEARNT and FLAGS.variant != 'independent':
        found['dial'] = evaluation.dial(judge, shifted, test, 0.0, DIAL)
    np.savez_compressed(
        pathlib.Path(FLAGS.output) / f'{name()}_routes.npz',
        labels=test.labels_N.astype(np.uint8),
        predictions=answers.predictions.astype(np.uint8),
        decisions=answers.decisions,
        logits=answers.logits.astype(np.float16),
        calibration_labels=calibration.labels_N.astype(np.uint8),
        calibration_logits=on_train.logits.astype(np.float16),
        macs=np.float64(found['mean_macs']),
    )
    return found


def _of_routes(
    judge: evaluation.Judge, variables: Any, test: images.Images, answers: evaluation.Answers
) -> dict[str, Any]:
    """What the routes are worth, of a network where they differ."""
    cost_N = answers.decisions @ np.asarray(judge.costs.blocks_n, float)
    found: dict[str, Any] = {
        'agreement': evaluation.agreement(judge, variables, test, FLAGS.cut),
        'shuffled': evaluation.shuffled(judge, variables, test, answers, FLAGS.shuffles),
        'correlation_with_own_error': controls.cost_error_correlation(cost_N, answers.predictions != test.labels_N),
    }
    given = pathlib.Path(FLAGS.cache) / f'given_{FLAGS.given}.npz'
    if given.exists() and not FLAGS.holdout:
        with np.load(given) as arrays:
            wrong_N = np.argmax(arrays['logits'], -1)[: len(test.labels_N)] != test.labels_N
        found['correlation_with_cheap_error'] = controls.cost_error_correlation(cost_N, wrong_N)
    return found


def _write_weights(output: pathlib.Path, variables: Any, rates_n: np.ndarray, shift: float) -> None:
    """Backbone in float16, routers as they are; for the product's linear router where routes have such a form."""
    variables = jax.tree.map(np.asarray, variables)
    if FLAGS.variant not in ('late', 'random', 'rungs'):
        variables = gates.as_linear(variables, rates_n, shift)
    np.savez_compressed(output / f'{name()}_weights.npz', **networks.compact(variables))


if __name__ == '__main__':
    command.run(main)
