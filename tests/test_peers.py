"""Methods of other authors: what each minimises, how its schedule moves, what it refuses; and a run through everything
that a run goes through."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
import quick_runs
from codinet_jax.analysis.run import read_run
from codinet_jax.config import default, setup
from codinet_jax.data import augment
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.inference import calibration, exported, load
from codinet_jax.methods import (
    BlockDrop,
    ConvNetAIG,
    LAUDNet,
    Method,
    Seen,
    SkipNet,
    SkipNetHRL,
    StochasticGates,
)
from codinet_jax.models import execution
from codinet_jax.models.network import RoutedOutput
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from codinet_jax.training import stages
from codinet_jax.training.objective import total_loss
from codinet_jax.workdir import Workdir

# Of ten rows; blocks run at rates 0.9, 0.5, 0.7 and 0.3.
V_Bxn = (np.arange(10)[:, None] < np.array([9, 5, 7, 3])[None]).astype(np.float32)
RATES_4 = V_Bxn.mean(axis=0)
COSTS = helpers.tiny_costs()
GAMMA = 0.3


def minimised(method: Method, progress: float = 0.0) -> tuple[float, dict[str, float], np.ndarray]:
    """The loss without its cross-entropy, its terms, and its gradient to the mean of every block's decisions."""
    rules = method.stages()[0]

    def loss(v_Bxn: jax.Array) -> Any:
        output = RoutedOutput(jnp.zeros((10, 10)), v_Bxn, None)
        given: dict[str, Any] = {'num_views': 1, 'costs': COSTS, 'gamma': jnp.float32(GAMMA), 'progress': progress}
        total, terms = total_loss(rules.objective, output, jnp.zeros(10, int), **given)
        return total - terms['cross_entropy'], terms

    (total, terms), slopes_Bxn = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(V_Bxn))
    return float(total), jax.device_get(terms), np.asarray(slopes_Bxn).sum(axis=0)


PRICE = GAMMA * float(RATES_4 @ COSTS.costs_n)


def test_convnet_aig_holds_every_block_to_its_rate() -> None:
    total, terms, slopes_4 = minimised(ConvNetAIG(target_rate=0.6, rate_weight=2.0))
    off_4 = RATES_4 - 0.6
    assert total == pytest.approx(2 * np.mean(off_4**2) + PRICE, rel=1e-5)
    np.testing.assert_allclose(slopes_4, 2 * 2 * off_4 / 4 + GAMMA * COSTS.costs_n, rtol=1e-4)
    total, terms, _ = minimised(ConvNetAIG(block_rates=(1.0, 0.8, 1.0, 0.5), rate_weight=2.0))
    assert terms['rates'] == pytest.approx((0.3**2 + 0.2**2) / 4, rel=1e-5)
    assert terms.keys() == {'cross_entropy', 'cost', 'rates'}


def test_stochastic_gates_hold_the_batch_to_its_rate() -> None:
    total, _, slopes_4 = minimised(StochasticGates(target_rate=0.7, rate_weight=2.0))
    assert total == pytest.approx(2 * (0.6 - 0.7) ** 2 + PRICE, rel=1e-5)
    np.testing.assert_allclose(slopes_4, 2 * 2 * -0.1 / 4 + GAMMA * COSTS.costs_n, rtol=1e-4)
    assert minimised(StochasticGates(target_rate=0.7, one_sided=True))[1]['rates'] == 0


def test_skipnet_minimises_cross_entropy_and_what_is_asked_of_it() -> None:
    total, terms, _ = minimised(SkipNet())
    assert total == pytest.approx(PRICE, rel=1e-5) and terms.keys() == {'cross_entropy', 'cost'}


@pytest.mark.parametrize(('progress', 'low', 'high'), [(0.0, 0.5, 0.5), (0.11, 0.375, 0.625), (0.5, 0.0, 1.0)])
def test_laudnet_holds_a_share_of_compute_and_lets_blocks_go(progress: float, low: float, high: float) -> None:
    total, terms, _ = minimised(LAUDNet(), progress)
    share = COSTS.mean_macs(RATES_4) / COSTS.static_macs
    out_4 = np.maximum(0, RATES_4 - high) ** 2 + np.maximum(0, low - RATES_4) ** 2
    assert terms['share'] == pytest.approx((share - 0.5) ** 2, rel=1e-4)
    assert terms['bounds'] == pytest.approx(out_4.mean(), rel=1e-4, abs=1e-12)
    assert total == pytest.approx(10 * (terms['share'] + terms['bounds']) + PRICE, rel=1e-5)


def test_laudnets_authors_train_along_a_cosine_and_distil_what_they_are_given() -> None:
    """.02 for 256 images and in proportion for others, Nesterov momentum; .5 T^2 KL(teacher || student), T = 4."""
    config = default.with_variant(helpers.tiny_config(), 'laudnet_authors')
    config.update_from_flattened_dict({'batch_size': 128, 'stage1.epochs': 4.0})
    assert setup.read(config).recipe.distillation_weight == 0, 'it is had without a network to start from'
    config.update_from_flattened_dict({'distillation.weight': 0.5, 'init_from': 'static.npz'})
    found = setup.read(config)
    (stage, none) = stages.plan(found, num_images=128 * 10)
    assert (stage.end, none.end) == (40, 40) and found.recipe.nesterov
    rates = [float(stage.step.schedule(step)) for step in (0, 20, 30, 40)]
    np.testing.assert_allclose(rates, [0.01, 0.005, 0.01 * (1 - 0.5**0.5) / 2, 0], rtol=1e-5, atol=1e-9)
    student_1xY, teacher_1xY = np.array([[2.0, -1.0, 0.5]]), np.array([[0.0, 4.0, 1.0]])
    p, q = (np.exp(logits / 4) / np.exp(logits / 4).sum() for logits in (student_1xY, teacher_1xY))
    output = RoutedOutput(jnp.asarray(student_1xY), jnp.asarray(V_Bxn[:1]), None)
    labels, gamma, loss = jnp.zeros(1, int), jnp.float32(0), jnp.float32(0)
    seen = Seen(output, labels, 1, COSTS, gamma, loss, teacher_logits_BxY=jnp.asarray(teacher_1xY))
    term = stage.step.objective(seen)['distillation']
    assert term.weight * float(term.value) == pytest.approx(0.5 * 4**2 * np.sum(q * np.log(q / p)), rel=1e-5)


@pytest.mark.parametrize(
    ('final', 'progress', 'temperature'), [(0.1, 0.0, 5.0), (0.1, 0.5, 0.707107), (None, 0.5, 5.0)]
)
def test_laudnets_temperature_is_that_of_the_gradient(final: float | None, progress: float, temperature: float) -> None:
    decide = LAUDNet(final_temperature=final).execution(progress).decide
    noise_1x2 = jnp.array([[1.5, -0.3]])

    def v(margin: Any) -> Any:
        return decide(jnp.stack([jnp.zeros(()), margin])[None], noise_1x2)[0]

    soft = 1 / (1 + np.exp(-0.1 / temperature))
    assert v(1.9) == 1 and v(1.7) == 0
    assert jax.grad(v)(1.9) == pytest.approx(soft * (1 - soft) / temperature, rel=1e-4)


def test_decisions_in_training_are_hard_and_their_mixture_is_the_block_or_the_shortcut() -> None:
    """dv as told in methods/convnet_aig.py: of relu(s + f) - relu(s) at either value, where theirs differs by value."""
    s_2, f_2 = jnp.array([1.0, 0.2]), jnp.array([-3.0, 0.5])
    for method in (ConvNetAIG(), StochasticGates(), SkipNet()):
        how: Any = method.stages()[0].execution

        def block(v: Any, how: Any = how) -> Any:
            a = s_2.reshape(1, 1, 1, 2)
            return how.combine(lambda a, s: jax.nn.relu(s + f_2.reshape(a.shape)), lambda a, s: a, (a, a), v[None])[
                0, 0, 0
            ]

        for v in (0.0, 1.0):
            np.testing.assert_allclose(block(jnp.float32(v)), np.maximum(0, s_2 + v * f_2), atol=1e-6)
            np.testing.assert_allclose(jax.jacobian(block)(jnp.float32(v)), [-1, 0.5], atol=1e-6)


def test_a_step_knows_how_far_its_stage_is() -> None:
    """At the first step a block that is off pays; after a third none does, and the same batch costs less."""
    config = default.with_variant(helpers.tiny_config(), 'laudnet')
    stage = helpers.tiny_stages(config, 'one_layer')[0]
    mesh, images = sharding.data_mesh(1), helpers.noise_images(16)
    step_fn = stages.compiled(stage.step, mesh)
    assert stage.step.num_steps == stage.end == 9
    bounds = []
    for step in (0, 2, 8):
        state = dataclasses.replace(helpers.scattered_state(stage, mesh), step=jnp.int32(step))
        state = jax.device_put(state, sharding.replicated(mesh))
        _, metrics = step_fn(state, *sharding.put(mesh, images.images_NxHxWxC, images.labels_N))
        bounds.append(float(metrics['terms']['bounds']))
    assert bounds[0] > bounds[1] > 1e-6 and bounds[2] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ('variant', 'setting', 'value', 'sentence'),
    [
        ('convnet_aig', 'loss.block_rates', (0.5, 0.5), r'loss\.block_rates are 2 for 3 blocks'),
        ('convnet_aig', 'loss.block_rates', (0.5, 0.5, 1.5), r'^loss\.block_rates is 1\.5; give a share in \(0, 1\]'),
        ('convnet_aig', 'loss.target_rate', 0.0, r'^loss\.target_rate is 0\.0; give a share in \(0, 1\]\.$'),
        ('stochastic_gates', 'loss.rate_weight', -1.0, r'^loss\.rate_weight is -1\.0'),
        ('laudnet', 'loss.target_rate', float('nan'), r'^loss\.target_rate is nan'),
        ('laudnet', 'routing.final_temperature', 0.0, r'^routing\.final_temperature is 0\.0; it must be above 0'),
        (
            'skipnet',
            'routing.relaxation',
            'gumbel_softmax',
            r"^routing\.relaxation is 'gumbel_softmax'; it must be one of rounded, softmax",
        ),
        ('blockdrop', 'routing.curriculum', 0.0, r'^routing\.curriculum is 0\.0; give a share in \(0, 1\]\.$'),
        ('skipnet', 'loss.target_cost', 0.3, r'skips all that it can costs 0\.4'),
    ],
)
def test_what_a_method_cannot_do_is_refused_by_name(variant: str, setting: str, value: Any, sentence: str) -> None:
    config = default.with_variant(helpers.tiny_config(), variant)
    config.update_from_flattened_dict({setting: value})
    with pytest.raises(InputError, match=sentence):
        setup.read(config)


def test_evaluation_draws_only_where_it_is_asked_to() -> None:
    for method in (ConvNetAIG, StochasticGates):
        assert method(noisy_evaluation=True).samples_in_evaluation and not method().samples_in_evaluation
    for method in (SkipNet, SkipNetHRL, LAUDNet, BlockDrop):
        assert not method().samples_in_evaluation


# --- Through everything. ---


def peer(variant: str) -> Any:
    # A policy for three blocks costs what they do, and of one block a stage an image halts nowhere.
    depth = 14 if variant in ('blockdrop', 'act') else 8
    return default.with_variant(helpers.tiny_config(**{'loss.target_cost': 0.7, 'model.depth': depth}), variant)


@pytest.mark.long
def test_a_run_is_trained_at_a_wanted_cost_evaluated_and_read(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path / 'run')
    results = helpers.train(peer('skipnet'), workdir)
    assert results is not None
    run, costs = read_run(workdir, label='SkipNet'), setup.read(workdir.read_config()).costs
    rates_n = run.record.decisions_Nxn.mean(axis=0)
    assert results['macs_share'] == pytest.approx(costs.mean_macs(rates_n) / costs.static_macs, rel=1e-5)
    assert run.costs == costs and run.numbers()['num_paths'] >= 1
    assert rates_n[0] == 1 and costs.routers_n[0] == 0
    assert all('cost' in row for row in run.metrics if row['kind'] == 'train' and row['stage'] == 1)


@pytest.mark.long
@pytest.mark.parametrize(
    'variant',
    [
        'convnet_aig',
        'independent_gates',
        'laudnet',
        'skipnet',
        'skipnet_feedforward1',
        'blockdrop',
        'act',
        'early_exit',
    ],
)
def test_a_run_is_predicted_exported_and_calibrated(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharding, 'spread', quick_runs.spread)
    workdir = helpers.write_workdir(tmp_path / 'run', peer(variant), seed=2)
    found = setup.read(workdir.read_config())
    images = helpers.noise_images(48).images_NxHxWxC
    pixels = augment.normalise(images, *found.data.spec.normalisation)
    expected = helpers.quick_jit(
        lambda variables: found.model.clone(unroll=1).apply(variables, pixels, execution.masked(), train=False)
    )(workdir.read_weights())
    v_Bxn = np.asarray(expected.run_probability_Bxn)
    assert np.abs(v_Bxn - 0.5).min() > 1e-4, 'no gate may be a tie'
    predictor = load.from_workdir(workdir.path, strategy='compacted')
    predictor.export(tmp_path / 'exported')
    for each in (predictor, exported.load(tmp_path / 'exported')):
        answers = each(images)
        np.testing.assert_array_equal(answers.decisions_Bxn, v_Bxn >= 0.5)
        np.testing.assert_array_equal(answers.labels_B, np.argmax(expected.logits_BxY, axis=-1))
        macs = found.costs.mean_macs((v_Bxn >= 0.5).mean(axis=0))
        assert answers.macs_B.mean() == pytest.approx(macs, rel=1e-6)
    half = ImageSet(images, np.zeros(len(images), np.int32))
    curve = calibration.trace_curve(lambda t: calibration.measured(predictor, half, 48, t), 4)
    shares = [point.macs_share for point in curve]
    assert shares == sorted(shares, reverse=True) and shares[0] > 0.99 > shares[-1]
