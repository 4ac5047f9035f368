"""BlockDrop and SkipNet's second stage: policies that learn from the outcome of their draws, on networks that stay as
they are, or learn with them."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import helpers
from codinet_jax.config import default, setup
from codinet_jax.evaluation.evaluate import Answers
from codinet_jax.methods import BlockDrop, Method, Seen, SkipNetHRL, Term
from codinet_jax.models import execution
from codinet_jax.models.architecture import cifar_resnet, imagenet_resnet
from codinet_jax.models.network import EPSILON, RoutedOutput, RoutedResNet
from codinet_jax.models.policy import PolicyStart, policy_architecture
from codinet_jax.models.routers import is_router
from codinet_jax.routing import relaxation
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from codinet_jax.training import loop, optimizer
from codinet_jax.training.objective import total_loss
from codinet_jax.training.stages import Stage
from codinet_jax.training.state import TrainState
from codinet_jax.workdir import Workdir
from reference_network import np_dense, np_relu, np_residual, np_shortcut, np_stem

ARCH = helpers.tiny_architecture()
IMAGES = helpers.noise_images(16)
COSTS = RoutedResNet(ARCH, 'policy').costs


# --- The policy network. ---


@pytest.mark.parametrize(
    ('arch', 'macs', 'share'),
    [
        (cifar_resnet(110), 12_242_304, 0.0484),
        (cifar_resnet(32), 12_239_808, 0.178),
        (imagenet_resnet(101), 235_958_784, 0.030),
    ],
    ids=['110', '32', 'imagenet'],
)
def test_every_image_pays_for_the_policy_what_was_counted_by_hand(arch: Any, macs: int, share: float) -> None:
    costs = RoutedResNet(arch, 'policy').costs
    assert costs.policy == costs.router_macs == macs
    assert macs / costs.static_macs == pytest.approx(share, abs=6e-4)
    assert costs.mean_macs(np.zeros(costs.num_blocks)) == costs.fixed_macs
    assert costs.mean_macs(np.ones(costs.num_blocks)) == costs.static_macs + macs
    assert float(costs.share_of_static(jnp.ones(costs.num_blocks))) == pytest.approx(1 + macs / costs.static_macs)


@pytest.mark.parametrize(
    'arch', [ARCH, imagenet_resnet(18, image_size=64, num_classes=3)], ids=['cifar', 'photographs']
)
def test_the_policy_is_its_equation_on_the_image(arch: Any) -> None:
    net, of_policy = RoutedResNet(arch, 'policy'), policy_architecture(arch)
    variables, images = helpers.random_variables(net, 4), helpers.random_images(arch, 2)
    conv = functools.partial(nn.Conv, use_bias=False)
    start = PolicyStart(arch, conv, functools.partial(nn.BatchNorm, use_running_average=True, epsilon=EPSILON))
    own = {name: tree['router_start'] for name, tree in variables.items()}
    _, found = helpers.quick_jit(start.apply)(own, images[..., :1], images)
    assert len(of_policy.blocks) == (3 if arch is ARCH else 4)
    params, stats = (jax.tree.map(lambda x: np.asarray(x, np.float64), own[name]) for name in ('params', 'batch_stats'))
    for row, image in enumerate(np.asarray(images, np.float64)):
        if arch is not ARCH:  # of half the size
            image = image.reshape(len(image) // 2, 2, len(image) // 2, 2, -1).mean((1, 3))
        x = np_stem(of_policy, params, stats, image)
        for i, block in enumerate(of_policy.blocks, start=1):
            residual = np_residual(block, params[f'residual{i}'], stats[f'residual{i}'], x)
            shortcut = np_shortcut(block, *({'shortcut': of.get(f'shortcut{i}')} for of in (params, stats)), x)
            x = np_relu(shortcut + residual)
        margins_n = np_dense(x.mean((0, 1)), params['decide'])
        scale = np.abs(margins_n).max()
        np.testing.assert_allclose(found[row] / scale, margins_n / scale, atol=1e-4)
    if arch is ARCH:  # each block is handed its own
        apply = helpers.quick_jit(lambda v, x: net.apply(v, x, execution.masked(), train=False))
        pairs_Bxnx2 = apply(variables, images).router_logits_Bxnx2
        np.testing.assert_allclose(pairs_Bxnx2[..., 1] / scale, found / scale, atol=1e-5)
        assert not np.any(pairs_Bxnx2[..., 0])


# --- What is minimised. ---


def output_of(decisions: Any, margins: Any, logits: Any) -> RoutedOutput:
    margins_Bxn = jnp.asarray(margins, jnp.float32)
    pairs = jnp.stack([jnp.zeros_like(margins_Bxn), margins_Bxn], axis=-1)
    return RoutedOutput(jnp.asarray(logits, jnp.float32), jnp.asarray(decisions, jnp.float32), pairs)


MARGINS = np.log([[0.95 / 0.05, 0.1 / 0.9, 0.6 / 0.4, 0.5 / 0.5]] * 2)
RIGHT, WRONG = [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]
LABELS = jnp.zeros(2, int)


def minimised(
    method: Method, stage: int, drawn: RoutedOutput, likely: RoutedOutput | None, progress: float = 0.9, **others: Any
) -> tuple[float, dict[str, Any], np.ndarray, np.ndarray]:
    """The loss, its terms, and its gradient to margins and to class logits."""
    rules = method.stages()[stage - 1]

    def loss(margins_Bxn: jax.Array, logits_BxY: jax.Array) -> Any:
        output = output_of(drawn.run_probability_Bxn, margins_Bxn, logits_BxY)
        given: dict[str, Any] = {'num_views': 1, 'costs': COSTS, 'gamma': jnp.float32(0.3), 'progress': progress}
        return total_loss(rules.objective, output, LABELS, again=lambda how: likely, **given, **others)

    (total, terms), slopes = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
        drawn.router_logits_Bxnx2[..., 1],  # type: ignore[index]
        drawn.logits_BxY,
    )
    return float(total), jax.device_get(terms), np.asarray(slopes[0]), np.asarray(slopes[1])


DRAWN = [[1, 1, 0, 0], [1, 1, 0, 0]]
LIKELY = output_of([[1.0, 0.2, 0.7, 0.5]] * 2, MARGINS, [WRONG, RIGHT])  # 1, 0, 1, 1


def test_blockdrop_credits_a_draw_with_what_it_earned_beyond_the_likelier_decisions() -> None:
    """By hand, for a penalty of 10: first row 1 - (2/4)² + 10, second -10 - (1 - (3/4)²); s̃ as 0.2 + 0.6 s."""
    drawn = output_of(DRAWN, MARGINS, [RIGHT, WRONG])
    total, terms, slopes, of_logits = minimised(BlockDrop(), 2, drawn, LIKELY)
    s = np.array([0.95, 0.1, 0.6, 0.5])
    p = 0.2 + 0.6 * s
    chances = np.where(DRAWN[0], p, 1 - p)
    advantages = np.array([0.75 + 10, -10 - (1 - 0.5625)])
    assert terms['policy'] == pytest.approx(-np.mean(advantages * np.log(chances).sum()), rel=1e-5)
    cost = float(p @ COSTS.costs_n)
    assert terms['cost'] == pytest.approx(cost, rel=1e-5)
    assert terms['reward'] == pytest.approx((0.75 - 10) / 2), 'reported, and no part of the total'
    assert total == pytest.approx(float(terms['cross_entropy'] + terms['policy'] + 0.3 * cost), rel=1e-5)
    inner = 0.6 * s * (1 - s)
    by_hand = -advantages[:, None] * np.where(DRAWN[0], 1 / p, -1 / (1 - p)) * inner / 2 + 0.15 * COSTS.costs_n * inner
    np.testing.assert_allclose(slopes, by_hand, rtol=1e-4)
    assert np.all(of_logits[0] != 0), 'blocks learn by cross-entropy'
    alone = jax.grad(lambda x: optax.losses.softmax_cross_entropy_with_integer_labels(x, LABELS).mean())
    np.testing.assert_allclose(of_logits, alone(drawn.logits_BxY), rtol=1e-5)


def test_a_policy_that_learns_alone_decides_the_last_blocks_and_moves_nothing_else() -> None:
    drawn = output_of(DRAWN, MARGINS, [RIGHT, WRONG])
    method = BlockDrop(entropy_weight=0.0, curriculum=0.5)
    _, terms, slopes, of_logits = minimised(method, 1, drawn, LIKELY, progress=0.2)  # 1 + floor(1.6) of 4 blocks
    assert np.all(slopes[:, :2] == 0) and np.all(slopes[:, 2:] != 0)
    assert not np.any(of_logits)
    advantages = np.array([0.75 + 1, -1 - (1 - 0.5625)])  # the penalty is that of stage 1
    chances = np.log(1 - np.array([0.2 + 0.6 * 0.6, 0.2 + 0.6 * 0.5])).sum()
    assert terms['policy'] == pytest.approx(-np.mean(advantages * chances), rel=1e-5)
    whole = minimised(BlockDrop(entropy_weight=0.1, policy_weight=0.0), 1, drawn, LIKELY, progress=0.2)
    p = 0.2 + 0.6 * np.array([0.95, 0.1, 0.6, 0.5])
    assert whole[1]['entropy'] == pytest.approx(-np.sum(p * np.log(p) + (1 - p) * np.log(1 - p)), rel=1e-5)
    toward_half = np.sign(MARGINS) * whole[2]
    assert np.all(toward_half[:, :3] > 0), 'to be minimised: all move to a half, those not decided yet too'


def test_a_wrong_class_costs_what_it_should_and_the_more_the_more_it_is_wrong() -> None:
    def chosen(logits: Any, penalty: float) -> float:
        """By how much the margin of a block that was drawn to be skipped rises."""
        method = BlockDrop(wrong_penalties=(1.0, penalty))
        return -minimised(method, 2, output_of(DRAWN, MARGINS, logits), LIKELY)[2][0, 3]

    right, wrong = ([row, RIGHT] for row in (RIGHT, WRONG))
    assert chosen(right, 5.0) < chosen(wrong, 5.0), 'skipping is for those that stay right'
    likely_right = LIKELY._replace(logits_BxY=jnp.asarray([RIGHT, RIGHT]))
    drawn = output_of(DRAWN, MARGINS, wrong)
    weak, strong = (
        -minimised(BlockDrop(wrong_penalties=(1.0, penalty)), 2, drawn, likely_right)[2][0, 3] for penalty in (1.0, 5.0)
    )
    assert 0 < weak < strong


@pytest.mark.parametrize('smoothing', [0.0, 0.3])
def test_skipnets_gates_are_credited_with_the_loss_and_what_is_skipped_from_there_on(smoothing: float) -> None:
    drawn = output_of(DRAWN, MARGINS, [RIGHT, WRONG])
    method = SkipNetHRL(skip_reward=0.2, policy_weight=2.0)
    total, terms, slopes, of_logits = minimised(method, 2, drawn, None, label_smoothing=smoothing)
    log_z = np.log(np.exp(2) + 2)
    targets = (1 - smoothing) * np.eye(3)[[0, 0]] + smoothing / 3
    losses = log_z - (targets * [RIGHT, WRONG]).sum(1)
    earned = np.cumsum((0.5 * (1 - np.array(DRAWN)) * COSTS.costs_n)[:, ::-1], axis=1)[:, ::-1]  # α + γ
    returns = earned - losses[:, None]
    p = 1 / (1 + np.exp(-MARGINS))
    np.testing.assert_allclose(slopes, -2 * returns * (DRAWN - p) / 2, rtol=1e-4)
    policy = -np.mean((returns * np.log(np.where(DRAWN, p, 1 - p))).sum(1))
    cost = float(np.mean(DRAWN, axis=0) @ COSTS.costs_n)
    assert terms['policy'] == pytest.approx(policy, rel=1e-5)
    assert terms['reward'] == pytest.approx(returns[:, 0].mean(), rel=1e-5), 'of a route: what its first gate earns'
    assert total == pytest.approx(losses.mean() + 2 * policy + 0.3 * cost, rel=1e-5)
    np.testing.assert_allclose(of_logits, (np.exp([RIGHT, WRONG] - log_z) - targets) / 2, rtol=1e-5)
    sharper = SkipNetHRL(skip_reward=0.2, policy_weight=2.0, temperature=0.5)
    sharp = minimised(sharper, 2, drawn, None, label_smoothing=smoothing)[2]
    np.testing.assert_allclose(sharp, -2 * returns * (DRAWN - 1 / (1 + np.exp(-2 * MARGINS))) / 0.5 / 2, rtol=1e-4)


def test_one_more_block_is_decided_every_epoch_of_the_curriculum() -> None:
    method = BlockDrop(curriculum=54 / 5000)
    for epoch in (0, 1, 2, 30, 53, 54, 4999):
        opened = np.asarray(method.opened(epoch / 5000, 54))
        assert opened.sum() == max(0, 54 - (1 + epoch)), epoch
        assert not opened[-1] and np.all(np.diff(opened.astype(int)) <= 0), 'the first ones are open'


def test_draws_of_either_method_have_no_gradient_and_a_policys_are_never_certain() -> None:
    logits = jnp.broadcast_to(jnp.array([0.0, 50.0]), (4000, 2))
    noise = jax.random.gumbel(jax.random.key(0), (4000, 2))
    for method, rate in ((BlockDrop(), 0.8), (SkipNetHRL(), 1.0)):
        decide = method.stages()[1].execution.decide  # type: ignore[union-attr]
        assert float(decide(logits, noise).mean()) == pytest.approx(rate, abs=0.02)
        assert not np.any(jax.grad(lambda x, d=decide: d(x, noise).sum())(logits))


# --- Steps. ---


@functools.cache
def plan(variant: str, router: str) -> list[Stage]:
    changes: dict[str, Any] = {'loss.gamma': 0.1, 'optimizer.weight_decay': 0.01, 'optimizer.ema_decay': 0.9}
    config = default.with_variant(helpers.tiny_config(**changes, **{'loss.target_cost': None}), variant)
    return helpers.tiny_stages(config, router)


def stepped(stage: Stage, step: int = 0, **changes: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The state before and after a step of a stage, and its metrics."""
    mesh = sharding.data_mesh(1)
    state = helpers.scattered_state(stage, mesh, 0.1)
    averages = jax.tree.map(jnp.copy, state.variables)
    state = dataclasses.replace(state, step=jnp.int32(stage.start + step), averages=averages)
    state = jax.device_put(state, sharding.replicated(mesh))
    before = jax.device_get(state)
    step_fn = helpers.quick_jit(dataclasses.replace(stage.step, **changes))
    after, metrics = step_fn(state, *sharding.put(mesh, IMAGES.images_NxHxWxC, IMAGES.labels_N))
    return before, jax.device_get(after), jax.device_get(metrics)


def moved(before: Any, after: Any) -> dict[str, bool]:
    """Whether a leaf changed by a bit, by path, of parameters, statistics and averages."""
    old, new = (helpers.by_path((s.params, s.batch_stats, s.averages)) for s in (before, after))
    return {path: not np.array_equal(leaf, new[path]) for path, leaf in old.items()}


def test_the_curriculum_moves_the_policy_alone() -> None:
    stage = plan('blockdrop', 'policy')[0]
    before, after, metrics = stepped(stage)
    changed = moved(before, after)
    for path, has_moved in changed.items():
        assert has_moved == is_router(path.split('/')), path
    assert sum(changed.values()) > 20
    assert stage.step.controller is None and after.controller.gamma == np.float32(0.1)
    rates_n = metrics['run_rates_n']
    np.testing.assert_array_equal(rates_n[:-1], 1, 'only the last block is decided')
    assert rates_n[-1] < 1
    assert metrics['terms'].keys() == {'cross_entropy', 'policy', 'entropy', 'cost', 'reward'}
    assert metrics['macs_share'] == pytest.approx(float(COSTS.share_of_static(rates_n)), rel=1e-6)


def test_a_teacher_is_heard_where_blocks_learn() -> None:
    """The policy's decisions are drawn, and no gradient goes through a draw."""
    config = default.with_variant(helpers.tiny_config(**{'loss.target_cost': None}), 'blockdrop')
    config.update_from_flattened_dict({'distillation.weight': 0.5, 'init_from': 'static.npz'})
    for stage, is_taught in zip(helpers.tiny_stages(config, 'policy'), (False, True), strict=True):
        state = jax.eval_shape(stage.first_state)
        assert state.teacher is not None, 'stage 1 keeps it for stage 2'
        terms = jax.eval_shape(stage.step, state, IMAGES.images_NxHxWxC, IMAGES.labels_N)[1]['terms']
        assert ('distillation' in terms) == is_taught


def test_blocks_that_the_curriculum_has_not_come_to_are_not_warned_of() -> None:
    first, second = plan('blockdrop', 'policy')
    opened = [first.always_run_n(step).sum() for step in range(first.start, first.end)]
    assert opened == [3, 3, 2, 1, 0, 0, 0, 0, 0] and not second.always_run_n(second.start).any()


def test_skipnets_second_stage_moves_routers_and_blocks() -> None:
    stage = plan('skipnet_hrl', 'lstm')[1]
    before, after, metrics = stepped(stage)
    still = {path for path, has_moved in moved(before, after).items() if not has_moved}
    assert not {path for path in still if 'router/project' not in path}  # of a block that is never asked
    assert {'cross_entropy', 'policy', 'cost', 'reward'} == metrics['terms'].keys()
    assert not stage.step.model.routers_frozen and not stage.step.model.backbone_frozen


def test_a_block_that_is_open_runs_for_every_image_whatever_is_drawn_or_likelier() -> None:
    stage, found = plan('blockdrop', 'policy')[0], {}

    def objective(seen: Seen) -> dict[str, Term]:
        assert seen.again is not None
        likely = seen.again(execution.with_noise(execution.masked()))
        drawn_Bxn, likely_Bxn = (output.run_probability_Bxn for output in (seen.output, likely))
        jax.debug.callback(
            lambda *given: found.update(zip(('drawn', 'likely'), given, strict=True)), drawn_Bxn, likely_Bxn
        )
        return {'cross_entropy': Term(seen.cross_entropy)}

    closed = np.full(4, -3.0, np.float32)
    mesh = sharding.data_mesh(1)
    state = helpers.scattered_state(stage, mesh)
    state.params['router_start']['decide']['bias'] = jnp.asarray(closed)
    state = dataclasses.replace(state, step=jnp.int32(3))  # of nine: 1 + floor(4 * 3 / 4.5) blocks
    state = jax.device_put(state, sharding.replicated(mesh))
    step_fn = helpers.quick_jit(dataclasses.replace(stage.step, objective=objective, ema_decay=0.0))
    jax.block_until_ready(step_fn(state, *sharding.put(mesh, IMAGES.images_NxHxWxC, IMAGES.labels_N)))
    jax.effects_barrier()
    assert found['drawn'].shape == (32, 4)
    np.testing.assert_array_equal(found['drawn'][:, 0], 1)
    np.testing.assert_array_equal(found['likely'][:, 0], 1)
    assert 0 < found['drawn'][:, 1:].mean() < 1 and (found['likely'][:, 1:] < 0.5).any()


def test_once_more_is_on_the_same_views_as_in_training_and_without_a_gradient() -> None:
    """A network that rounds without noise sees itself."""
    stage = plan('skipnet_hrl', 'lstm')[1]

    def objective(seen: Seen) -> dict[str, Term]:
        assert seen.again is not None
        again = seen.again(execution.with_noise(execution.masked()))
        other = seen.again(execution.relaxed(relaxation.softmax, 1.0))
        off = jnp.max(jnp.abs(seen.output.logits_BxY - again.logits_BxY))
        return {
            'cross_entropy': Term(jnp.sum(other.logits_BxY) + jnp.sum(again.router_logits_Bxnx2)),  # type: ignore[arg-type]
            'off': Term(jax.lax.stop_gradient(off)),
            'other': Term(jax.lax.stop_gradient(jnp.max(jnp.abs(other.logits_BxY - again.logits_BxY)))),
            'size': Term(jax.lax.stop_gradient(jnp.max(jnp.abs(again.logits_BxY)))),
        }

    rounds = execution.relaxed(relaxation.rounded, 1.0)
    _, _, metrics = stepped(stage, objective=objective, execution=rounds)
    terms = metrics['terms']
    assert terms['off'] < 1e-4 * terms['size'] < 1e-2 * terms['other']
    assert metrics['gradient_norm'] == 0


def test_adam_is_pytorchs_and_freezes_and_skips_as_sgd_does() -> None:
    generator, rate, decay = np.random.default_rng(0), 0.01, 0.1
    adam = optimizer.adam(lambda _: rate, momentum=0.9, weight_decay=decay, freeze_routers=False, freeze_backbone=True)
    weight, first, second = generator.normal(size=3), np.zeros(3), np.zeros(3)
    params = {'router': {'kernel': jnp.asarray(weight)}, 'head': {'kernel': jnp.asarray(weight)}}
    start, state = weight.copy(), adam.init(params)
    for t in range(1, 5):
        gradient = generator.normal(size=3)
        whole = gradient + decay * weight
        first, second = 0.9 * first + 0.1 * whole, 0.999 * second + 0.001 * whole**2
        weight = weight - rate * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        updates, state = adam.update(jax.tree.map(lambda p, g=gradient: jnp.asarray(g), params), state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params['router']['kernel'], weight, rtol=1e-5)
    np.testing.assert_array_equal(params['head']['kernel'], jnp.asarray(start))


def test_a_step_of_adam_that_is_skipped_counts_for_the_learning_rate_alone() -> None:
    stage = helpers.tiny_stages(helpers.tiny_config(), None)[0]

    def infinite(seen: Seen) -> dict[str, Term]:
        return {'cross_entropy': Term(seen.cross_entropy + jnp.inf)}

    adam = optimizer.adam(stage.step.schedule, momentum=0.9, weight_decay=0.0, freeze_routers=False)
    given = stage._replace(step=dataclasses.replace(stage.step, optimizer=adam))
    before, after, metrics = stepped(given, objective=infinite, skip_nonfinite=True)
    assert metrics['skipped'] == 1 and not any(moved(before, after).values())
    counts = optax.tree.get_all_with_path(after.opt_state, 'count')
    assert {path[-1].tuple_name: count for path, count in counts} == {'ScaleByAdamState': 0, 'ScaleByScheduleState': 1}


# --- Runs. ---


@pytest.mark.parametrize(
    ('variant', 'setting', 'value', 'sentence'),
    [
        ('blockdrop', 'loss.wrong_penalties', (1.0,), r'^loss\.wrong_penalties are \(1\.0,\); give two'),
        ('blockdrop', 'loss.wrong_penalties', (1.0, -1.0), r'^loss\.wrong_penalties are'),
        ('blockdrop', 'loss.entropy_weight', -0.1, r'^loss\.entropy_weight is -0\.1'),
        ('blockdrop', 'routing.curriculum', 0.0, r'^routing\.curriculum is 0\.0'),
        ('blockdrop', 'model.router', 'linear', r'^method=blockdrop is of model\.router=policy'),
        ('blockdrop', 'loss.target_cost', 0.4, r'skips every block costs 0\.46'),
        ('skipnet_hrl', 'loss.policy_weight', float('inf'), r'^loss\.policy_weight is inf'),
        ('skipnet_hrl', 'loss.skip_reward', -1.0, r'^loss\.skip_reward is -1\.0'),
        ('skipnet_hrl', 'optimizer.kind', 'adamw', r"^optimizer\.kind is 'adamw'; it must be one of sgd, adam"),
    ],
)
def test_what_cannot_be_is_refused_by_name(variant: str, setting: str, value: Any, sentence: str) -> None:
    config = default.with_variant(helpers.tiny_config(**{'model.depth': 14}), variant)
    config.update_from_flattened_dict({setting: value})
    with pytest.raises(InputError, match=sentence):
        setup.read(config)


def test_a_policy_is_not_trained_on_blocks_that_nobody_trained(tmp_path: Path) -> None:
    config = default.with_variant(helpers.tiny_config(**{'model.depth': 14}), 'blockdrop')
    with pytest.raises(InputError, match=r'^BlockDrop keeps the blocks as they are.*give init_from the weights\.npz'):
        helpers.train(config, Workdir(tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()


@pytest.mark.long
def test_a_policy_is_learnt_on_a_trained_network_that_is_fine_tuned_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers.hide_tensorflow(monkeypatch)
    given = helpers.random_variables(helpers.tiny_network(None))
    with Workdir(tmp_path / 'static').claimed(helpers.tiny_setup().record):
        Workdir(tmp_path / 'static').write_weights(given)
    changes: dict[str, Any] = {'optimizer.kind': 'adam', 'stage1.learning_rate': 1e-3, 'loss.target_cost': None}
    config = default.with_variant(helpers.tiny_config(**changes), 'blockdrop')
    config.init_from = str(tmp_path / 'static' / 'weights.npz')
    seen: list[Any] = []
    save = loop.Run._save

    def saving(self: Any) -> None:
        seen.append(jax.device_get(self.state))
        save(self)

    monkeypatch.setattr(loop.Run, '_save', saving)
    monkeypatch.setattr(loop, 'compiled', lambda step, mesh: helpers.quick_jit(step))
    named = dataclasses.replace(setup.read(config), model=helpers.tiny_network('policy'))
    results = loop.train(named, Workdir(tmp_path / 'run'))
    assert results is not None and results['macs_share'] >= COSTS.fixed_macs / COSTS.static_macs > 1
    (at_the_end_of_stage_1,) = (state for state in seen if state.step == 9)
    kept, trained = (
        helpers.by_path(each) for each in (at_the_end_of_stage_1.variables, Workdir(tmp_path / 'run').read_weights())
    )
    for path, leaf in helpers.by_path(given).items():
        np.testing.assert_array_equal(kept[path], leaf, err_msg=path)
        assert np.any(trained[path] != leaf), path
    policy = {path for path in kept if is_router(path.split('/'))}
    assert policy == kept.keys() - helpers.by_path(given).keys()


@pytest.mark.long
def test_routers_that_learn_in_stage_2_are_matched_at_its_end_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are counted and not taken."""
    helpers.hide_tensorflow(monkeypatch)
    seen: list[Any] = []

    def counted(state: Any, *_: Any) -> Any:
        return dataclasses.replace(state, step=state.step + 1), {'terms': {}, 'loss': 0.0, 'accuracy': 0.0}

    def no_routes(variables: Any, images_BxHxWxC: jax.Array, *_: Any) -> Answers:
        B = len(images_BxHxWxC)
        return Answers(jnp.zeros(B, int), jnp.zeros((B, 3)), jnp.zeros((B, 3), bool), jnp.zeros((B, 10)))

    monkeypatch.setattr(loop, 'compiled', lambda *_: counted)
    monkeypatch.setattr(loop, 'make_forward', lambda *_, **__: no_routes)
    monkeypatch.setattr(loop.Run, '_match_cost', lambda self: seen.append(int(self.state.step)))
    monkeypatch.setattr(TrainState, 'with_averaged_routers', lambda self: seen.append('averaged') or self)
    every = {'match_every_epochs': 4 * 16 / 1442, 'optimizer.ema_decay': 0.9, 'loss.target_cost': 0.7}
    for variant, expected in (('skipnet_hrl', [18]), ('skipnet', ['averaged', 9, 12, 16, 18])):
        seen.clear()
        helpers.train(default.with_variant(helpers.tiny_config(**every), variant), Workdir(tmp_path / variant))
        assert seen == expected, variant
