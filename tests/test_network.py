"""The network against one that really runs or skips each block, image by image, written out in numpy."""

import functools
import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from codinet_jax.models.architecture import Architecture, Block, Conv, Stage, cifar_resnet
from codinet_jax.models.blocks import Residual
from codinet_jax.models.execution import Execution, masked, relaxed
from codinet_jax.models.network import GatedBlock, RoutedOutput, RoutedResNet
from codinet_jax.models.routers import ROUTERS
from codinet_jax.routing.relaxation import gumbel_softmax
from reference_network import Tree, follow_all, np_conv

SMALL = cifar_resnet(14, image_size=8)

# Both kinds of stage, and more than one block under each scan, at a size that compiles quickly.
_IDENTITY = Block(6, 4, (Conv(3, 4),), 'identity')
_HALVING = Block(6, 4, (Conv(3, 6, 2), Conv(3, 6)), 'pad')
TINY = Architecture(
    6, 3, 5, 'cifar', 4, (Stage(None, _IDENTITY, 3), Stage(_HALVING, Block(3, 6, (Conv(3, 6),), 'identity'), 2))
)
LINEAR = RoutedResNet(TINY, 'linear')

# An odd image under the 7x7 stem and the max-pool; both places a bottleneck may stride.
_WIDENING = Block(5, 4, (Conv(1, 3), Conv(3, 3), Conv(1, 8)), 'projection')
_STRIDE_1X1 = Block(5, 8, (Conv(1, 4, 2), Conv(3, 4), Conv(1, 12)), 'projection')
_STRIDE_3X3 = Block(3, 12, (Conv(1, 4), Conv(3, 4, 2), Conv(1, 16)), 'projection')
BOTTLENECKS = Architecture(
    17,
    3,
    5,
    'imagenet',
    4,
    (
        Stage(_WIDENING, Block(5, 8, (Conv(1, 3), Conv(3, 3), Conv(1, 8)), 'identity'), 1),
        Stage(_STRIDE_1X1, Block(3, 12, (Conv(1, 4), Conv(3, 4), Conv(1, 12)), 'identity'), 2),
        Stage(_STRIDE_3X3, Block(2, 16, (Conv(1, 4), Conv(3, 4), Conv(1, 16)), 'identity'), 0),
    ),
)


@functools.cache
def compiled(net: RoutedResNet, execution: Execution) -> Any:
    return helpers.quick_jit(applied(net, execution))


def applied(net: RoutedResNet, execution: Execution, train: bool = False) -> Any:
    """The network as a function of variables, images and noise; with `train` it returns new batch_stats too."""

    def apply(variables: Tree, images_BxHxWxC: jax.Array, noise_Bxnx2: jax.Array | None) -> Any:
        mutable = ['batch_stats'] if train else False
        return net.apply(variables, images_BxHxWxC, execution, noise_Bxnx2, train=train, mutable=mutable)

    return apply


MASKED = masked()
# v comes in as the noise, so that a test may set every gate by hand.
FORCED = Execution(lambda router_logits, noise: noise[:, 1], relaxed(gumbel_softmax, 1.0).combine)
RELAXED = relaxed(gumbel_softmax, 0.7)


def forced(net: RoutedResNet, variables: Tree, images_BxHxWxC: jax.Array, v_Bxn: np.ndarray) -> RoutedOutput:
    v_Bxnx2 = jnp.stack([jnp.full(v_Bxn.shape, jnp.nan), jnp.asarray(v_Bxn, jnp.float32)], axis=-1)
    output: RoutedOutput = compiled(net, FORCED)(variables, images_BxHxWxC, v_Bxnx2)
    return output


# --- Masked execution: what evaluation and stage 2 say. ---


class Evaluated(NamedTuple):
    net: RoutedResNet
    variables: Tree
    images_BxHxWxC: jax.Array
    output: RoutedOutput


@pytest.fixture(
    scope='module',
    # Seeds under which the routers are of more than one mind and none of them is undecided.
    params=[
        (RoutedResNet(SMALL, 'linear'), 17),
        (RoutedResNet(SMALL, 'conv'), 7),
        (RoutedResNet(SMALL, 'recurrent'), 6),
        (RoutedResNet(SMALL, 'random'), 0),
        (RoutedResNet(BOTTLENECKS, 'linear', unroll=2), 9),
    ],
    ids=['linear', 'conv', 'recurrent', 'random', 'bottlenecks'],
)
def evaluated(request: pytest.FixtureRequest) -> Evaluated:
    net, seed = request.param
    variables, images = helpers.random_variables(net, seed), helpers.random_images(net.architecture, 6)
    return Evaluated(net, variables, images, compiled(net, MASKED)(variables, images, None))


def test_masked_is_a_loop_over_images_that_really_runs_or_skips_each_block(evaluated: Evaluated) -> None:
    net, variables, images, output = evaluated
    followed = follow_all(net, variables, images)
    run_rates_n = followed.decisions.mean(axis=0)
    assert np.count_nonzero((run_rates_n > 0) & (run_rates_n < 1)) >= 3, 'the test is to have images that part ways'
    np.testing.assert_allclose(output.router_logits_Bxnx2, followed.router_logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(output.run_probability_Bxn >= 0.5, followed.decisions)
    np.testing.assert_allclose(output.logits_BxY, followed.logits, rtol=1e-4, atol=1e-4)


def test_the_gates_of_evaluation_are_the_softmax_of_the_router_without_noise(evaluated: Evaluated) -> None:
    softmax_Bxnx2 = jax.nn.softmax(evaluated.output.router_logits_Bxnx2)
    np.testing.assert_allclose(evaluated.output.run_probability_Bxn, softmax_Bxnx2[..., 1], atol=1e-6)


def test_an_image_does_not_change_what_is_said_of_another(evaluated: Evaluated) -> None:
    net, variables, images, output = evaluated
    others = compiled(net, MASKED)(variables, images.at[2].set(-3 * images[2] + 1), None)
    assert not np.allclose(output.logits_BxY[2], others.logits_BxY[2], atol=1e-2)
    for before, after in zip(jax.tree.leaves(output), jax.tree.leaves(others), strict=True):
        np.testing.assert_array_equal(np.delete(before, 2, axis=0), np.delete(after, 2, axis=0))


def test_masked_runs_where_v_reaches_the_threshold() -> None:
    v_B = jnp.array([0.0, 0.49, 0.5, 0.51, 1.0])
    operands = (jnp.ones((5, 2, 2, 1)),)
    for threshold, ran in ((0.5, [0, 0, 1, 1, 1]), (0.505, [0, 0, 0, 1, 1]), (2.0, [0] * 5)):
        a_BxHxWxC = masked(threshold).combine(lambda a: 7 * a, lambda a: 3 * a, operands, v_B)
        np.testing.assert_array_equal(a_BxHxWxC[:, 0, 0, 0], 3 + 4 * np.array(ran))
        np.testing.assert_array_equal(a_BxHxWxC[:, 1, 1, 0], a_BxHxWxC[:, 0, 0, 0])


def test_masked_ignores_noise() -> None:
    router_logits_Bx2, noise_Bx2 = jnp.array([[0.0, 1.0]]), jnp.array([[9.0, 0.0]])
    assert MASKED.decide(router_logits_Bx2, noise_Bx2) == MASKED.decide(router_logits_Bx2, None)


# --- Relaxed execution: stage 1. ---


def test_relaxed_that_runs_everything_is_the_static_network_of_the_same_weights() -> None:
    static, variables, images = (
        RoutedResNet(TINY, None),
        helpers.random_variables(LINEAR),
        helpers.random_images(TINY, 2),
    )
    backbone = helpers.without_routers(variables)
    assert jax.tree.map(jnp.shape, backbone) == jax.tree.map(lambda x: x.shape, helpers.shapes(static))
    expected = compiled(static, MASKED)(backbone, images, None)
    output = forced(LINEAR, variables, images, np.ones((2, 6)))
    np.testing.assert_allclose(output.logits_BxY, expected.logits_BxY, rtol=1e-5, atol=1e-5)
    assert expected.router_logits_Bxnx2 is None
    np.testing.assert_array_equal(expected.run_probability_Bxn, np.ones((2, 6)))


def test_relaxed_at_zero_and_one_skips_and_runs() -> None:
    variables, images = helpers.random_variables(LINEAR), helpers.random_images(TINY, 2)
    for seed in range(3):
        decisions_n = np.zeros(6, int) if seed == 0 else np.random.default_rng(seed).integers(0, 2, 6)
        v_Bxn = np.tile(decisions_n, (2, 1))
        output = forced(LINEAR, variables, images, v_Bxn)
        followed = follow_all(LINEAR, variables, images, decisions=decisions_n)
        np.testing.assert_array_equal(output.run_probability_Bxn, v_Bxn)
        np.testing.assert_allclose(output.logits_BxY, followed.logits, rtol=1e-4, atol=1e-4)


def test_each_image_and_block_has_its_own_gate() -> None:
    v_Bxn = np.random.default_rng(0).uniform(size=(2, 6)).astype(np.float32)
    output = forced(LINEAR, helpers.random_variables(LINEAR), helpers.random_images(TINY, 2), v_Bxn)
    np.testing.assert_array_equal(output.run_probability_Bxn, v_Bxn)


def test_relaxed_mixes_run_and_skip_by_v() -> None:
    a_BxHxWxC = RELAXED.combine(
        lambda a: 7 * a, lambda a: 3 * a, (jnp.ones((3, 1, 1, 1)),), jnp.array([0.0, 0.25, 1.0])
    )
    np.testing.assert_allclose(a_BxHxWxC[:, 0, 0, 0], [3, 4, 7])


def test_relaxed_without_noise_is_refused() -> None:
    arguments = helpers.shapes(LINEAR), jax.ShapeDtypeStruct((2, 6, 6, 3), jnp.float32), None
    with pytest.raises(ValueError, match='relaxed execution needs noise: pass noise_Bxnx2'):
        jax.eval_shape(applied(LINEAR, RELAXED), *arguments)


# --- Training. ---


class Trained(NamedTuple):
    variables: Tree
    images_BxHxWxC: jax.Array
    noise_Bxnx2: jax.Array
    output: RoutedOutput
    batch_stats: Tree
    gradient: Tree


def train_once(net: RoutedResNet) -> Trained:
    variables, images = helpers.random_variables(net), helpers.random_images(net.architecture, 3)
    noise_Bxnx2 = jax.random.gumbel(jax.random.key(0), (3, net.architecture.num_blocks, 2))

    def loss(params: Tree) -> tuple[jax.Array, tuple[RoutedOutput, Tree]]:
        output, mutated = applied(net, RELAXED, train=True)(variables | {'params': params}, images, noise_Bxnx2)
        loss = jax.nn.logsumexp(output.logits_BxY) + jnp.sum(jnp.square(output.run_probability_Bxn))
        return loss, (output, mutated['batch_stats'])

    gradient, (output, batch_stats) = helpers.quick_jit(jax.grad(loss, has_aux=True))(variables['params'])
    return Trained(variables, images, noise_Bxnx2, output, batch_stats, gradient)


@pytest.fixture(scope='module')
def trained() -> Trained:
    return train_once(LINEAR)


def test_unrolling_changes_neither_outputs_nor_gradients(trained: Trained) -> None:
    unrolled = train_once(LINEAR.clone(unroll=TINY.num_blocks))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), trained, unrolled)


def test_every_weight_learns(trained: Trained) -> None:
    for path, gradient in jax.tree_util.tree_leaves_with_path(trained.gradient):
        assert np.isfinite(gradient).all() and np.any(gradient), jax.tree_util.keystr(path)


def test_every_gate_is_relaxed_with_its_own_noise(trained: Trained) -> None:
    expected_Bxn = gumbel_softmax(trained.output.router_logits_Bxnx2, trained.noise_Bxnx2, 0.7)
    np.testing.assert_allclose(trained.output.run_probability_Bxn, expected_Bxn, rtol=1e-5)


def test_training_moves_the_running_statistics_a_tenth_of_the_way(trained: Trained) -> None:
    kernel = np.asarray(trained.variables['params']['stem_conv']['kernel'])
    x_BxHxWxC = np.array([np_conv(image, kernel) for image in np.asarray(trained.images_BxHxWxC)])
    before, after = trained.variables['batch_stats']['stem_norm'], trained.batch_stats['stem_norm']
    batch = {'mean': x_BxHxWxC.mean((0, 1, 2)), 'var': x_BxHxWxC.var((0, 1, 2))}
    for name in batch:
        np.testing.assert_allclose(after[name], 0.9 * before[name] + 0.1 * batch[name], rtol=1e-4, atol=1e-5)
    for old, new in zip(
        jax.tree.leaves(trained.variables['batch_stats']), jax.tree.leaves(trained.batch_stats), strict=True
    ):
        assert np.all(old != new)


def test_evaluation_leaves_the_running_statistics_alone() -> None:
    variables = helpers.random_variables(LINEAR)

    @helpers.quick_jit
    def evaluate(variables: Tree, images_BxHxWxC: jax.Array) -> Tree:
        return LINEAR.apply(variables, images_BxHxWxC, MASKED, train=False, mutable=['batch_stats'])[1]['batch_stats']

    after = evaluate(variables, helpers.random_images(TINY, 2))
    jax.tree.map(np.testing.assert_array_equal, after, variables['batch_stats'])


# --- Parameters. ---


@pytest.mark.parametrize(
    ('depth', 'router', 'millions'),
    [
        (32, None, 0.46),
        (74, None, 1.14),
        (110, None, 1.73),
        (32, 'linear', 0.49),
        (74, 'linear', 1.21),
        (110, 'linear', 1.83),
    ],
)
def test_networks_have_as_many_parameters_as_the_paper_says(depth: int, router: str | None, millions: float) -> None:
    leaves = jax.tree.leaves(helpers.shapes(RoutedResNet(cifar_resnet(depth), router))['params'])
    assert sum(leaf.size for leaf in leaves) / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize('router', [None, *ROUTERS])
def test_unrolling_does_not_change_the_parameters(router: str | None) -> None:
    arch = helpers.suited(TINY, router)
    assert helpers.shapes(RoutedResNet(arch, router)) == helpers.shapes(RoutedResNet(arch, router, unroll=6))


def test_blocks_start_apart_and_at_he_s_scale() -> None:
    block = Block(1, 24, (Conv(3, 24),), 'identity')
    net = RoutedResNet(Architecture(1, 3, 5, 'cifar', 24, (Stage(None, block, 2),)), 'linear')
    params = helpers.quick_jit(lambda x: net.init(jax.random.key(0), x, MASKED, train=False))(jnp.ones((1, 1, 1, 3)))[
        'params'
    ]
    kernels = params['stage1_blocks']['residual']['conv1']['kernel']
    assert not np.any(kernels[0] == kernels[1])
    np.testing.assert_allclose(np.std(kernels, axis=(1, 2, 3, 4)), np.sqrt(2 / (9 * 24)), rtol=0.05)
    assert not np.any(params['stage1_blocks']['router']['hidden']['kernel'][0] == kernels[0, 0, 0])


# --- Precision. ---


def program(net: RoutedResNet, execution: Execution, train: bool) -> tuple[Any, Any]:
    """The network's jaxpr for two images, and its output's shapes and types."""
    arch = net.architecture
    images = jax.ShapeDtypeStruct((2, arch.image_size, arch.image_size, arch.image_channels), jnp.float32)
    noise = jax.ShapeDtypeStruct((2, arch.num_blocks, 2), jnp.float32)
    return jax.make_jaxpr(applied(net, execution, train), return_shape=True)(helpers.shapes(net), images, noise)


@pytest.mark.parametrize('execution', [MASKED, RELAXED], ids=['masked', 'relaxed'])
@pytest.mark.parametrize('router', [None, *ROUTERS])
def test_bfloat16_keeps_parameters_gates_and_logits_in_float32(router: str | None, execution: Execution) -> None:
    net = RoutedResNet(helpers.suited(TINY, router), router, jnp.bfloat16)
    jaxpr, outputs = program(net, execution, train=True)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((helpers.shapes(net), outputs))} == {'float32'}
    assert 'bf16' in str(jaxpr)


def test_bfloat16_is_what_the_blocks_compute_in() -> None:
    jaxpr, _ = program(RoutedResNet(TINY, 'conv', jnp.bfloat16), MASKED, train=False)
    types = re.findall(r':(\w+)\[[\d,]+\] = conv_general_dilated', str(jaxpr))
    # In float32: the two scans' and the transition's routers. In bfloat16: the stem, and 1 + 2 + 1 convolutions.
    assert sorted(types) == ['bf16'] * 5 + ['f32'] * 3


# --- Blocks. ---


def test_a_strided_convolution_is_padded_on_both_sides() -> None:
    """PyTorch's alignment; 'SAME' would pad an even image on one side alone and shift every published weight."""
    conv, norm = functools.partial(nn.Conv, use_bias=False), lambda name: lambda x: x
    rng = np.random.default_rng(0)
    for size in (6, 7):
        image = rng.normal(size=(size, size, 2)).astype(np.float32)
        kernel = rng.normal(size=(3, 3, 2, 4)).astype(np.float32)
        residual = Residual(Block(size, 2, (Conv(3, 4, 2),), 'pad'), conv, norm)
        out_BxHxWxC = residual.apply({'params': {'conv1': {'kernel': kernel}}}, image[None])
        np.testing.assert_allclose(out_BxHxWxC[0], np_conv(image, kernel, 2), rtol=1e-4, atol=1e-5)
        # The corner sees only the kernel's lower right: what lies above and to the left is padding.
        corner = np.einsum('ijc,ijcd->d', image[:2, :2], kernel[1:, 1:])
        np.testing.assert_allclose(out_BxHxWxC[0, 0, 0], corner, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('execution', [MASKED, RELAXED], ids=['masked', 'relaxed'])
def test_a_projection_is_computed_once_for_run_and_skip(execution: Execution) -> None:
    conv = functools.partial(nn.Conv, use_bias=False)
    norm = functools.partial(nn.BatchNorm, use_running_average=True)
    gated = GatedBlock(_STRIDE_1X1, 'linear', execution, conv, norm, norm, first=0)
    state, noise = (jnp.ones((2, 5, 5, 8)), ()), jnp.zeros((2, 2))
    variables = jax.eval_shape(lambda: gated.init(jax.random.key(0), state, noise, (), None, None))
    jaxpr = str(jax.make_jaxpr(gated.apply)(variables, state, noise, (), None, None))
    assert jaxpr.count('= conv_general_dilated') == len(_STRIDE_1X1.convs) + 1
    assert set(variables['params']) == {'residual', 'shortcut', 'router'}
