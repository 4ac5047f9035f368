"""The convolution kernels, run thread by thread on the CPU: against XLA's convolutions of the same bfloat16 numbers,
in float32."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from codinet_jax.config import setup
from codinet_jax.kernels import convolution, library
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from codinet_jax.training import stages
from compilers import by_nvcc, compiled
from configs import cifar10_r20
from helpers import quick_jit, scattered_state

pytestmark = pytest.mark.usefixtures('own_cache')
CHANNELS = tuple(convolution.SIZES)
PLAIN: dict[str, Any] = {'window_strides': (1, 1), 'padding': ((1, 1), (1, 1))}
NHWC: dict[str, Any] = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')}


@pytest.fixture
def registered() -> None:
    convolution.conv_general_dilated('cpu')


def ours(x: jax.Array, w: jax.Array) -> jax.Array:
    return convolution.conv3x3(x, w)


def true(x: jax.Array, w: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, w, **PLAIN, **NHWC)


def random(channels: int, batch_size: int, seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Images, a kernel and the gradient of what comes of them."""
    size, rng = convolution.SIZES[channels], np.random.default_rng(seed)
    shapes = ((batch_size, size, size, channels), (3, 3, channels, channels), (batch_size, size, size, channels))
    return tuple(jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes)  # type: ignore[return-value]


def all_three(conv: Any, x: jax.Array, w: jax.Array, dy: jax.Array) -> list[np.ndarray]:
    def run(x: jax.Array, w: jax.Array, dy: jax.Array) -> Any:
        y, back = jax.vjp(conv, x, w)
        return y, *back(dy)

    return [np.asarray(part) for part in jax.jit(run)(x, w, dy)]


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.astype(np.float32) - b) / np.linalg.norm(b))


# --- What they compute. ---


@compiled
@pytest.mark.parametrize('batch_size', [1, 3, 9])
@pytest.mark.parametrize('channels', CHANNELS)
def test_the_output_and_both_gradients_are_a_convolutions(registered: None, channels: int, batch_size: int) -> None:
    x, w, dy = random(channels, batch_size, seed=batch_size)
    exact = all_three(true, *(each.astype(jnp.float32) for each in (x, w, dy)))
    found = all_three(ours, x, w, dy)
    assert [part.dtype for part in found] == [jnp.bfloat16] * 3
    for mine, theirs in zip(found, exact, strict=True):
        assert apart(mine, theirs) < 2e-3  # a rounding to bfloat16 is 1.7e-3 of what it rounds
    whole = all_three(ours, x, w.astype(jnp.float32), dy)
    assert whole[2].dtype == np.float32 and apart(whole[2], exact[2]) < 1e-5
    np.testing.assert_array_equal(whole[2].astype(jnp.bfloat16), found[2])


@compiled
@pytest.mark.parametrize('channels', CHANNELS)
def test_each_tap_reaches_each_border_and_no_other_image(registered: None, channels: int) -> None:
    """One pixel at a time, in corners and on edges: exact, and nothing beside the nine pixels around it."""
    size = convolution.SIZES[channels]
    spots = [(0, 0), (0, size - 1), (size - 1, 0), (size - 1, size - 1), (size // 2, 0), (size // 2 - 1, size - 1)]
    x = np.zeros((len(spots), size, size, channels), np.float32)
    for image, (i, j) in enumerate(spots):
        x[image, i, j, (5 * image + 3) % channels] = 1 + image
    w = np.random.default_rng(1).integers(-8, 8, (3, 3, channels, channels)).astype(np.float32)
    dy = np.roll(x, 1, axis=-1)
    exact = all_three(true, *map(jnp.asarray, (x, w, dy)))
    found = all_three(ours, *(jnp.asarray(each, jnp.bfloat16) for each in (x, w, dy)))
    for mine, theirs in zip(found, exact, strict=True):
        np.testing.assert_array_equal(mine.astype(np.float32), theirs)


# --- How they compute. ---


@compiled
@pytest.mark.parametrize('channels', CHANNELS)
def test_no_warp_depends_on_how_far_another_has_come(registered: None, channels: int) -> None:
    """Between two barriers warps may go in any order, and the answer is the same to the bit."""
    x, w, dy = random(channels, 3)
    forth = all_three(ours, x, w, dy)
    try:
        convolution.LIBRARY.load('cpu').codinet_convolution_go(-1)
        back = all_three(ours, x, w, dy)
    finally:
        convolution.LIBRARY.load('cpu').codinet_convolution_go(1)
    for a, b in zip(forth, back, strict=True):
        np.testing.assert_array_equal(a, b)


@compiled
def test_an_image_gets_the_same_answer_in_any_batch(registered: None) -> None:
    x, w, _ = random(64, 3)
    np.testing.assert_array_equal(ours(x, w)[2:], ours(x[2:], w))


@compiled
def test_under_scan_remat_and_shard_map_gradients_are_the_same(registered: None) -> None:
    x, w, dy = random(64, 2)

    def loss(w: jax.Array, x: jax.Array, dy: jax.Array) -> jax.Array:
        def block(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
            return jnp.tanh(ours(x, w)), None

        out, _ = lax.scan(jax.checkpoint(block), x, jnp.stack([w, 2 * w]))
        return jnp.sum(out.astype(jnp.float32) * dy.astype(jnp.float32))

    whole = jax.jit(jax.grad(loss))(w.astype(jnp.float32), x, dy)
    rows, mesh = PartitionSpec('data'), sharding.data_mesh(2)
    split = jax.shard_map(
        lambda w, x, dy: lax.psum(jax.grad(loss)(w, x, dy), 'data'),
        mesh=mesh,
        in_specs=(PartitionSpec(), rows, rows),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    assert apart(np.asarray(jax.jit(split)(w.astype(jnp.float32), x, dy)), np.asarray(whole)) < 1e-5


# --- What they take, and what they leave to XLA. ---


@compiled
@pytest.mark.parametrize(
    ('features', 'changes', 'is_ours'),
    [
        (16, {}, True),
        (16, {'padding': 'SAME'}, True),
        (16, {'strides': 2}, False),
        (16, {'padding': 0}, False),
        (16, {'kernel_size': (1, 1)}, False),
        (16, {'kernel_dilation': 2, 'padding': 2}, False),
        (16, {'feature_group_count': 2}, False),
        (16, {'dtype': jnp.float32}, False),
        (32, {}, False),
    ],
)
def test_a_layer_goes_by_the_kernels_where_they_know_it(features: int, changes: dict[str, Any], is_ours: bool) -> None:
    layer = {'kernel_size': (3, 3), 'padding': 1, 'use_bias': False, 'dtype': jnp.bfloat16} | changes
    with_ours = nn.Conv(features, conv_general_dilated=convolution.conv_general_dilated('cpu'), **layer)
    x, _, _ = random(16, 1)
    variables = with_ours.init(jax.random.key(0), x)
    assert (convolution.TARGET in str(jax.make_jaxpr(with_ours.apply)(variables, x))) == is_ours
    y, plain = with_ours.apply(variables, x), nn.Conv(features, **layer).apply(variables, x)
    assert y.dtype == plain.dtype and apart(np.asarray(y), np.asarray(plain, np.float32)) < 5e-3


@compiled
def test_a_training_step_is_xlas(registered: None) -> None:
    config = cifar10_r20.get_config()
    config.update_from_flattened_dict(
        {'model.depth': 8, 'model.dtype': 'bfloat16', 'batch_size': 2, 'num_views': 2, 'loss.gamma': 0.1}
    )
    mesh, named, rng = sharding.data_mesh(1), setup.read(config), np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    labels = np.array([3, 8], np.int32)
    after = []
    for each in (named.model, named.model.clone(convolution=convolution.conv_general_dilated('cpu'))):
        stage = stages.plan(named, 10, each)[0]
        before = scattered_state(stage, mesh, 0.1)
        state, metrics = quick_jit(stage.step)(before, images, labels)
        change = jax.tree.map(np.subtract, *jax.device_get((state.params, before.params)))
        after.append((change, state.batch_stats, metrics))
    (plain, plain_stats, plain_metrics), (mine, stats, metrics) = after
    assert float(metrics['loss']) == pytest.approx(float(plain_metrics['loss']), rel=2e-2)
    for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(plain_stats), strict=True):
        assert apart(np.asarray(a), np.asarray(b)) < 2e-2
    flat, other = (np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(each)]) for each in (mine, plain))
    assert apart(flat, other) < 5e-2


# --- What is refused. ---


@compiled
def test_a_shape_they_do_not_know_is_refused(registered: None) -> None:
    x, w, _ = random(16, 1)
    with pytest.raises(Exception, match=r'x is not \[B, 32, 32, 16\]'):
        jax.block_until_ready(ours(x[:, :16], w))
    with pytest.raises(Exception, match=r'w is not \[3, 3, C, C\]'):
        jax.block_until_ready(ours(x, w[..., :8]))


def test_a_config_that_asks_for_them_in_vain_is_refused_in_a_sentence() -> None:
    config = cifar10_r20.get_config()
    config.model.convolution = 'cuda'
    with pytest.raises(InputError, match='bfloat16'):
        setup.read(config)
    config.model.dtype = 'bfloat16'
    setup.read(config)
    with pytest.raises(InputError, match='CUDA device'):
        setup.read(config).training_model()
    config.model.convolution = 'cudnn'
    with pytest.raises(InputError, match=r'model\.convolution'):
        setup.read(config)


def test_several_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = cifar10_r20.get_config()
    config.model.convolution, config.model.dtype = 'cuda', 'bfloat16'
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    with pytest.raises(InputError, match='there are 8'):
        setup.read(config).training_model()


def test_without_a_compiler_one_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, 'find_compiler', lambda recipe: None)
    with pytest.raises(InputError, match='convolution kernel is built by nvcc'):
        convolution.LIBRARY.build('CUDA')


def test_nvcc_takes_the_kernels(tmp_path: Any) -> None:
    said = by_nvcc(convolution.LIBRARY, tmp_path)
    spills = re.findall(r'(\d+) bytes spill stores', said)
    assert len(spills) == 12 and set(spills) == {'0'}, said
