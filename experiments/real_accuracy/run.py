"""One run: a trained network is fine-tuned into a routed one, or a control, and tested once.

`python -m experiments.real_accuracy.run --start=resnet56.npz --variant=rank --target_macs=68.9e6 --epochs=20 --seed=0 \
--teachers=resnet56.npz,resnet44.npz,resnet32.npz --data_dir=DIR --output=DIR`

Writes NAME.json (results), NAME_routes.npz (labels, predictions, decisions, logits; the logits of the calibration
views) and NAME_weights.npz (backbone in float16) to the output, NAME being start, variant, cost and seed.
"""

import json
import os
import pathlib
import threading
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from codinet_jax.kernels import convolution as convolutions
from codinet_jax.models.codinet import CoDiNet
from experiments.real_accuracy import (
    allocation,
    evaluation,
    gates,
    images,
    methods,
    networks,
    ordering,
    settings,
    teachers,
    training,
)

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
flags.DEFINE_list('spreads', ['1.2', '1.2', '1.2'], 'How far run rates follow the order of blocks, by stage.')
flags.DEFINE_integer('decision', None, 'The block at which `late` decides; None is the first free one of stage 3.')
flags.DEFINE_float('late_rate', 0.5, 'The share of images that run on, about.')
flags.DEFINE_integer('order_images', 2048, 'Augmented training images that the order of blocks is found on.')
flags.DEFINE_integer('calibration', 10_000, 'Training images, in a plain view, that thresholds are set on.')
flags.DEFINE_integer('eval_batch', 10_000, 'Images at a time where nothing is trained; at most `calibration`.')
flags.DEFINE_integer('holdout', 0, 'So many last training images are left out and, strongly augmented, are the test.')
flags.DEFINE_integer('test_images', 10_000, 'Images of test, from the first.')
flags.DEFINE_integer('shuffles', 3, 'Times that routes are shuffled, of each kind.')
flags.DEFINE_enum('convolution', 'xla', ['xla', 'cuda'], 'Of training; cuda: kernels of our own, on a GPU.')
flags.DEFINE_integer('unroll', 0, 'Blocks laid out at a time in training; 0 is all of them.')
flags.DEFINE_integer('steps_per_call', 0, 'Training steps a call; 0 is 20, and 1 on a CPU.')
flags.DEFINE_float('save_seconds', 300, 'Between two savings of the state, from which the same command goes on.')
flags.DEFINE_bool('prepare_only', False, 'Compile, write what runs share, and end.')
flags.DEFINE_string('given', 'resnet20', 'The cheap network whose errors costs are correlated with, if cascade.py ran.')
SETTINGS = (
    *('teachers', 'epochs', 'batch', 'views', 'pool', 'cut', 'backbone_rate', 'router_rate', 'rate_weight', 'reach'),
    *('batch_rate_weight', 'spreads', 'decision', 'late_rate', 'order_images', 'calibration', 'holdout'),
    *('test_images', 'train_images', 'shuffles', 'unroll', 'convolution', 'tag'),
)
STARTED = time.perf_counter()
LEAST_STD = 0.3  # of the mean over a block's channels
DIAL = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)


def say(*words: object) -> None:
    print(f'[{time.perf_counter() - STARTED:6.1f} s]', *words, flush=True)


def name() -> str:
    millions = '' if FLAGS.target_macs is None else f'_{FLAGS.target_macs / 1e6:.1f}M'
    tag = f'_{FLAGS.tag}' if FLAGS.tag else ''
    holdout = '_holdout' if FLAGS.holdout else ''
    return f'{pathlib.Path(FLAGS.start).stem}_{FLAGS.variant}{millions}{tag}{holdout}_s{FLAGS.seed}'


def main(argv: Sequence[str]) -> None:
    del argv
    cache, output = pathlib.Path(FLAGS.cache), pathlib.Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    train = images.read('train', FLAGS.data_dir, cache).part(slice(FLAGS.train_images))
    test = _test(train, cache)
    num_used = len(train.labels_N) - FLAGS.holdout
    used = train.part(slice(num_used))
    start = networks.read(FLAGS.start)
    say(f'{name()}: {start.architecture.num_blocks} blocks, {num_used} images, {jax.devices()[0]}')
    gates.register()
    model = CoDiNet(start.architecture, 'standardised', networks.train_dtype())
    model = model.clone(unroll=FLAGS.unroll or start.architecture.num_blocks)
    steps_per_call = FLAGS.steps_per_call or (1 if jax.default_backend() == 'cpu' else 20)
    convolution = convolutions.conv_general_dilated() if FLAGS.convolution == 'cuda' else None
    call = training.make_call(model.clone(convolution=convolution), FLAGS.views, FLAGS.cut, steps_per_call)
    recipe = methods.Recipe(
        FLAGS.backbone_rate,
        FLAGS.router_rate,
        rate_weight=FLAGS.rate_weight,
        batch_rate_weight=FLAGS.batch_rate_weight,
    )
    data = _data(train, used, cache)
    key = jax.random.key(FLAGS.seed)

    def arguments(schedule: gates.Knobs, step: int) -> tuple[Any, ...]:
        steps = range(step, step + steps_per_call)
        drawn = training.batches(num_used, FLAGS.batch, FLAGS.views, FLAGS.pool, steps, FLAGS.seed)
        return data, drawn, gates.Knobs(*(knob[step : step + steps_per_call] for knob in schedule)), key

    def compile_call() -> None:
        schedule = methods.schedule('static', recipe, steps_per_call, np.ones(start.architecture.num_blocks))
        state = training.begin(networks.gated(start, 'standardised', 0)[1])
        call.lower(state, *arguments(schedule, 0)).compile()  # type: ignore[attr-defined]
        say('training is compiled')

    compiling = threading.Thread(target=compile_call)
    if FLAGS.prepare_only:  # beside all that follows, for it takes longest
        compiling.start()

    costs = networks.costs(start, has_routers=FLAGS.variant in methods.LEARNT)
    place_n = ordering.places_n(cache, start, used, FLAGS.order_images)
    rates_n, copies_n = _rates(start, place_n, costs)
    say('run rates', np.round(rates_n, 2).tolist())
    variables = _variables(start, used, copies_n)
    judge = evaluation.Judge(
        evaluation.make_forward(model), costs, rates_n, FLAGS.eval_batch, FLAGS.variant == 'random'
    )
    calibration = _calibration_views(used)
    num_steps = max(1, round(FLAGS.epochs * (num_used // FLAGS.batch) / steps_per_call)) * steps_per_call
    schedule = methods.schedule(FLAGS.variant, recipe, num_steps, rates_n)

    before = judge.answers(variables, calibration, knobs=judge.knobs(heed=0.0, noise=0.0))
    whole = np.mean(before.predictions == used.labels_N[: FLAGS.calibration])
    say(f'evaluation is compiled; at rates rounded to 0 and 1 {100 * whole:.2f} % of {len(calibration)} training views')
    if FLAGS.prepare_only:
        compiling.join()
        return

    saved, save_time = output / f'{name()}_state.npz', time.perf_counter()
    state, history = training.resume(saved, training.begin(variables)), []
    first_step = int(state.step)
    if first_step:
        say(f'going on from step {first_step} of {num_steps}')
    first_steps = round((1 - recipe.last) * num_steps / steps_per_call) * steps_per_call
    train_start = compiled_at = time.perf_counter()
    for step in range(first_step, num_steps, steps_per_call):
        if time.perf_counter() - save_time > FLAGS.save_seconds:
            training.save(saved, state)
            save_time = time.perf_counter()
        if step == first_steps:
            state = training.begin(_fixed(judge, state.averages, calibration), step)
        state, metrics = call(state, *arguments(schedule, step))
        if step == first_step:
            jax.block_until_ready(metrics)
            say('first call')
            compiled_at = time.perf_counter()
        history.append((step, metrics))
        if len(history) % 50 == 0 or step + steps_per_call >= num_steps:
            at, shown = history[-1] if step + steps_per_call >= num_steps else history[-2]
            say(f'step {at}', {key: round(float(value), 4) for key, value in shown.items()})
    training.save(saved, state)
    train_end = time.perf_counter()
    ms_per_step = 1e3 * (train_end - compiled_at) / max(1, num_steps - first_step - steps_per_call)
    say(f'{num_steps - first_step} steps, {ms_per_step:.2f} ms each')

    averages = state.averages
    is_learnt = FLAGS.variant in methods.LEARNT
    target = FLAGS.target_macs or costs.static_macs
    shift = judge.match_cost(averages, calibration, target) if is_learnt else 0.0
    results = {
        'name': name(),
        'start': start.name,
        'variant': FLAGS.variant,
        'seed': FLAGS.seed,
        'target_macs': FLAGS.target_macs,
        'settings': {key: value for key in SETTINGS for value in [FLAGS[key].value]},
        'num_steps': num_steps,
        'seconds_training': train_end - train_start,
        'ms_per_step': ms_per_step,
        'target_rates': rates_n.tolist(),
        'shift': shift,
        'start_of_training': {'accuracy_of_rounded_rates': 100 * float(whole)},
    }
    results |= _tested(judge, averages, test, calibration, used, shift)
    results['history'] = [
        {'step': step, **{key: float(value) for key, value in metrics.items()}}
        for step, metrics in history[:: max(1, len(history) // 40)]
    ]
    _write_weights(output, averages, rates_n, shift)
    results['seconds'] = time.perf_counter() - STARTED
    temporary = output / f'.{name()}.json'
    temporary.write_text(json.dumps(results, indent=1) + '\n')
    os.replace(temporary, output / f'{name()}.json')
    saved.unlink()
    say({key: results[key] for key in ('accuracy', 'mean_macs', 'num_paths', 'num_open_blocks', 'shuffled')})


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


def _calibration_views(used: images.Images) -> np.ndarray:
    return _views(used.part(slice(FLAGS.calibration)), seed=3, is_cut=False)


def _rates(start: networks.Start, place_n: np.ndarray, costs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Run rates and which blocks copy a decision."""
    nothing_n = np.zeros(len(place_n), bool)
    if FLAGS.variant == 'static':
        return np.ones(len(place_n)), nothing_n
    if FLAGS.target_macs is None:
        raise app.UsageError(f'{FLAGS.variant} needs --target_macs.')
    if FLAGS.variant == 'pruned':
        return allocation.pruned(place_n, costs, FLAGS.target_macs), nothing_n
    if FLAGS.variant == 'late':
        of_stage_3 = np.flatnonzero((allocation.stages_n(start.architecture) == 2) & ~np.isnan(place_n))
        decision = of_stage_3[0] if FLAGS.decision is None else FLAGS.decision
        return allocation.late(place_n, costs, FLAGS.target_macs, int(decision), FLAGS.late_rate)
    spreads = np.zeros(3) if FLAGS.variant in methods.UNIFORM else np.array(list(map(float, FLAGS.spreads)))
    spread_n = spreads[allocation.stages_n(start.architecture)]
    return allocation.allocate(place_n, costs, FLAGS.target_macs, spread_n), nothing_n


def _variables(start: networks.Start, used: images.Images, copies_n: np.ndarray) -> Any:
    """Start weights and fresh routers that read standardised features; `independent` ones read nothing."""
    _, variables = networks.gated(start, 'standardised', FLAGS.seed, methods.initial_lead(FLAGS.variant))
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
    elif FLAGS.variant in methods.LEARNT:
        shift = judge.match_cost(averages, calibration, FLAGS.target_macs)
        fixed = gates.lowered(averages, np.full(len(judge.rates_n), -shift))
    else:
        return averages
    answers = judge.answers(fixed, calibration)
    say(f'thresholds fixed: {judge.macs(answers) / 1e6:.2f} MMACs', np.round(answers.decisions.mean(0), 2).tolist())
    return fixed


def _tested(
    judge: evaluation.Judge,
    variables: Any,
    test: images.Images,
    calibration: np.ndarray,
    used: images.Images,
    shift: float,
) -> dict[str, Any]:
    """Everything that is said of the test images, and their routes written."""
    output = pathlib.Path(FLAGS.output)
    shifted = gates.lowered(variables, np.full(len(judge.rates_n), -shift))
    is_free_n = allocation.free_n(networks.read(FLAGS.start).architecture)
    on_train = judge.answers(shifted, calibration)
    answers = judge.answers(shifted, test.images_NxHxWxC)
    labels_N = used.labels_N[: FLAGS.calibration]
    told = evaluation.describe(answers, test.labels_N, judge.costs, is_free_n)
    told['calibration'] = {
        'accuracy': 100 * float(np.mean(on_train.predictions == labels_N)),
        'mean_macs': judge.macs(on_train),
    }
    told |= {'agreement': None, 'shuffled': None, 'dial': None, 'correlation_with_cheap_error': None}
    if FLAGS.variant not in ('static', 'pruned'):
        told['agreement'] = evaluation.agreement(judge, shifted, test, FLAGS.cut)
        told['shuffled'] = evaluation.shuffled(judge, shifted, test, answers, FLAGS.shuffles)
        cost_N = answers.decisions @ np.asarray(judge.costs.blocks_n, float)
        told['correlation_with_own_error'] = evaluation.correlation(cost_N, answers.predictions != test.labels_N)
        given = pathlib.Path(FLAGS.cache) / f'given_{FLAGS.given}.npz'
        if given.exists() and not FLAGS.holdout:
            with np.load(given) as arrays:
                wrong_N = np.argmax(arrays['logits'], -1)[: len(test.labels_N)] != test.labels_N
            told['correlation_with_cheap_error'] = evaluation.correlation(cost_N, wrong_N)
    if FLAGS.variant in methods.LEARNT and FLAGS.variant != 'independent':
        told['dial'] = evaluation.dial(judge, shifted, test, 0.0, DIAL)
    np.savez_compressed(
        output / f'{name()}_routes.npz',
        labels=test.labels_N.astype(np.uint8),
        predictions=answers.predictions.astype(np.uint8),
        decisions=answers.decisions,
        logits=answers.logits.astype(np.float16),
        calibration_labels=labels_N.astype(np.uint8),
        calibration_logits=on_train.logits.astype(np.float16),
        macs=np.float64(told['mean_macs']),
    )
    return told


def _write_weights(output: pathlib.Path, variables: Any, rates_n: np.ndarray, shift: float) -> None:
    """Backbone in float16, routers as they are; for the product's linear router where routes have such a form."""
    variables = jax.tree.map(np.asarray, variables)
    if FLAGS.variant not in ('late', 'random'):
        variables = gates.as_linear(variables, rates_n, shift)
    np.savez_compressed(output / f'{name()}_weights.npz', **networks.compact(variables))


if __name__ == '__main__':
    app.run(main)
