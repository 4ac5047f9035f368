"""How a run that starts from trained weights may be trained: its rates, whose they are, and a teacher."""

import dataclasses
import math
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
import quick_runs
from codinet_jax.config import setup
from codinet_jax.data import augment
from codinet_jax.methods import Method, Seen, Term, classification
from codinet_jax.models import weights_file
from codinet_jax.models.execution import masked
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from codinet_jax.training import loop, objective, optimizer
from codinet_jax.training.start import given_variables
from codinet_jax.workdir import Workdir, begin
from reference_network import Tree

# --- Learning rates. ---


def test_the_cosine_is_at_half_its_height_half_way_and_ends_at_zero() -> None:
    rate = optimizer.smooth_schedule('cosine', 0.4, num_steps=10, warmup_steps=2)
    expected = {0: 0.0, 1: 0.2, 2: 0.4, 4: 0.2 * (1 + math.cos(math.pi / 4)), 6: 0.2, 10: 0.0, 11: 0.0}
    assert {step: float(rate(step)) for step in expected} == pytest.approx(expected, abs=1e-7)


def test_the_line_falls_evenly() -> None:
    rate = optimizer.smooth_schedule('linear', 0.4, num_steps=8, warmup_steps=0)
    assert [float(rate(step)) for step in (0, 2, 6, 8)] == pytest.approx([0.4, 0.3, 0.1, 0.0])


def test_each_stage_falls_over_its_own_steps_from_its_own_rate() -> None:
    changes = {'stage1.decay': 'cosine', 'stage1.learning_rate': 0.2, 'stage2.decay': 'linear'}
    first, second = helpers.tiny_stages(helpers.tiny_config(**changes, **{'stage2.learning_rate': 0.05}))
    for stage, rate in ((first, 0.2), (second, 0.05)):
        length = stage.end - stage.start
        assert length == 9
        assert float(stage.step.schedule(0)) == pytest.approx(rate)
        assert float(stage.step.schedule(length)) == pytest.approx(0, abs=1e-8)
    assert float(second.step.schedule(3)) == pytest.approx(0.05 * 6 / 9)


WARM_UP = (
    'stage1.warmup_epochs is 1, and the stage ends after 0.1: the learning rate never comes to the 0.1 that is set.'
)
LATE = 'stage2.decay_epochs has 0.1 and 4, and the stage ends after 0.1: the learning rate does not fall there.'


@pytest.mark.parametrize(
    ('changes', 'sentences'),
    [
        ({'stage1.warmup_epochs': 0.09}, []),
        ({'stage1.warmup_epochs': 1.0}, [WARM_UP]),
        ({'stage1.warmup_epochs': 1.0, 'stage1.epochs': 0.0}, []),
        ({'stage2.decay_epochs': (0.05, 0.1, 4.0)}, [LATE]),
        ({'stage2.decay_epochs': (4.0,), 'stage2.decay': 'cosine'}, []),
    ],
)
def test_of_a_rate_that_the_stage_ends_before_it_is_said(changes: dict[str, Any], sentences: list[str]) -> None:
    assert list(setup.read(helpers.tiny_config(**changes)).recipe.never_reached()) == sentences


PARAMS = {
    'stage1_blocks': {'residual': {'kernel': jnp.float32(1.0)}, 'router': {'kernel': jnp.float32(1.0)}},
    'head': {'kernel': jnp.float32(1.0)},
}


def moved(sgd: Any) -> dict[str, float]:
    """How far each parameter has gone after two steps of gradients 1 and 2."""
    state, params = sgd.init(PARAMS), PARAMS
    for gradient in (1.0, 2.0):
        updates, state = sgd.update(jax.tree.map(lambda p, g=gradient: g * jnp.ones_like(p), params), state, params)
        params = jax.tree.map(jnp.add, params, updates)
    return {path: 1 - float(leaf) for path, leaf in helpers.by_path(params).items()}


def test_nesterov_looks_ahead() -> None:
    sgd = optimizer.sgd(lambda _: 0.1, momentum=0.5, weight_decay=0.0, freeze_routers=False, nesterov=True)
    # m = 1, then 2.5; each step goes by gradient + momentum * m: 1.5, then 3.25.
    assert moved(sgd)['head/kernel'] == pytest.approx(0.1 * (1.5 + 3.25))


@pytest.mark.parametrize('is_frozen', [False, True])
def test_routers_and_blocks_have_rates_of_their_own_and_the_head_the_plain_one(is_frozen: bool) -> None:
    sgd = optimizer.sgd(
        lambda _: 0.1, momentum=0.0, weight_decay=0.0, freeze_routers=is_frozen, router_factor=2.0, block_factor=0.5
    )
    router = 0.0 if is_frozen else 0.6
    assert moved(sgd) == pytest.approx(
        {'stage1_blocks/residual/kernel': 0.15, 'stage1_blocks/router/kernel': router, 'head/kernel': 0.3}
    )


# --- Distillation. ---


def test_the_divergence_is_of_softened_answers_and_in_the_gradients_scale() -> None:
    logits, teacher, T = np.array([[1.0, 0.0, -2.0]]), np.array([[0.0, 3.0, 0.5]]), 2.0
    p, q = (np.exp(x / T) / np.exp(x / T).sum() for x in (logits, teacher))
    expected = T**2 * float((q * (np.log(q) - np.log(p))).sum())
    assert float(objective.divergence(jnp.asarray(logits), jnp.asarray(teacher), T)) == pytest.approx(
        expected, rel=1e-5
    )
    slope = jax.grad(lambda x: objective.divergence(x, jnp.asarray(teacher), T))(jnp.asarray(logits))
    np.testing.assert_allclose(slope, T * (p - q), rtol=1e-4)


def test_it_is_a_term_beside_the_methods_own() -> None:
    logits = jnp.asarray([[1.0, 0.0]])
    output: Any = types.SimpleNamespace(logits_BxY=logits)
    seen = Seen(output, jnp.zeros(1, int), 1, None, jnp.zeros(()), jnp.ones(()), 0.0, logits + 5.0)  # type: ignore[arg-type]
    terms = objective.distilled(classification, 0.5, 2.0, Method().taught)(seen)
    assert terms['cross_entropy'] == Term(seen.cross_entropy)
    assert terms['distillation'].weight == 0.5
    assert float(terms['distillation'].value) == pytest.approx(0, abs=1e-6), 'what is added to all logits says nothing'
    assert objective.distilled(classification, 0.0, 2.0, Method().taught) is classification


def config(root: Path, **changes: Any) -> Any:
    return helpers.tiny_config(data_dir=str(root / 'tfds'), **{'loss.target_cost': None}, **changes)


@pytest.fixture(scope='module')
def start(root: Path) -> Path:
    """A static network's weights."""
    return helpers.write_workdir(root / 'start', config(root, method='static', **{'model.router': 'static'})).path


def applied(model: RoutedResNet, variables: Tree, pixels: jax.Array, **how: Any) -> Any:
    return helpers.quick_jit(lambda variables: model.apply(variables, pixels, masked(), **how))(variables)


@pytest.mark.long
def test_a_step_learns_from_what_the_start_says_of_the_same_views(root: Path, start: Path) -> None:
    named = setup.read(config(root, init_from=str(start / 'weights.npz'), **{'distillation.weight': 1.0}))
    variables, teacher = given_variables(named, helpers.noise_images(1))
    assert variables is not None and teacher is not None
    assert not any('router' in path for path in helpers.by_path(teacher))
    # After some steps the two are not the same any more.
    variables['params']['head'] = jax.tree.map(lambda leaf: 1.5 * leaf, variables['params']['head'])
    stage = loop.plan(named, 1442)[1]  # of hard decisions, whose loss is cross-entropy and this
    images, mesh = helpers.noise_images(16), sharding.data_mesh()
    state = stage.placed_state(mesh, variables, teacher)
    views = jnp.asarray(images.images_NxHxWxC[:, None].repeat(2, axis=1))
    _, _, metrics, _ = helpers.quick_jit(stage.step.gradient)(state, views, images.labels_N, jnp.zeros((16, 2, 3, 2)))
    pixels = augment.normalise(views.reshape(-1, 8, 8, 1), *named.data.spec.normalisation)
    own, _ = applied(stage.step.model, variables, pixels, train=True, mutable=['batch_stats'])
    theirs = applied(named.model.clone(router=None), teacher, pixels, train=False)
    expected = float(objective.divergence(own.logits_BxY, theirs.logits_BxY, 2.0))
    assert expected > 1e-3
    terms = metrics['terms']
    assert float(terms['distillation']) == pytest.approx(expected, rel=1e-3)
    assert float(metrics['loss']) == pytest.approx(float(terms['cross_entropy']) + expected, rel=1e-3)
    after, _ = quick_runs.compiled(stage.step, mesh)(state, images.images_NxHxWxC, images.labels_N)
    for path, leaf in helpers.by_path(after.teacher).items():
        np.testing.assert_array_equal(leaf, helpers.by_path(teacher)[path], err_msg=path)


def test_another_network_teaches_if_it_is_named(root: Path, start: Path) -> None:
    """A deeper one, and what is trained starts fresh or from weights of its own."""
    deep = helpers.write_workdir(
        root / 'deep', config(root, method='static', **{'model.router': 'static', 'model.depth': 14}), seed=4
    )
    file, images = str(deep.path / 'weights.npz'), helpers.noise_images(16)
    changes = {'distillation.weight': 1.0, 'distillation.teacher': file}
    for init_from in (None, str(start / 'weights.npz')):
        named = begin(config(root, init_from=init_from, **changes), Workdir(root / 'taught'))
        assert named.record['distillation']['teacher_depth'] == 14
        variables, teacher = given_variables(named, images)
        assert (variables is None) == (init_from is None)
        stage = loop.plan(named, 1442)[1]
        assert stage.step.teacher is not None and named.model.architecture.num_blocks == 3
    pixels = augment.normalise(images.images_NxHxWxC, *named.data.spec.normalisation)
    own = jax.eval_shape(stage.first_state)
    assert jax.tree.map(jnp.shape, own.teacher) == jax.tree.map(jnp.shape, teacher)
    found = helpers.quick_jit(stage.step.teacher_logits)(dataclasses.replace(own, teacher=teacher), pixels)
    network = setup.read(deep.read_config()).model
    expected = applied(network, deep.read_weights(), pixels, train=False).logits_BxY
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    workdir = Workdir(root / 'taught')
    with workdir.claimed(named.record):
        Path(file).unlink()
    again = begin(config(root, init_from=str(start / 'weights.npz'), **changes), workdir)
    assert (again.record, again.teacher) == (named.record, named.teacher)


@pytest.mark.long
def test_a_run_that_distils_goes_on_to_the_same_bits_though_the_file_is_gone(
    root: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers.hide_tensorflow(monkeypatch)
    file = root / 'teacher.npz'
    weights_file.write(file, weights_file.read(start / 'weights.npz'))
    wanted = config(root, init_from=str(file), **{'distillation.weight': 0.5, 'stage1.decay': 'cosine'})
    whole, halted = Workdir(root / 'whole'), Workdir(root / 'halted')
    helpers.train(wanted, whole)
    save = loop.Run._save

    def save_and_stop(run: loop.Run) -> None:
        save(run)
        if run.progress.step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop.Run, '_save', save_and_stop)
        helpers.train(wanted, halted)
    file.unlink()
    helpers.train(wanted, halted)
    expected, found = (helpers.by_path(workdir.read_weights()) for workdir in (whole, halted))
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)
    assert any('distillation' in row for row in halted.read_metrics())


def test_what_cannot_teach_is_refused(root: Path, start: Path) -> None:
    with pytest.raises(InputError, match=r'the weights of init_from are what teaches'):
        setup.read(config(root, **{'distillation.weight': 0.5}))
    weights = weights_file.read(start / 'weights.npz')
    features = len(weights['params']['head']['kernel'])
    head = {'kernel': np.zeros((features, 7), np.float32), 'bias': np.zeros(7, np.float32)}
    weights_file.write(root / 'seven.npz', weights | {'params': weights['params'] | {'head': head}})
    changes = {'init_from': str(root / 'seven.npz'), 'distillation.weight': 0.5}
    with pytest.raises(InputError, match=r'seven\.npz tells 7 classes apart, and has nothing to teach'):
        helpers.train(config(root, **changes), Workdir(root / 'refused'))
    assert not (root / 'refused').exists()


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('stage1.decay', 'cosin', r"stage1\.decay is 'cosin'.* Did you mean cosine\?"),
        ('optimizer.router_factor', -1.0, r'optimizer\.router_factor is -1\.0'),
        ('optimizer.block_factor', math.inf, r'optimizer\.block_factor is inf'),
        ('distillation.weight', math.nan, r'distillation\.weight is nan'),
        ('distillation.temperature', 0.0, r'distillation\.temperature is 0\.0'),
    ],
)
def test_a_setting_that_cannot_be_is_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        setup.read(helpers.tiny_config(init_from='weights.npz', **{name: value}))


def test_nesterov_needs_a_momentum() -> None:
    with pytest.raises(InputError, match=r'optimizer\.nesterov is of a momentum'):
        setup.read(helpers.tiny_config(**{'optimizer.nesterov': True, 'optimizer.momentum': 0.0}))


def test_settings_that_older_runs_did_not_know_are_off() -> None:
    recipe = setup.read(helpers.tiny_config()).recipe
    assert (recipe.distillation_weight, recipe.nesterov, recipe.stage1.decay) == (0.0, False, 'steps')
    assert dataclasses.replace(recipe, router_factor=1.0, block_factor=1.0) == recipe
