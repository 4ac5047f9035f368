"""The random router: a route is a hash of the pixels and of nothing else, and its one weight is the run rate."""

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import helpers
from codinet_jax.config import default, setup
from codinet_jax.data import augment, datasets
from codinet_jax.data.datasets import DATASETS
from codinet_jax.data.spec import DataSpec
from codinet_jax.inference.folding import fold
from codinet_jax.models import execution
from codinet_jax.models.network import fresh_variables
from codinet_jax.models.random_router import INITIAL_MARGIN, PACE, PIXEL_SCALE, RandomStart
from codinet_jax.models.routers import RandomRouter
from codinet_jax.routing import relaxation
from codinet_jax.runtime import sharding
from codinet_jax.training import stages
from reference_network import Tree, np_memory, np_router

DIGITS = DATASETS['digits'].spec
NUM_BLOCKS = 48
MARGINS = [-1.0, 0.0, 0.85, INITIAL_MARGIN]
NET = helpers.tiny_network('random')


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def normalised(images_BxHxWxC: np.ndarray | jax.Array, spec: DataSpec = DIGITS) -> jax.Array:
    return augment.normalise(jnp.asarray(images_BxHxWxC), *spec.normalisation)


def drift_of(margin: float) -> np.float32:
    return np.float32((margin - INITIAL_MARGIN) / PACE)


@functools.partial(jax.jit, static_argnames='num_blocks')
def router_logits_BxKx2(images_BxHxWxC: jax.Array, drift: Any, num_blocks: int = NUM_BLOCKS) -> jax.Array:
    """What the router says at so many blocks."""
    params = {'params': {'drift': drift}}
    carry, shared = RandomStart().apply(params, images_BxHxWxC, images_BxHxWxC)

    router = RandomRouter(block=None, conv=None, norm=None)  # it looks at none of them

    def block(carry: Any, k: jax.Array) -> Any:
        logits_Bx2, carry = router.apply({}, images_BxHxWxC, carry, shared, k)
        return carry, logits_Bx2

    return jnp.swapaxes(jax.lax.scan(block, carry, jnp.arange(num_blocks))[1], 0, 1)


def routes(images_BxHxWxC: np.ndarray, margin: float) -> np.ndarray:
    """Bool [B, NUM_BLOCKS]."""
    logits_BxKx2 = router_logits_BxKx2(normalised(images_BxHxWxC), drift_of(margin))
    return np.asarray(relaxation.hard_decision(relaxation.run_probability(logits_BxKx2)))


def images(num_images: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_images, 8, 8, 1), np.uint8)


def assert_binomial(share: np.ndarray | float, probability: float, num_draws: int, sigmas: float = 4.5) -> None:
    spread = np.sqrt(probability * (1 - probability) / num_draws)
    assert np.abs(np.asarray(share) - probability).max() < sigmas * spread


# --- What a route is made of. ---


@pytest.mark.parametrize('name', DATASETS)
def test_grey_levels_stay_apart_and_none_hangs_on_rounding(name: str) -> None:
    spec = DATASETS[name].spec
    levels_256xC = np.tile(np.arange(256, dtype=np.uint8)[:, None], DATASETS[name].num_channels)
    exact = (levels_256xC / 255 - spec.mean) / spec.std * PIXEL_SCALE
    from_boundary = np.abs(exact - np.floor(exact) - 0.5)
    assert from_boundary.min() > 1e-3
    rounded = np.abs(np.asarray(normalised(levels_256xC, spec)) * PIXEL_SCALE - exact)
    assert rounded.max() < 1e-4, 'ten times nearer than the boundary'
    assert np.diff(np.rint(exact), axis=0).min() >= 1


@pytest.mark.parametrize('name', ['digits', 'cifar10'])
def test_it_is_integer_arithmetic_on_the_pixels(name: str) -> None:
    dataset = DATASETS[name]
    images_3xHxWxC = np.random.default_rng(0).integers(0, 256, (3, *dataset.image_shape), np.uint8)
    pixels = normalised(images_3xHxWxC, dataset.spec)
    drift = np.float32(-3.0)
    actual = router_logits_BxKx2(pixels, drift, 5)
    for i, image in enumerate(np.asarray(pixels)):
        memory = np_memory('random', image)
        for k in range(5):
            expected, memory = np_router('random', None, {'drift': drift}, image, memory)
            np.testing.assert_allclose(actual[i, k], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('margin', MARGINS)
def test_every_block_runs_as_often_as_the_margin_says(margin: float) -> None:
    routes_BxK = routes(images(4000), margin)
    assert_binomial(routes_BxK.mean(), sigmoid(margin), routes_BxK.size)
    assert_binomial(routes_BxK.mean(axis=0), sigmoid(margin), len(routes_BxK))
    assert_binomial(routes_BxK.mean(axis=1), sigmoid(margin), NUM_BLOCKS, sigmas=6)


@pytest.mark.parametrize('margin', [0.0, 0.85])
def test_blocks_and_images_are_drawn_apart(margin: float) -> None:
    routes_BxK = routes(images(2000), margin)
    for rows in (routes_BxK.T, routes_BxK[:300]):
        correlations = np.corrcoef(rows)[np.triu_indices(len(rows), 1)]
        assert np.abs(correlations.mean()) < 0.005
        assert np.abs(correlations).max() < 5.5 / np.sqrt(rows.shape[1])
    assert len(np.unique(routes_BxK, axis=0)) == len(routes_BxK)


@pytest.mark.parametrize('margin', [0.0, 0.85])
def test_one_grey_level_of_one_pixel_draws_another_route(margin: float) -> None:
    image, run_rate = images(1), sigmoid(margin)
    changed = image + np.eye(64, dtype=np.uint8).reshape(64, 8, 8, 1)
    before_1xK, after_BxK = routes(image, margin), routes(changed, margin)
    assert_binomial(after_BxK.mean(), run_rate, after_BxK.size)
    changes = np.where(before_1xK, 1 - run_rate, run_rate).mean()
    assert_binomial((after_BxK != before_1xK).mean(), changes, after_BxK.size)
    assert len(np.unique(after_BxK, axis=0)) == 64


# --- The same route in every program. ---


@functools.cache
def variables() -> Tree:
    drawn: Tree = helpers.random_variables(NET)
    return drawn | {'params': drawn['params'] | {'router_start': {'drift': drift_of(0.5)}}}


@functools.cache
def pixels() -> np.ndarray:
    return helpers.noise_images(64).images_NxHxWxC


def forward(net: Any = NET, gates: Any = None) -> Callable[..., jax.Array]:
    """The router outputs of a network for variables and uint8 images; normalisation is part of the program."""

    def apply(variables: Tree, images_BxHxWxC: jax.Array) -> jax.Array:
        output = net.apply(variables, normalised(images_BxHxWxC), gates or execution.masked(), train=False)
        router_logits_Bxnx2: jax.Array = output.router_logits_Bxnx2
        return router_logits_Bxnx2

    return apply


def answered(net: Any = NET, gates: Any = None) -> np.ndarray:
    return np.asarray(helpers.quick_jit(forward(net, gates))(variables(), pixels()))


def by_itself() -> np.ndarray:
    alone = helpers.quick_jit(forward(gates=execution.conditional()))
    return np.concatenate([alone(variables(), pixels()[i : i + 1]) for i in range(64)])


def in_another_order() -> np.ndarray:
    order = np.random.default_rng(1).permutation(64)
    shuffled = np.asarray(helpers.quick_jit(forward())(variables(), pixels()[order]))
    return shuffled[np.argsort(order)]


def on_eight_devices() -> np.ndarray:
    mesh = sharding.data_mesh(8)
    rows, everywhere = sharding.by_rows(mesh), sharding.replicated(mesh)
    spread = helpers.quick_jit(forward(), in_shardings=(everywhere, rows), out_shardings=rows)
    (images_BxHxWxC,) = sharding.put(mesh, pixels())
    compiled = spread.lower(variables(), images_BxHxWxC).compile()
    assert not re.search('all-reduce|all-gather|collective-permute', str(compiled.as_text()))
    return np.asarray(compiled(jax.device_put(variables(), everywhere), images_BxHxWxC))


def exported() -> np.ndarray:
    batch = export.symbolic_shape('b')[0]
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables())
    program = jax.jit(forward(gates=execution.compacted()))
    said = export.export(program)(shapes, jax.ShapeDtypeStruct((batch, 8, 8, 1), jnp.uint8))
    return np.asarray(export.deserialize(said.serialize()).call(variables(), pixels()))


def folded() -> np.ndarray:
    program = helpers.quick_jit(forward(NET.clone(folded=True)))
    return np.asarray(program(fold(variables()), pixels()))


PROGRAMS: dict[str, Callable[[], np.ndarray]] = {
    'conditional': lambda: answered(gates=execution.conditional()),
    'compacted': lambda: answered(gates=execution.compacted(tile=8)),
    'bfloat16': lambda: answered(NET.clone(dtype=jnp.bfloat16)),
    'rolled': lambda: answered(NET.clone(unroll=1)),
    'folded': folded,
    'each image by itself': by_itself,
    'another order': in_another_order,
    'eight devices': on_eight_devices,
    'exported': exported,
}


@functools.cache
def expected_Bxnx2() -> np.ndarray:
    return np.asarray(jax.jit(forward())(variables(), pixels()))


@pytest.mark.parametrize('program', PROGRAMS)
def test_routes_are_the_same_to_the_bit(program: str) -> None:
    np.testing.assert_array_equal(PROGRAMS[program](), expected_Bxnx2())


def test_these_images_part_ways() -> None:
    """Else the agreement of programs would say little."""
    assert len(np.unique(expected_Bxnx2()[..., 1] >= 0, axis=0)) > 8


# --- Training. ---


@pytest.mark.parametrize('margin', [0.0, 0.85])
def test_the_slope_of_the_mean_gate_is_that_of_the_run_rate(margin: float) -> None:
    def mean_gate(drift: Any) -> jax.Array:
        return jnp.mean(relaxation.run_probability(router_logits_BxKx2(normalised(images(4000)), drift)))

    slope = PACE * sigmoid(margin) * (1 - sigmoid(margin))
    assert jax.grad(mean_gate)(drift_of(margin)) == pytest.approx(slope, rel=0.03)
    assert mean_gate(drift_of(margin)) == pytest.approx(sigmoid(margin), abs=0.01)


def test_most_gates_are_nearly_hard() -> None:
    v_BxK = relaxation.run_probability(router_logits_BxKx2(normalised(images(1000)), drift_of(0.85)))
    assert np.mean((v_BxK > 0.1) & (v_BxK < 0.9)) < 0.1


def test_its_one_weight_begins_where_most_blocks_run() -> None:
    params = helpers.shapes(NET)['params']
    found = {path for path in helpers.by_path(params) if 'router' in path}
    assert found == {'router_start/drift'}
    drift = RandomStart().init(jax.random.key(0), normalised(images(1)), normalised(images(1)))['params']['drift']
    assert routes(images(500), INITIAL_MARGIN + PACE * float(drift)).mean() == pytest.approx(0.9, abs=0.01)


@pytest.mark.long
@pytest.mark.parametrize(('target', 'remat'), [(0.5, False), (0.7, True)])
def test_a_target_cost_is_met(target: float, remat: bool, tmp_path: Path) -> None:
    changes: dict[str, Any] = {'loss.target_cost': target, 'stage1.decay_epochs': (6.0,), 'stage1.epochs': 9.0}
    config = default.with_variant(helpers.tiny_config(**changes), 'random')
    costs, mesh = helpers.tiny_costs('random'), sharding.data_mesh(1)
    dataset: Any = datasets.source('digits', tmp_path).open('train')
    model = NET.clone(remat=remat, initial_run_rate=0.9)
    stage, _ = stages.plan(setup.read(config), 1442, model)
    step_fn, state = stages.compiled(stage.step, mesh), helpers.scattered_state(stage, mesh)
    fresh = jax.device_put(jax.jit(lambda: fresh_variables(model, 0))(), sharding.replicated(mesh))
    state = dataclasses.replace(state, **fresh)
    for i in range(stage.end):
        rows = slice(i % 90 * 16, i % 90 * 16 + 16)
        state, _ = step_fn(state, *sharding.put(mesh, dataset.images_NxHxWxC[rows], dataset.labels_N[rows]))
    run_rate = sigmoid(INITIAL_MARGIN + PACE * float(state.params['router_start']['drift']))
    assert costs.share_of_static(jnp.full(4, run_rate)) == pytest.approx(target, abs=0.03)
