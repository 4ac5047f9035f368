"""Settings for large batches and networks: each changes what it should, by as much as it should, and nothing else."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from codinet_jax.methods.method import cross_entropy
from codinet_jax.models import execution
from codinet_jax.models.architecture import Architecture, Block, Conv
from codinet_jax.models.architecture import Stage as StageOfBlocks
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import sharding
from codinet_jax.training import stages
from codinet_jax.training.stages import Stage
from codinet_jax.training.state import TrainState, create
from codinet_jax.training.step import Step

L, M, n = 16, 2, 4
FLOAT32: dict[str, Any] = {'rtol': 2e-4, 'atol': 2e-6}


def stage(**changes: Any) -> Stage:
    return helpers.tiny_stages(helpers.tiny_config(batch_size=L, num_views=M, **changes))[0]


@functools.cache
def state() -> TrainState:
    return jax.device_get(helpers.scattered_state(stage(), sharding.data_mesh(1)))


@functools.cache
def batch() -> tuple[np.ndarray, ...]:
    """Views, labels and noise."""
    images_LxHxWxC, labels_L = helpers.noise_images(L)
    views_LxMxHxWxC = np.stack([images_LxHxWxC, images_LxHxWxC[:, ::-1]], axis=1)
    return views_LxMxHxWxC, labels_L, np.random.default_rng(0).gumbel(size=(L, M, n, 2)).astype(np.float32)


@functools.cache
def gradient_fn(**changes: Any) -> Any:
    step = stage(**changes).step
    return helpers.quick_jit(lambda state, *batch: step.gradient(state, *batch))


@pytest.mark.long
def test_parts_of_a_batch_add_up_to_the_mean_of_their_gradients() -> None:
    """Each part sees the batch statistics that the one before left, and pairs images of its own."""
    num_parts, after, whole = 4, state(), gradient_fn(accumulate_steps=4)(state(), *batch())
    parts = []
    for part in range(num_parts):
        parts.append(gradient_fn()(after, *(x[part::num_parts] for x in batch())))
        after = dataclasses.replace(after, batch_stats=parts[-1][1])
    gradient, _, metrics, router_logits = zip(*parts, strict=True)
    mean = functools.partial(jax.tree.map, lambda *values: np.mean(values, axis=0))
    expected = {'gradient': mean(*gradient), 'stats': after.batch_stats, 'metrics': mean(*metrics)}
    found = {'gradient': whole[0], 'stats': whole[1], 'metrics': whole[2]}
    for path, leaf in helpers.by_path(expected).items():
        np.testing.assert_allclose(helpers.by_path(found)[path], leaf, **FLOAT32, err_msg=path)
    np.testing.assert_allclose(whole[3], np.concatenate(router_logits), **FLOAT32)
    first, second = (float(each['terms']['diversity']) for each in metrics[:2])
    assert first != pytest.approx(second, rel=1e-3)


def test_parts_change_no_device_that_an_image_is_on() -> None:
    mesh, step = sharding.data_mesh(8), stage(accumulate_steps=2).step
    arguments = helpers.scattered_state(stage(), mesh), *sharding.put(mesh, *helpers.noise_images(L))
    compiled: Any = stages.compiled(step, mesh)
    program = compiled.lower(*arguments).compile(compiler_options=helpers.QUICK_OPTIONS).as_text()
    assert 'all-reduce' in program
    for kind in ('all-to-all', 'collective-permute', 'u8[16,8,8,1]{3,2,1,0} all-gather'):
        assert kind not in program


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 0.5])
def test_label_smoothing_spreads_so_much_over_all_classes(smoothing: float) -> None:
    rng = np.random.default_rng(1)
    logits_BxY, labels_B = rng.normal(size=(6, 10)).astype(np.float32), rng.integers(0, 10, 6)
    log_p = logits_BxY - np.log(np.exp(logits_BxY).sum(1, keepdims=True))
    expected = -np.mean((1 - smoothing) * log_p[np.arange(6), labels_B] + smoothing * log_p.mean(1))
    asked = stage(**{'loss.label_smoothing': smoothing}).step.label_smoothing
    found = cross_entropy(jnp.asarray(logits_BxY), jnp.asarray(labels_B), asked)
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_learning_rate_is_scaled_from_the_base_batch() -> None:
    assert float(stage(**{'optimizer.base_batch_size': 4}).step.schedule(0)) == pytest.approx(
        float(stage().step.schedule(0)) * L / 4
    )


def steps_taken(step: Step, first: TrainState, num_steps: int) -> list[TrainState]:
    states, step_fn = [first], helpers.alike_jit(step)
    for _ in range(num_steps):
        states.append(jax.device_get(step_fn(states[-1], *helpers.noise_images(L))[0]))
    return states


@pytest.mark.long
def test_averages_follow_the_weights_and_are_what_is_evaluated() -> None:
    decay, step = 0.2, stage(**{'optimizer.ema_decay': 0.2}).step
    variables = state().variables
    first = create(variables, step.optimizer, 0.0, is_averaged=True)
    states = steps_taken(step, first, 3)
    expected = helpers.by_path(variables)
    for number, after in enumerate(states[1:]):
        kept = min(decay, (1 + number) / (10 + number))
        raw = helpers.by_path({'params': after.params, 'batch_stats': after.batch_stats})
        expected = {path: kept * expected[path] + (1 - kept) * raw[path] for path in expected}
        for path, leaf in helpers.by_path(after.variables).items():
            np.testing.assert_allclose(leaf, expected[path], **FLOAT32, err_msg=path)
    assert kept == decay, 'the last step is past the warm-up'
    without = steps_taken(stage().step, create(variables, step.optimizer, 0.0, is_averaged=False), 3)
    assert without[-1].averages is None
    for path, leaf in helpers.by_path(without[-1].params).items():
        np.testing.assert_array_equal(helpers.by_path(states[-1].params)[path], leaf, 'averaging changed training')


def applied(model: RoutedResNet, images_BxHxWxC: jax.Array) -> tuple[Any, Any]:
    output, mutated = model.apply(
        state().variables, images_BxHxWxC, execution.masked(), train=True, mutable=['batch_stats']
    )
    return output, mutated['batch_stats']


@pytest.mark.long
def test_grouped_norms_are_those_of_each_part_alone() -> None:
    model, images = stage().step.model, helpers.random_images(helpers.tiny_architecture(), 12)
    grouped, stats = applied(model.clone(norm_groups=3), images)
    parts = [applied(model, part) for part in jnp.split(images, 3)]
    np.testing.assert_allclose(grouped.logits_BxY, jnp.concatenate([out.logits_BxY for out, _ in parts]), rtol=1e-4)
    expected = jax.tree.map(lambda *values: np.mean(values, axis=0), *(part_stats for _, part_stats in parts))
    # Of deeper norms too: what a part's images are before them hangs on that part alone.
    for path, leaf in helpers.by_path(expected).items():
        np.testing.assert_allclose(helpers.by_path(stats)[path], leaf, **FLOAT32, err_msg=path)
    whole, _ = applied(model, images)
    assert np.abs(whole.logits_BxY - grouped.logits_BxY).max() > 1e-2


def test_norms_by_device_have_as_many_groups_as_devices() -> None:
    by_device = helpers.tiny_setup(**{'model.batch_norm': 'device'}).model
    assert by_device.norm_groups == jax.device_count() == 8
    assert helpers.tiny_setup().model.norm_groups == 1


def test_grouped_norms_know_the_same_variables() -> None:
    model = helpers.tiny_network()
    grouped = model.clone(norm_groups=4)
    assert jax.tree.map(jnp.shape, helpers.shapes(grouped)) == jax.tree.map(jnp.shape, helpers.shapes(model))


@functools.cache
def deep_gradient(remat: bool, unroll: int) -> tuple[Any, int]:
    """Gradient of a deep network, and the bytes that computing it holds at once."""
    block = Block(16, 16, (Conv(3, 16), Conv(3, 16)), 'identity')
    arch = Architecture(16, 1, 10, 'cifar', 16, (StageOfBlocks(None, block, 6),))
    model = RoutedResNet(arch, 'linear', unroll=unroll, remat=remat)
    variables = helpers.random_variables(model)
    images_BxHxWxC = helpers.random_images(arch, 32)

    def loss(params: Any) -> jax.Array:
        given = variables | {'params': params}
        output, _ = model.apply(given, images_BxHxWxC, execution.masked(), train=True, mutable=['batch_stats'])
        return jnp.sum(output.logits_BxY**2)

    compiled = jax.jit(jax.grad(loss)).lower(variables['params']).compile()
    return jax.device_get(compiled(variables['params'])), compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.long
def test_computing_blocks_again_needs_less_memory_and_gives_the_same_gradient() -> None:
    (kept, much), (again, little) = (deep_gradient(remat, unroll=1) for remat in (False, True))
    assert little < 0.7 * much
    for path, leaf in helpers.by_path(kept).items():
        np.testing.assert_allclose(helpers.by_path(again)[path], leaf, rtol=1e-3, atol=1e-3, err_msg=path)
