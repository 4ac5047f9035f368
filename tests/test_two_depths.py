"""A shallow network inside a deep one, in experiments/real_accuracy; and what going on to the deep one is worth."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from codinet_jax.models import execution
from codinet_jax.models.architecture import cifar_resnet
from codinet_jax.models.network import RoutedResNet, fresh_variables
from codinet_jax.models.routers import ROUTERS
from codinet_jax.runtime.errors import InputError
from experiments.real_accuracy import (
    cascade,
    depths,
    frontier,
    images,
    longer_cascades,
    methods,
    networks,
    probing,
    resumed,
    training,
)

SHALLOW = 8


@pytest.fixture(scope='module')
def deep() -> networks.Start:
    architecture = cifar_resnet(14)
    variables = jax.jit(lambda: fresh_variables(RoutedResNet(architecture, None), 0))()
    rng = np.random.default_rng(0)
    # Norms that differ from each other, as trained ones do.
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * rng.uniform(size=leaf.shape).astype(np.float32), variables)
    return networks.Start('resnet14', architecture, moved)


@pytest.fixture(scope='module')
def pictures() -> images.Images:
    rng = np.random.default_rng(0)
    return images.Images(rng.integers(0, 256, (16, 32, 32, 3)).astype(np.uint8), np.arange(16, dtype=np.int32) % 10)


def logits(network: networks.Start, pictures: images.Images, **settings: Any) -> Any:
    model = RoutedResNet(network.architecture, None)
    views = images.normalise(jnp.asarray(pictures.images_NxHxWxC))
    return jax.jit(
        lambda variables: model.apply(variables, views, execution.masked(), **({'train': False} | settings))
    )(network.variables)


@pytest.mark.long
def test_the_shallow_network_is_the_deep_one_without_the_last_block_of_each_stage(
    deep: networks.Start, pictures: images.Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ('standardised', 'probe'):  # registered by the probe
        monkeypatch.delitem(ROUTERS, name, raising=False)
    known = dict(ROUTERS)
    skipped = probing.Probe(deep, 16).answers(pictures.images_NxHxWxC, np.array([1, 0, 1, 0, 1, 0]))
    ROUTERS.clear()
    ROUTERS.update(known)
    shallow = depths.shallow(deep, SHALLOW)
    assert shallow.architecture.num_blocks == 3
    np.testing.assert_allclose(logits(shallow, pictures).logits_BxY, skipped.logits_NxY, rtol=1e-4, atol=1e-4)
    taken, whole = depths.both(depths.begin(deep, SHALLOW), deep, SHALLOW)
    np.testing.assert_array_equal(logits(taken, pictures).logits_BxY, logits(shallow, pictures).logits_BxY)
    assert jax.tree.all(jax.tree.map(np.array_equal, whole.variables, deep.variables))


@pytest.mark.long
def test_first_views_are_answered_by_the_deep_network_and_second_ones_by_the_shallow(
    deep: networks.Start, pictures: images.Images
) -> None:
    variables = depths.begin(deep, SHALLOW)
    views = images.normalise(jnp.asarray(pictures.images_NxHxWxC))
    answer = jax.jit(depths.answer(deep, SHALLOW))
    answered = answer(variables['params'], variables['batch_stats'], views, None, None)
    parts = (slice(0, None, 2), slice(1, None, 2))
    for network, name, rows in zip((deep, depths.shallow(deep, SHALLOW)), ('deep', 'own'), parts, strict=True):
        part = images.Images(pictures.images_NxHxWxC[rows], pictures.labels_N[rows])
        output, changed = logits(network, part, train=True, mutable=['batch_stats'])
        np.testing.assert_allclose(answered.logits_BxY[rows], output.logits_BxY, rtol=1e-4, atol=1e-4)
        jax.tree.map(
            lambda own, alone: np.testing.assert_allclose(own, alone, rtol=1e-4, atol=1e-5),
            answered.batch_stats[name],
            changed['batch_stats'],
        )
    assert answered.run_rate == pytest.approx((1 + 3 / 6) / 2)


@pytest.mark.long
def test_both_train_the_convolutions_they_share_and_each_its_own_norms_and_head(
    deep: networks.Start, pictures: images.Images
) -> None:
    """A loss of one network's views alone moves what that one has; the last block of a stage is the deep one's."""
    variables = depths.begin(deep, SHALLOW)
    views = images.normalise(jnp.asarray(pictures.images_NxHxWxC))
    answer = depths.answer(deep, SHALLOW)

    @jax.jit
    def gradient(first: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            answered = answer(params, variables['batch_stats'], views, None, None)
            pairs = answered.logits_BxY.reshape(-1, 2, 10)
            return jnp.sum(jnp.where(first, pairs[:, 0], pairs[:, 1])[:, 3])

        return jax.grad(loss)(variables['params'])

    of_deep, of_shallow = (traverse_util.flatten_dict(gradient(jnp.bool_(first))) for first in (True, False))
    for path, leaf in of_deep.items():
        assert np.any(leaf != 0) == (path[0] == 'deep'), path
    for path, leaf in of_shallow.items():
        is_shared = path[0] == 'deep' and not depths.is_own(path)
        assert np.any(leaf != 0) == (
            path[0] == 'own' or (is_shared and path[1] not in ('stage2_blocks', 'stage3_blocks'))
        ), path
    kernel_1x3x3xCxC = of_shallow['deep', 'stage1_blocks', 'residual', 'conv1', 'kernel']
    assert np.any(kernel_1x3x3xCxC[0] != 0)
    assert not np.any(kernel_1x3x3xCxC[1])


@pytest.mark.long
def test_a_step_trains_both(deep: networks.Start, pictures: images.Images) -> None:
    data = training.Data(*pictures, images.draws(4, 16), np.zeros((4, 16, 10), np.float16))
    drawn = training.batches(16, 8, 2, 4, range(1), seed=0)
    knobs = methods.schedule('static', methods.Recipe(0.01, 0.0, warmup=0.0), 10, np.ones(1))
    call = training.make_call(depths.answer(deep, SHALLOW), 2, 12, num_steps=1)
    begun = depths.begin(deep, SHALLOW)
    state, metrics = call(training.begin(begun), data, drawn, type(knobs)(*(k[:1] for k in knobs)), jax.random.key(0))
    assert metrics['run_rate'] == pytest.approx(0.75)
    is_moved = jax.tree.map(lambda new, old: bool(np.any(new != old)), state.variables, begun)
    assert jax.tree.all(is_moved)


@pytest.mark.long
def test_of_two_networks_one_is_begun_that_goes_on_below_nine_tenths(
    deep: networks.Start, pictures: images.Images
) -> None:
    shallow = depths.shallow(deep, SHALLOW)
    model = resumed.network(shallow.architecture, deep.architecture)
    begun = resumed.begin(shallow, deep, pictures)
    shapes = jax.eval_shape(lambda: fresh_variables(model, 0))
    assert jax.tree.map(jnp.shape, begun) == jax.tree.map(jnp.shape, shapes)
    assert begun['params']['router_start']['bias'] == pytest.approx(np.log(9))
    # The shallow network is the deep one's first blocks, so that the first join has nothing to do.
    np.testing.assert_allclose(begun['params']['stage3_end']['join'], np.eye(16), atol=1e-3)


@pytest.mark.long
def test_a_longer_cascade_is_what_image_by_image_counts(tmp_path: pathlib.Path) -> None:
    """After one that answers twice comes a given network; no image goes on that went no further before."""
    rng, num_images = np.random.default_rng(0), 400
    labels_N, macs_K = rng.integers(0, 10, num_images), (40.0, 80.0, 100.0)
    logits_KxNxY = rng.standard_normal((3, num_images, 10))
    for k, right in enumerate((2, 3, 3)):
        logits_KxNxY[k, np.arange(num_images), labels_N] += right
    paths = [tmp_path / name for name in ('both_shallow_routes.npz', 'both_deep_routes.npz', 'given_other.npz')]
    for path, macs, logits_NxY in zip(paths, macs_K, logits_KxNxY, strict=True):
        answered = {f'{of}logits': logits_NxY for of in ('', 'calibration_')}
        np.savez(path, macs=macs, labels=labels_N, calibration_labels=labels_N, **answered)
    steps = longer_cascades.read(['both', 'other'], tmp_path, tmp_path)
    found = longer_cascades.point(steps, 90.0, times=3000)

    p_KxNxY = np.exp(logits_KxNxY) / np.exp(logits_KxNxY).sum(axis=-1, keepdims=True)
    answers_KxNxY = np.stack([p_KxNxY[0], p_KxNxY[1], (p_KxNxY[1] + p_KxNxY[2]) / 2])

    def last(i: int, threshold: float) -> int:
        k = 0
        while k < 2 and 1 - answers_KxNxY[k, i].max() >= threshold:
            k += 1
        return k

    thresholds, last_N = np.linspace(0, 1, 2001), np.zeros(num_images, int)
    for half in (0, 1):
        costs = [np.mean([np.cumsum(macs_K)[last(i, t)] for i in range(half, num_images, 2)]) for t in thresholds]
        threshold = thresholds[np.argmax(np.array(costs) <= 90)]
        others = range(1 - half, num_images, 2)
        last_N[1 - half :: 2] = [last(i, threshold) for i in others]
    right_KxN = answers_KxNxY.argmax(axis=-1) == labels_N
    assert found['mean_macs'] == pytest.approx(np.cumsum(macs_K)[last_N].mean(), abs=0.5)
    own = 100 * right_KxN[last_N, np.arange(num_images)].mean()
    assert found['accuracy'] == pytest.approx(own, abs=0.3)
    shares_K = np.bincount(last_N, minlength=3) / num_images
    assert found['share_of_images_by_last_step'] == pytest.approx(shares_K, abs=0.01) and shares_K.min() > 0.05
    by_chance = 100 * (shares_K @ right_KxN).mean()
    assert found['own_less_shuffled']['difference'] == pytest.approx(own - by_chance, abs=0.4)
    paths[2].rename(tmp_path / 'other_routes.npz')  # as `run` writes what it has trained
    np.testing.assert_array_equal(
        longer_cascades.read(['both', 'other'], tmp_path, tmp_path).unsure_KxN, steps.unsure_KxN
    )
    with pytest.raises(InputError, match='Nothing has asked neither'):
        longer_cascades.read(['neither', 'other'], tmp_path, tmp_path)


def test_the_frontier_is_of_what_was_measured(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Means over seeds, without the points where next to no image goes on, or nearly all."""
    monkeypatch.setattr(frontier, 'RESULTS', tmp_path)
    for seed, accuracies in enumerate(((90.0, 91.0, 92.0, 93.0), (90.0, 92.0, 93.0, 93.0))):
        targets = (40.6e6, 50e6, 60e6, 120e6)
        points = [
            {'target_macs': target, 'mean_macs': target + 2e6 * seed, 'accuracy': accuracy}
            for target, accuracy in zip(targets, accuracies, strict=True)
        ]
        numbers = {
            'shallow': {'macs': 40e6},
            'deep': {'macs_of_going_on': 86e6},
            'points_of_the_deep_answer_alone': points,
        }
        (tmp_path / f's{seed}.json').write_text(json.dumps(numbers))
    found = frontier.resumed('two seeds', ['s0', 's1'], 'o-', 0)
    np.testing.assert_allclose(found.macs, [51e6, 61e6])
    np.testing.assert_allclose(found.accuracies_SxP, [[91, 92], [92, 93]])
    assert found.accuracies_SxP.mean(axis=0).tolist() == [91.5, 92.5]
    for name, macs, accuracy in (('r44_8epochs', 97e6, 93.7), ('r20_8epochs', 40.5e6, 92.2), ('r20_1epoch', 40.5e6, 9)):
        (tmp_path / f'static_{name}_cpu.json').write_text(json.dumps({'mean_macs': macs, 'accuracy': accuracy}))
    assert frontier.trained_further() == [(81, 92.2), (194, 93.7)]


def test_what_going_on_is_worth_is_told_by_others_going_on() -> None:
    """Half go on, those that the small network is unsure of; it errs on just them, and the large one nowhere."""
    labels_N = np.repeat([0, 1], 50)
    is_sure_N = np.arange(100) % 2 == 0
    small_NxY = np.zeros((100, 2))
    small_NxY[np.arange(100), np.where(is_sure_N, labels_N, 1 - labels_N)] = np.where(is_sure_N, 9.0, 1.0)
    large_NxY = 5 * np.eye(2)[labels_N]  # surer of the right class than the small one of the wrong one
    small, large = (
        cascade.Answerer(name, macs, logits_NxY, labels_N, logits_NxY, labels_N)
        for name, macs, logits_NxY in (('small', 1.0, small_NxY), ('large', 2.0, large_NxY))
    )
    found = cascade.worth(small, large, target_macs=2.0, times=200)
    for kind in ('all', 'within_class'):  # by chance half of those that it errs on go on
        assert found[kind]['difference'] == pytest.approx(25, abs=1)
        assert 0 < found[kind]['standard_error'] < 5
