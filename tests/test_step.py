"""One training step: the same on any number of devices, Eq. 12 its loss, routers frozen in stage 2, SGD PyTorch's."""

import dataclasses
import functools
import itertools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

import helpers
from codinet_jax.config import setup
from codinet_jax.data import augment, datasets
from codinet_jax.evaluation.evaluate import Answers
from codinet_jax.methods import CoDiNet, Term
from codinet_jax.methods.terms import TERMS
from codinet_jax.models.network import RoutedOutput
from codinet_jax.runtime import sharding
from codinet_jax.training import loop, optimizer, progress
from codinet_jax.training import stages as stage_plans
from codinet_jax.training.objective import total_loss
from codinet_jax.workdir import Workdir

L, M = 16, 2
GAMMA = 0.3
DECAY = 0.01
IMAGES = helpers.noise_images(64)
# Sums over the batch are taken in another order on eight devices; single precision has seven digits.
FLOAT32: dict[str, Any] = {'rtol': 2e-4, 'atol': 2e-6}

Outcome = tuple[Any, Any, dict[str, Any]]


def config(**changes: Any) -> Any:
    with_decay: dict[str, Any] = {'batch_size': L, 'num_views': M, 'loss.gamma': GAMMA}
    return helpers.tiny_config(**with_decay, **{'optimizer.weight_decay': DECAY}, **changes)


@functools.cache
def stages(router: str | None = 'linear', target_cost: float | None = 0.7) -> list[stage_plans.Stage]:
    changed = config()
    changed.loss.target_cost = target_cost
    return helpers.tiny_stages(changed, router)


@functools.cache
def executable(number: int, num_devices: int, router: str | None, target_cost: float | None) -> Any:
    """A stage's step, as the loop has it, for so many devices."""
    mesh, stage = sharding.data_mesh(num_devices), stages(router, target_cost)[number - 1]
    step_fn: Any = stage_plans.compiled(stage.step, mesh)
    return quickly(step_fn, helpers.scattered_state(stage, mesh), *batch(mesh, 0))


def quickly(step_fn: Any, *arguments: Any) -> Any:
    """Compiled for these arguments: a step that is taken a few times compiles for longer than it runs."""
    return step_fn.lower(*arguments).compile(compiler_options=helpers.QUICK_OPTIONS)


def batch(mesh: Mesh, number: int) -> tuple[jax.Array, ...]:
    rows = slice(number * L, (number + 1) * L)
    return sharding.put(mesh, IMAGES.images_NxHxWxC[rows], IMAGES.labels_N[rows])


@functools.cache
def taken(
    number: int, num_devices: int = 1, num_steps: int = 1, router: str | None = 'linear', target: float | None = 0.7
) -> Outcome:
    """The state before and after some steps of a stage, as numpy, and the last step's metrics."""
    mesh, step_fn = sharding.data_mesh(num_devices), executable(number, num_devices, router, target)
    state = helpers.scattered_state(stages(router, target)[number - 1], mesh, GAMMA)
    before, metrics = jax.device_get(state), {}
    for step in range(num_steps):
        state, metrics = step_fn(state, *batch(mesh, step))
    metrics = jax.device_get(metrics)
    return before, jax.device_get(state), metrics.pop('terms', {}) | metrics


@pytest.mark.parametrize('number', [1, 2])
def test_loss_gradient_and_metrics_are_the_same_on_one_and_on_eight_devices(number: int) -> None:
    (_, one, metrics_one), (_, eight, metrics_eight) = taken(number), taken(number, num_devices=8)
    assert metrics_one.keys() == metrics_eight.keys()
    for name, value in metrics_one.items():
        np.testing.assert_allclose(metrics_eight[name], value, **FLOAT32, err_msg=name)
    # After one step the momentum is the gradient plus the decay: the whole optimiser state is compared, then the rest.
    leaves_one, leaves_eight = helpers.by_path(one), helpers.by_path(eight)
    assert leaves_one.keys() == leaves_eight.keys() and any('trace' in path for path in leaves_one)
    for path, leaf in leaves_one.items():
        np.testing.assert_allclose(leaves_eight[path], leaf, **FLOAT32, err_msg=path)


@pytest.mark.parametrize('number', [1, 2])
def test_routes_are_the_same_on_one_and_on_eight_devices(number: int) -> None:
    one, eight = taken(number)[2], taken(number, num_devices=8)[2]
    assert one['num_paths'] > 1, 'one route for all would show nothing'
    for name in ('num_paths', 'agreement', 'run_rates_n'):
        np.testing.assert_array_equal(eight[name], one[name], err_msg=name)


def test_the_views_of_an_image_are_made_on_its_device() -> None:
    mesh = sharding.data_mesh(8)

    def views(images_LxHxWxC: jax.Array) -> jax.Array:
        drawn_LxMxHxWxC = augment.make_views(images_LxHxWxC, jax.random.key(0), M, crop_padding=0, flip=False)
        return drawn_LxMxHxWxC.reshape(-1, 8, 8, 1)

    spread = jax.jit(views, in_shardings=sharding.by_rows(mesh))
    images = IMAGES.images_NxHxWxC[:L]
    per_device = L // 8
    for shard in spread(*sharding.put(mesh, images)).addressable_shards:
        first = shard.device.id * per_device
        np.testing.assert_array_equal(shard.data, np.repeat(images[first : first + per_device], M, axis=0))


@pytest.mark.parametrize('number', [1, 2])
def test_a_device_convolves_its_own_rows_and_no_more(number: int) -> None:
    activations = re.findall(r'f32\[(\d+),8,8,4\]', executable(number, 8, 'linear', 0.7).as_text())
    assert max(map(int, activations)) == L * M // 8


def test_eq_12_is_the_weighted_sum_of_its_terms() -> None:
    metrics, loss = taken(1)[2], config().loss
    weighted = loss.alpha * metrics['consistency'] + loss.beta * metrics['diversity'] + GAMMA * metrics['cost']
    assert metrics['loss'] == pytest.approx(metrics['cross_entropy'] + weighted, rel=1e-5)
    assert min(metrics[name] for name in ('consistency', 'diversity', 'cost', 'cross_entropy')) > 0


@pytest.mark.parametrize('noise_free', [False, True])
def test_the_terms_are_those_of_the_views_grouped_by_image(noise_free: bool) -> None:
    generator = np.random.default_rng(0)
    logits_BxY, v_Bxn = generator.normal(size=(L * M, 10)), generator.uniform(size=(L * M, 4))
    labels_B = np.repeat(IMAGES.labels_N[:L], M)
    method = CoDiNet(consistency_margin=0.2, diversity_margin=1.1, alpha=0.3, beta=0.7, noise_free=noise_free)
    costs = helpers.tiny_costs()
    costs_n = np.asarray(costs.blocks_n)
    router_logits_Bxnx2 = np.stack([np.zeros_like(v_Bxn), np.log(v_Bxn / (1 - v_Bxn))], axis=-1)
    drawn_Bxn = generator.uniform(size=v_Bxn.shape) if noise_free else v_Bxn
    output = RoutedOutput(jnp.asarray(logits_BxY), jnp.asarray(drawn_Bxn), jnp.asarray(router_logits_Bxnx2))
    given = {'num_views': M, 'costs': costs, 'gamma': jnp.float32(GAMMA)}
    total, terms = jax.device_get(total_loss(method.objective, output, jnp.asarray(labels_B), **given))
    by_image = [v_Bxn[i * M : (i + 1) * M] for i in range(L)]
    strays = [np.linalg.norm(v - views.mean(0)) for views in by_image for v in views]
    apart = [np.linalg.norm(a.mean(0) - b.mean(0)) for a, b in itertools.permutations(by_image, 2)]
    expected = {
        'cross_entropy': np.mean(np.log(np.exp(logits_BxY).sum(1)) - logits_BxY[np.arange(L * M), labels_B]),
        'consistency': np.mean(np.maximum(0, np.array(strays) - 0.2) ** 2),
        'diversity': np.mean(np.maximum(0, 1.1 - np.array(apart)) ** 2),
        'cost': np.mean(v_Bxn @ (costs_n / costs_n.sum())),
    }
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, rel=1e-5), name
    assert terms.keys() == expected.keys() and min(terms.values()) > 0.01
    weights = {'cross_entropy': 1, 'consistency': 0.3, 'diversity': 0.7, 'cost': GAMMA}
    assert total == pytest.approx(sum(weight * terms[name] for name, weight in weights.items()), rel=1e-5)


def test_stage_2_and_static_networks_learn_from_cross_entropy_alone() -> None:
    for metrics in (taken(2)[2], taken(1, router=None)[2]):
        assert metrics['loss'] == metrics['cross_entropy']
        assert not metrics.keys() & {'consistency', 'diversity', 'cost'}
    assert 'num_paths' in taken(2)[2] and not taken(1, router=None)[2].keys() & {'num_paths', 'gamma', 'macs_share'}


def test_a_static_network_trains() -> None:
    before, after, _ = taken(1, router=None)
    old, new = helpers.by_path(before.params), helpers.by_path(after.params)
    assert old and [path for path in old if np.array_equal(old[path], new[path])] == []


@pytest.mark.parametrize(('router', 'num_weights'), [('linear', 12), ('recurrent', 20), ('random', 1)])
def test_stage_2_moves_everything_but_the_routers(router: str, num_weights: int) -> None:
    before, after, _ = taken(2, num_steps=3, router=router)
    old, new = helpers.by_path(before.params), helpers.by_path(after.params)
    routers = {path for path in old if re.search(r'(^|/)(router|router_start)/', path)}
    assert len(routers) == num_weights and (router == 'linear') != any(x.startswith('router_start/') for x in routers)
    assert {path for path in old if np.array_equal(old[path], new[path])} == routers
    assert not any('router' in path for path in helpers.by_path(after.opt_state)), 'a frozen parameter has a momentum'


def test_stage_1_moves_the_routers_too() -> None:
    before, after, _ = taken(1)
    old, new = helpers.by_path(before.params), helpers.by_path(after.params)
    assert [path for path in old if np.array_equal(old[path], new[path])] == []


def test_a_target_cost_moves_gamma_and_no_other_thing_does() -> None:
    gamma = np.float32(GAMMA)
    moved, kept, stage_2 = taken(1)[1], taken(1, target=None)[1], taken(2)[1]
    assert moved.controller.gamma != gamma and moved.controller.updates == 1
    assert kept.controller.gamma == gamma and stage_2.controller.gamma == gamma
    assert taken(1)[2]['gamma'] == gamma, 'the metric is the gamma that weighed this step'
    assert moved.controller.mean_cost == taken(1)[2]['macs_share']


def test_the_state_given_to_a_step_is_given_up() -> None:
    mesh = sharding.data_mesh(8)
    state, given = helpers.scattered_state(stages()[0], mesh), batch(mesh, 0)
    after, _ = executable(1, 8, 'linear', 0.7)(state, *given)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state, state.batch_stats)))
    assert not any(leaf.is_deleted() for leaf in (*jax.tree.leaves(after), *given))


def test_a_step_draws_its_randomness_from_its_number() -> None:
    mesh, losses = sharding.data_mesh(1), []
    for number in (0, 0, 1):
        step = jax.device_put(jnp.int32(number), sharding.replicated(mesh))
        state = dataclasses.replace(helpers.scattered_state(stages()[0], mesh), step=step)
        losses.append(float(executable(1, 1, 'linear', 0.7)(state, *batch(mesh, 0))[1]['loss']))
    assert losses[0] == losses[1] != losses[2]


def test_sgd_is_pytorchs() -> None:
    generator = np.random.default_rng(0)
    rates, momentum = [0.1, 0.1, 0.05, 0.05, 0.05], 0.9
    sgd = optimizer.sgd(
        optimizer.schedule(0.1, [2], 0.5, 0), momentum=momentum, weight_decay=DECAY, freeze_routers=False
    )
    weight, buffer = generator.normal(size=3), np.zeros(3)
    params = {'weight': jnp.asarray(weight)}
    opt_state = sgd.init(params)
    for rate in rates:
        gradient = generator.normal(size=3)
        buffer = momentum * buffer + gradient + DECAY * weight
        weight = weight - rate * buffer
        updates, opt_state = sgd.update({'weight': jnp.asarray(gradient)}, opt_state, params)
        params = {'weight': params['weight'] + updates['weight']}
        np.testing.assert_allclose(params['weight'], weight, rtol=1e-5)


def test_the_learning_rate_falls_on_the_step_it_is_told_to() -> None:
    schedule = optimizer.schedule(0.1, [4, 6], 0.1, warmup_steps=0)
    assert [float(schedule(step)) for step in range(8)] == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def test_two_decays_that_fall_on_one_step_both_count() -> None:
    schedule = optimizer.schedule(0.1, [2, 2, 3], 0.1, warmup_steps=0)
    assert [float(schedule(step)) for step in range(4)] == pytest.approx([0.1, 0.1, 0.001, 0.0001])


def test_the_learning_rate_warms_up_from_zero() -> None:
    schedule = optimizer.schedule(0.1, [6], 0.1, warmup_steps=4)
    assert [float(schedule(step)) for step in range(8)] == pytest.approx([0, 0.025, 0.05, 0.075, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize('most_unread', [1, 2, 10])
def test_no_step_waits_for_the_metrics_of_those_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, most_unread: int
) -> None:
    events: list[tuple[str, int]] = []
    returned: list[Any] = []
    real_get = jax.device_get

    def dispatch(state: Any, *_: Any) -> Any:
        events.append(('dispatch', len(returned)))
        returned.append({'terms': {}, 'loss': jnp.zeros(()), 'accuracy': jnp.zeros(())})
        return state, returned[-1]

    def device_get(tree: Any) -> Any:
        given = tree if isinstance(tree, list) else []
        events.extend(('read', number) for each in given for number, had in enumerate(returned) if had is each)
        return real_get(tree)

    monkeypatch.setattr(progress, 'MOST_UNREAD', most_unread)
    monkeypatch.setattr(progress, 'MOST_SECONDS_UNREAD', float('inf'))
    helpers.hide_tensorflow(monkeypatch)
    monkeypatch.setattr(loop, 'compiled', lambda *_: dispatch)
    monkeypatch.setattr(jax, 'device_get', device_get)
    monkeypatch.setattr(loop, 'make_forward', lambda *_, **__: no_routes)
    state = jax.device_get(helpers.scattered_state(stages()[0], sharding.data_mesh(1)))
    monkeypatch.setattr(stage_plans.Stage, 'placed_state', lambda *_: state)
    monkeypatch.setattr(datasets.DataSource, 'open', lambda *_: helpers.noise_images(80))
    changes = {'stage1.epochs': 1.0, 'stage2.epochs': 1.0, 'checkpoint_every_steps': 1000}
    named = setup.read(config(**changes))
    loop.train(dataclasses.replace(named, model=helpers.tiny_network()), Workdir(tmp_path))
    num_steps = 80 // L
    stage_1, stage_2 = range(num_steps), range(num_steps, 2 * num_steps)
    assert events == in_step(stage_1, most_unread) + in_step(stage_2, most_unread)


def no_routes(variables: Any, images_BxHxWxC: jax.Array, *_: Any) -> Answers:
    del variables
    B = len(images_BxHxWxC)
    return Answers(jnp.zeros(B, int), jnp.zeros((B, 4)), jnp.zeros((B, 4), bool), jnp.zeros((B, 10)))


def in_step(steps: range, most_unread: int) -> list[tuple[str, int]]:
    """Metrics of the first step, then of so many at a time, are read once the next is on its way, and the last ones."""
    events, unread = [], []
    for step in steps:
        events.append(('dispatch', step))
        if len(unread) == (most_unread if step > steps[0] + 1 else 1):
            events += [('read', each) for each in unread]
            unread = []
        unread.append(step)
    return events + [('read', each) for each in unread]


def poisoned(objective: Any, *, loss: bool) -> Any:
    """An objective whose loss is not finite, or whose gradient alone is not."""

    def with_poison(seen: Any) -> dict[str, Term]:
        zero = 0.0 * jnp.sum(seen.output.logits_BxY)
        return objective(seen) | {'poison': Term(zero + jnp.inf if loss else jnp.sqrt(zero))}

    return with_poison


@pytest.mark.parametrize('loss', [True, False], ids=['loss', 'gradient'])
def test_a_step_that_is_skipped_changes_nothing_but_counts_for_the_learning_rate(loss: bool) -> None:
    mesh = sharding.data_mesh(1)
    changes: dict[str, Any] = {'optimizer.skip_nonfinite': True, 'stage1.decay_epochs': (L / 1442,)}
    changed = config(**changes, **{'loss.target_cost': 0.7})
    changed.optimizer.weight_decay = 0.0
    stage = helpers.tiny_stages(changed)[0]
    bad = dataclasses.replace(stage.step, objective=poisoned(stage.step.objective, loss=loss))
    before = helpers.scattered_state(stage, mesh)
    old = jax.device_get(before)
    skip: Any = stage_plans.compiled(bad, mesh)
    skipped, metrics = quickly(skip, before, *batch(mesh, 0))(before, *batch(mesh, 0))
    assert metrics['skipped'] == 1 and np.isfinite(metrics['loss']) != loss
    assert skipped.step == 1 and optax.tree.get(skipped.opt_state, 'count') == 1
    for path, leaf in helpers.by_path((skipped.params, skipped.batch_stats, skipped.controller)).items():
        np.testing.assert_array_equal(
            leaf, helpers.by_path((old.params, old.batch_stats, old.controller))[path], err_msg=path
        )
    take: Any = stage_plans.compiled(stage.step, mesh)
    after, metrics = quickly(take, skipped, *batch(mesh, 0))(skipped, *batch(mesh, 0))
    moved = jax.tree.map(np.subtract, jax.device_get(after.params), old.params)
    norm = np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(moved)))
    # The momentum was empty, so the first step is the gradient times the rate.
    assert metrics['skipped'] == 0
    assert norm == pytest.approx(float(metrics['learning_rate'] * metrics['gradient_norm']), rel=1e-3)
    assert float(metrics['learning_rate']) == pytest.approx(0.01), 'it fell while the step was skipped'


def test_the_learning_rate_of_stage_2_counts_from_its_start() -> None:
    mesh = sharding.data_mesh(1)
    changes: dict[str, Any] = {'stage2.learning_rate': 0.5, 'stage2.decay_epochs': (2 * L / 1442,)}
    stage = helpers.tiny_stages(config(**changes))[1]
    assert stage.start > 0
    rates = []
    for step in range(stage.start, stage.start + 4):
        state = dataclasses.replace(helpers.scattered_state(stage, mesh), step=jnp.int32(step))
        step_fn = jax.jit(lambda state: stage.step.schedule(state.step - stage.step.start))
        rates.append(float(step_fn(state)))
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05])
    state = dataclasses.replace(helpers.scattered_state(stage, mesh), step=jax.device_put(jnp.int32(stage.start + 1)))
    take: Any = stage_plans.compiled(stage.step, mesh)
    _, metrics = quickly(take, state, *batch(mesh, 0))(state, *batch(mesh, 0))
    assert metrics['learning_rate'] == pytest.approx(0.5)


def test_views_and_noise_are_drawn_from_keys_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    step, seen = stages()[0].step, {}
    state = dataclasses.replace(helpers.scattered_state(stages()[0], sharding.data_mesh(1)), step=jnp.int32(5))

    class Enough(Exception):
        pass

    def gradient(self: Any, state: Any, views: jax.Array, labels_L: jax.Array, noise: jax.Array) -> Any:
        seen.update(views=views, noise=noise)
        raise Enough

    monkeypatch.setattr(type(step), 'gradient', gradient)
    images, labels_L = IMAGES.images_NxHxWxC[:L], IMAGES.labels_N[:L]
    with pytest.raises(Enough):
        step(state, jnp.asarray(images), jnp.asarray(labels_L))
    view_key, noise_key = jax.random.split(jax.random.fold_in(step.key, 5))
    np.testing.assert_array_equal(seen['noise'], jax.random.gumbel(noise_key, (L, M, 4, 2)))
    np.testing.assert_array_equal(seen['views'], augment.make_views(jnp.asarray(images), view_key, M, 1, False))


def test_an_objective_is_told_the_labels_of_all_views_and_the_progress_of_its_stage() -> None:
    stage, mesh = stages(None)[1], sharding.data_mesh(1)
    places_B = np.arange(L * M, dtype=np.float32)

    def objective(seen: Any) -> dict[str, Term]:
        labels = jnp.sum(seen.labels_B * places_B) + 0.0 * jnp.sum(seen.output.logits_BxY)
        return {'labels': Term(labels), 'progress': Term(jnp.asarray(seen.progress, jnp.float32))}

    step = dataclasses.replace(stage.step, objective=objective)
    state = dataclasses.replace(helpers.scattered_state(stage, mesh), step=jnp.int32(stage.start + 3))
    views_LxMxHxWxC = np.repeat(IMAGES.images_NxHxWxC[:L, None], M, axis=1)
    batch = views_LxMxHxWxC, IMAGES.labels_N[:L], np.zeros((L, M, 4, 2), np.float32)
    terms = helpers.quick_jit(step.gradient)(state, *batch)[2]['terms']
    assert float(terms['labels']) == np.sum(np.repeat(IMAGES.labels_N[:L], M) * places_B)
    assert float(terms['progress']) == pytest.approx(3 / 9) and stage.start == 9


def test_a_term_of_ones_own_is_minimised_while_routers_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TERMS, 'mine', lambda seen: jnp.float32(3))
    asked = config(**{'loss.extra_terms': ('mine',), 'loss.extra_weights': (0.5,)})
    output = RoutedOutput(jnp.zeros((4, 10)), jnp.full((4, 4), 0.5), jnp.zeros((4, 4, 2)))
    given = {'num_views': 2, 'costs': helpers.tiny_costs(), 'gamma': jnp.float32(0)}
    first, second = (
        total_loss(stage.step.objective, output, jnp.zeros(4, int), **given)[1] for stage in helpers.tiny_stages(asked)
    )
    assert float(first['mine']) == 3 and 'mine' not in second


def test_views_agree_that_take_the_route_of_their_image() -> None:
    margins_LxMxn = np.repeat(np.random.default_rng(0).normal(size=(L, 1, 4)), M, axis=1)
    margins_LxMxn[0, 1] *= -1
    router_logits_Bxnx2 = np.stack([np.zeros_like(margins_LxMxn), margins_LxMxn], axis=-1).reshape(-1, 4, 2)
    metrics = stages()[0].step.route_metrics(jnp.asarray(router_logits_Bxnx2))
    assert float(metrics['agreement']) == pytest.approx(1 - 1 / L)


def test_an_average_of_what_does_not_change_is_that_to_the_bit() -> None:
    step = dataclasses.replace(stages()[0].step, ema_decay=0.997)
    values = jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.float32)
    average = jax.jit(step.average)
    kept = values
    for number in range(50):
        kept = average(kept, values, jnp.int32(number))
    np.testing.assert_array_equal(kept, values)
    moved = average(values, values + 1, jnp.int32(10_000))
    np.testing.assert_allclose(moved, values + 0.003, atol=1e-5)
