"""A network that answers early and resumes: which blocks, joined how, who goes on, at what cost, from what weights."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
import staged
from codinet_jax.config import default, setup
from codinet_jax.inference import exported, load, timing
from codinet_jax.inference.folding import fold
from codinet_jax.methods import Resumed, Seen
from codinet_jax.methods.method import cross_entropy
from codinet_jax.models.architecture import cifar_resnet, resumed
from codinet_jax.models.network import RoutedOutput, RoutedResNet, fresh_variables
from codinet_jax.models.resuming import in_order
from codinet_jax.runtime.errors import InputError
from codinet_jax.training import objective
from reference_network import Tree, np_dense, np_relu, np_residual, np_shortcut, np_stem
from staged import assert_alike, assert_no_tie, in_double

FIRST, WHOLE = (cifar_resnet(depth, image_size=8, num_classes=5) for depth in (14, 20))
ARCH = resumed(FIRST, WHOLE)
NET, NUM_IMAGES = RoutedResNet(ARCH, 'resuming'), 12
NUM_FIRST = 6  # of nine blocks


@functools.cache
def variables() -> Tree:
    found = helpers.random_variables(NET, 5)
    head = found['params']['stage3_end']['head']
    head['kernel'] = head['kernel'] / 20  # or it would be sure of all images
    found['params']['router_start']['bias'] = jnp.float32(0.7)
    return found


@functools.cache
def images() -> jax.Array:
    return helpers.random_images(ARCH, NUM_IMAGES)


def blocks_of(tree: Tree, stage: int, k: int) -> Tree:
    return jax.tree.map(lambda leaf: leaf[k], tree[f'stage{stage}_blocks'])


@functools.cache
def heads() -> np.ndarray:
    """Both answers of every image by the definition, in double precision: [2, B, Y]."""
    tree = in_double(variables())
    params, stats = tree['params'], tree['batch_stats']

    def through(x: np.ndarray, block: Any, own: Tree, own_stats: Tree) -> np.ndarray:
        shortcut = np_shortcut(block, own, own_stats, x)
        return np_relu(shortcut + np_residual(block, own['residual'], own_stats['residual'], x))

    answers = []
    for image in np.asarray(images(), np.float64):
        x, ends = np_stem(ARCH, params, stats, image), []
        for i, stage in enumerate(ARCH.stages[:3], start=1):
            if stage.transition:
                name = f'stage{i}_transition'
                x = through(x, stage.transition, params[name], stats[name])
            for k in range(stage.repeats):
                x = through(x, stage.block, blocks_of(params, i, k), blocks_of(stats, i, k))
            ends.append(x)
        first = np_dense(x.mean((0, 1)), params['stage3_end']['head'])
        for i, end in enumerate(ends):
            join = params[f'stage{i + 3}_end']
            joined = end @ join['join'] + join['bias'] + (x[::2, ::2] @ join['down'] if i else 0)
            x = through(
                np_relu(joined), ARCH.stages[i + 3].block, blocks_of(params, i + 4, 0), blocks_of(stats, i + 4, 0)
            )
        answers.append((first, np_dense(x.mean((0, 1)), params['head'])))
    return np.swapaxes(np.array(answers), 0, 1)


def unsure_B() -> np.ndarray:
    odds_BxY = np.exp(heads()[0])
    return 1 - odds_BxY.max(axis=-1) / odds_BxY.sum(axis=-1)


def median() -> float:
    """Between two images, of those in the middle the two that differ most: about half go on."""
    middle = np.sort(unsure_B())[3:-3]
    k = np.argmax(np.diff(middle))
    return float(middle[k] + middle[k + 1]) / 2


def threshold() -> float:
    """The v of who is as unsure: its logit is that of `median` and the bias."""
    odds = median() / (1 - median()) * np.exp(float(variables()['params']['router_start']['bias']))
    return float(odds / (1 + odds))


@pytest.mark.parametrize('strategy', ['masked', 'conditional', 'compacted', 'compacted-2'])
def test_who_is_unsure_goes_on_from_the_ends_of_the_first_stages(strategy: str) -> None:
    output = staged.answers(NET, variables(), images(), strategy, threshold())
    v_Bxn, goes_on_B = output.run_probability_Bxn, unsure_B() > median()
    assert_no_tie(v_Bxn, threshold())
    assert (v_Bxn[:, :NUM_FIRST] == 1).all()
    np.testing.assert_array_equal(v_Bxn[:, NUM_FIRST:] >= threshold(), np.tile(goes_on_B[:, None], 3))
    assert 0 < goes_on_B.sum() < NUM_IMAGES
    assert_alike(output.logits_BxY, np.where(goes_on_B[:, None], heads()[1], heads()[0]))


def test_the_folded_network_agrees_and_the_dial_goes_from_all_to_none() -> None:
    net, weights = NET.clone(folded=True), fold(variables())
    for t, wanted in ((0.0, heads()[1]), (0.9999999, heads()[0])):
        assert_alike(staged.answers(net, weights, images(), 'compacted', t).logits_BxY, wanted)


def test_the_first_pass_is_the_shallow_network() -> None:
    params, stats = dict(variables()['params']), dict(variables()['batch_stats'])
    params['head'] = params['stage3_end']['head']
    shallow = RoutedResNet(FIRST, None)
    names = jax.eval_shape(lambda: fresh_variables(shallow, 0))
    own = {
        kind: {name: tree[name] for name in names[kind]} for kind, tree in (('params', params), ('batch_stats', stats))
    }
    assert_alike(staged.answers(shallow, own, images()).logits_BxY, heads()[0])


def test_it_costs_the_deep_network_and_the_joins_counted_by_hand() -> None:
    net = RoutedResNet(resumed(cifar_resnet(20), cifar_resnet(56)), 'resuming')
    costs, always_n = net.costs, np.arange(27) < 9
    joins = 16 * 16 * 32**2 + (16 + 32) * 32 * 16**2 + (32 + 64) * 64 * 8**2
    assert costs.static_macs == 125_485_696
    assert costs.mean_macs(always_n) == 40_551_040 + 640
    assert costs.mean_macs(np.ones(27)) == 125_485_696 + 640 + joins
    assert net.static.architecture == cifar_resnet(56)


def test_networks_that_cannot_resume_each_other_are_refused() -> None:
    for first, whole in ((20, 20), (20, 14)):
        with pytest.raises(InputError, match='every stage of it must have more'):
            resumed(cifar_resnet(first), cifar_resnet(whole))
    with pytest.raises(InputError, match='every stage'):
        resumed(cifar_resnet(20, shortcut='projection'), cifar_resnet(56))


def test_router_and_architecture_go_together() -> None:
    for architecture, router in ((WHOLE, 'resuming'), (ARCH, 'linear'), (ARCH, None)):
        with pytest.raises(InputError, match='does not go with CIFAR ResNet-20'):
            helpers.shapes(RoutedResNet(architecture, router))


def test_its_static_twin_has_its_blocks_in_the_usual_order() -> None:
    twin, weights = NET.static, in_order(ARCH, variables())
    assert twin.architecture == WHOLE and twin.router is None
    for stage, kernels in ((1, (2, 1)), (3, (1, 1))):  # of the first pass, and later
        taken = weights['params'][f'stage{stage}_blocks']['residual']['conv1']['kernel']
        own = [variables()['params'][f'stage{i}_blocks']['residual']['conv1']['kernel'] for i in (stage, stage + 3)]
        assert tuple(map(len, own)) == kernels
        np.testing.assert_array_equal(taken, np.concatenate(own))
    assert np.isfinite(staged.answers(twin, weights, images()).logits_BxY).all()


@pytest.mark.long
def test_it_is_timed_against_its_static_twin() -> None:
    spec = setup.read(variant()).data.spec
    net = RoutedResNet(resumed(*(cifar_resnet(d, image_size=8, image_channels=1) for d in (8, 14))), 'resuming')
    draws = [timing.random_draws(net, 4, 1.0, 1, 0)]
    found = timing.contest(net, spec, helpers.random_variables(net), draws, repeats=1)
    shares = {row.strategy: row.ideal_ratio for row in found.rows}
    assert shares['static'] == 1 < shares['compacted'] < 1.05  # which joins stages too


def variant(**changes: Any) -> Any:
    config = default.with_variant(helpers.tiny_config(**{'model.depth': 14, 'loss.target_cost': None}), 'resumed')
    config.update_from_flattened_dict({'model.first_depth': 8} | changes)
    return config


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'model.first_depth': 14}, r'^model\.first_depth: .* must have more'),
        ({'model.router': 'exits', 'method': 'early_exit'}, r'^model\.first_depth is 8, and of model\.router=exits no'),
        ({'loss.target_cost': 0.3}, r'skips all that it can costs'),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        setup.read(variant(**changes))


def test_a_teacher_teaches_both_heads() -> None:
    generator = np.random.default_rng(0)
    first_BxY, last_BxY, teacher_BxY = (jnp.asarray(generator.normal(size=(4, 5)), jnp.float32) for _ in range(3))
    labels_B, zero = jnp.arange(4), jnp.zeros(())
    output = RoutedOutput(last_BxY, jnp.ones((4, 9)), None, (first_BxY, last_BxY))
    seen = Seen(output, labels_B, 1, NET.costs, zero, cross_entropy(last_BxY, labels_B), zero, teacher_BxY)
    method = Resumed(exit_weight=0.25)
    terms = objective.distilled(method.objective, 0.5, 3.0, method.taught)(seen)
    for name, measure in (
        ('exits', lambda logits_BxY: 0.25 * cross_entropy(logits_BxY, labels_B)),
        ('distillation', lambda logits_BxY: 0.5 * 0.25 * objective.divergence(logits_BxY, teacher_BxY, 3.0)),
    ):
        term = terms[name]
        expected = measure(first_BxY) + (4 * measure(last_BxY) if name == 'distillation' else 0)
        assert float(term.value * term.weight) == pytest.approx(float(expected), rel=1e-5), name


@pytest.mark.long
def test_a_run_is_predicted_and_exported(tmp_path: Path) -> None:
    found = setup.read(variant())
    assert (
        isinstance(found.method, Resumed)
        and found.model.architecture.name == 'CIFAR ResNet-14 answering after 3 blocks'
    )
    thirds = setup.read(variant(**{'model.depth': 56, 'model.first_depth': None})).model.architecture
    assert [stage.num_blocks for stage in thirds.stages] == [3, 3, 3, 6, 6, 6]
    workdir = helpers.write_workdir(tmp_path / 'run', variant(), seed=2)
    pictures = helpers.noise_images(24).images_NxHxWxC
    predictor = load.from_workdir(workdir.path, strategy='compacted')
    predictor.export(tmp_path / 'exported')
    told, again = (each(pictures) for each in (predictor, exported.load(tmp_path / 'exported')))
    np.testing.assert_array_equal(told.decisions_Bxn, again.decisions_Bxn)
    np.testing.assert_allclose(told.probabilities_BxY, again.probabilities_BxY, rtol=1e-4, atol=1e-6)
