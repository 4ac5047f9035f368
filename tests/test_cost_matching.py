"""Routers shifted by one number until hard decisions cost what was asked, and routers that start open."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from codinet_jax.config import setup
from codinet_jax.evaluation import cost_search
from codinet_jax.evaluation.evaluate import evaluate_weights
from codinet_jax.models import execution
from codinet_jax.models.network import RoutedResNet, fresh_variables
from codinet_jax.models.routers import is_router, shifted
from codinet_jax.routing import relaxation
from codinet_jax.runtime import sharding
from codinet_jax.training import cost_matching
from codinet_jax.workdir import Workdir
from experiments.measure.sameness import rows
from reference_network import Tree

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(64, 8, 8, 1)), jnp.float32)
STARTS = np.random.default_rng(1).normal(0.4, 1.5, size=500)


def fresh(network: RoutedResNet, seed: int) -> Tree:
    """Untrained variables, in one program instead of a hundred."""
    return helpers.quick_jit(lambda: fresh_variables(network, seed))()


def applied(network: RoutedResNet, variables: Tree, threshold: float = 0.5) -> Any:
    forward = helpers.quick_jit(lambda given: network.apply(given, IMAGES, execution.masked(threshold), train=False))
    return forward(variables)


def smooth(shift: float) -> float:
    """The cost of 500 images of a block each, which open one after another."""
    return 0.05 + 0.95 * float(np.mean(STARTS + shift > 0))


@pytest.mark.parametrize('target', [0.1, 0.3, 0.6, 0.7, 0.9, 0.99])
def test_the_lead_found_costs_what_was_asked(target: float) -> None:
    shift, cost = cost_search.nearest_shift(smooth, target)
    assert cost == smooth(shift) and abs(cost - target) <= 0.95 / 500 + cost_search.TOLERANCE
    assert (shift > 0) == (target > smooth(0.0))


def test_what_costs_that_already_is_left_alone_and_measured_once() -> None:
    asked = []

    def cost_at(shift: float) -> float:
        asked.append(shift)
        return smooth(shift)

    assert cost_search.nearest_shift(cost_at, smooth(0.0) + 0.0009) == (0.0, smooth(0.0)) and asked == [0.0]


@pytest.mark.parametrize(('target', 'shift_is', 'costs'), [(0.55, 'zero', 0.5), (0.7, 'more', 0.8), (0.1, 'zero', 0.5)])
def test_a_cost_that_jumps_over_the_target_is_left_where_it_comes_nearest(
    target: float, shift_is: str, costs: float
) -> None:
    shift, cost = cost_search.nearest_shift(lambda shift: 0.5 if shift < 2.3 else 0.8, target)
    assert cost == costs and (shift == 0 if shift_is == 'zero' else 2.3 <= shift < 2.4)


def test_no_shift_is_looked_for_without_end() -> None:
    calls = []

    def cost_at(shift: float) -> float:
        calls.append(shift)
        return 0.4

    assert cost_search.nearest_shift(cost_at, 0.9) == (0.0, 0.4)
    assert len(calls) <= 10 and max(calls) <= 2 * cost_search.LARGEST_SHIFT


@pytest.mark.parametrize('router', ['linear', 'conv', 'recurrent'])
def test_a_shift_is_a_lower_threshold(router: str) -> None:
    network = helpers.tiny_network(router)
    variables = fresh(network, 3)
    first = applied(network, variables)
    shift = -float(jnp.median(first.router_logits_Bxnx2[..., 1] - first.router_logits_Bxnx2[..., 0]))
    moved = variables | {'params': shifted(variables['params'], router, shift)}
    threshold = 1 / (1 + math.exp(shift))
    plain = applied(network, variables, threshold)
    after = applied(network, moved)
    difference_Bxnx2 = after.router_logits_Bxnx2 - plain.router_logits_Bxnx2
    np.testing.assert_allclose(difference_Bxnx2, np.broadcast_to([0.0, shift], difference_Bxnx2.shape), atol=2e-6)
    u_Bxn = relaxation.hard_decision(after.run_probability_Bxn)
    np.testing.assert_array_equal(u_Bxn, relaxation.hard_decision(plain.run_probability_Bxn, threshold))
    assert 0.1 < u_Bxn.mean() < 0.9, 'decisions that are all alike show nothing'
    for path, leaf in helpers.by_path(variables['params']).items():
        same = np.array_equal(leaf, helpers.by_path(moved['params'])[path])
        assert same != (is_router(path.split('/')) and path.endswith('decide/bias'))


def test_a_shift_moves_the_rate_of_random_skipping() -> None:
    network = helpers.tiny_network('random')
    variables = fresh(network, 0)

    def rate(shift: float) -> float:
        moved = variables | {'params': shifted(variables['params'], 'random', shift)}
        output = applied(network, moved)
        return float(relaxation.hard_decision(output.run_probability_Bxn).mean())

    # 256 draws at sigmoid(2.197 + shift): 0.9, 0.5, 0.1.
    assert [rate(shift) for shift in (0.0, -2.197, -4.394)] == pytest.approx([0.9, 0.5, 0.1], abs=0.1)


def test_averaged_weights_are_shifted_with_the_others() -> None:
    state = helpers.scattered_state(helpers.tiny_stages(helpers.tiny_config())[0], sharding.data_mesh(1))
    state = dataclasses.replace(state, averages=jax.tree.map(jnp.ones_like, state.variables))
    moved = cost_matching.shifted_state(state, 'linear', 0.5)
    assert state.averages and moved.averages
    for before, after in ((state.params, moved.params), (state.averages['params'], moved.averages['params'])):
        old, new = helpers.by_path(before), helpers.by_path(after)
        by = {path: float(np.abs(new[path] - old[path]).max()) for path in old}
        assert {path for path, size in by.items() if size} == {path for path in old if path.endswith('decide/bias')}
        assert max(by.values()) == pytest.approx(0.5)
    assert moved.averages['batch_stats'] is state.averages['batch_stats']


@pytest.mark.parametrize('router', ['linear', 'conv', 'recurrent'])
@pytest.mark.parametrize('rate', [0.5, 0.9])
def test_routers_start_at_the_rate_that_is_asked_for(router: str, rate: float) -> None:
    config = helpers.tiny_config(**{'model.router': router, 'routing.initial_run_rate': rate})
    network = setup.read(config).model
    output = applied(network, fresh(network, 0))
    mean_n = output.run_probability_Bxn.mean(axis=0)
    np.testing.assert_allclose(mean_n, rate, atol=0.2 if rate == 0.5 else 0.1)


@pytest.mark.long
@pytest.mark.parametrize('target', [0.35, 0.9])
def test_a_run_stays_at_the_cost_that_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, target: float
) -> None:
    monkeypatch.setattr(cost_matching, 'NUM_IMAGES', 200)
    config = helpers.tiny_config(
        **{'loss.target_cost': target, 'eval_every_epochs': 4 * 16 / 1442, 'match_every_epochs': 4 * 16 / 1442}
    )
    helpers.train(config, Workdir(tmp_path))
    variables = Workdir(tmp_path).read_weights()
    named = setup.read(config)
    images = named.data.open('train').sample(cost_matching.NUM_IMAGES, config.seed)
    found = evaluate_weights(named.model, named.data.spec, variables, images)
    assert found.summary['macs_share'] == pytest.approx(target, abs=0.01)
    in_stage2 = [row for row in rows(tmp_path) if row['kind'] == 'evaluation' and row['stage'] == 2]
    matched = [float(cost) / 100 for cost in re.findall(r'hard decisions cost ([\d.]+)%', capsys.readouterr().out)]
    assert len(matched) == 1 + len(in_stage2) == 4 and matched == pytest.approx([target] * 4, abs=0.01)
