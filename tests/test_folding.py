"""Folding: its formula in double precision, the parameters that are left, and a network that answers as before."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from codinet_jax.inference.folding import cast, fold
from codinet_jax.models.architecture import cifar_resnet
from codinet_jax.models.execution import masked
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime.errors import InputError
from helpers import by_path, quick_jit, random_images, random_variables, shapes
from reference_network import Tree, np_conv, np_norm
from test_execution import BASIC, BOTTLENECKS, answers, assert_alike, assert_no_decision_hangs_on_rounding

NETWORKS = {
    'static': RoutedResNet(BASIC, None),
    'linear': RoutedResNet(BASIC, 'linear'),
    'conv': RoutedResNet(BASIC, 'conv'),
    'recurrent': RoutedResNet(BASIC, 'recurrent', unroll=2),
    'bottlenecks': RoutedResNet(BOTTLENECKS, 'linear'),
}


@pytest.fixture(params=NETWORKS)
def net(request: pytest.FixtureRequest) -> RoutedResNet:
    return NETWORKS[request.param]


# --- The formula. ---


@pytest.mark.parametrize(
    ('conv', 'norm', 'num_stacked'),
    [
        ('stem_conv', 'stem_norm', None),
        ('stage2_transition/residual/conv2', 'stage2_transition/residual/norm2', None),
        ('stage2_transition/shortcut/conv', 'stage2_transition/shortcut/norm', None),
        ('stage1_blocks/residual/conv1', 'stage1_blocks/residual/norm1', 3),
    ],
)
def test_a_convolution_takes_in_its_norm_and_rounds_once(conv: str, norm: str, num_stacked: int | None) -> None:
    rng, stacked = np.random.default_rng(0), () if num_stacked is None else (num_stacked,)
    drawn = {
        'kernel': rng.normal(size=(*stacked, 3, 3, 2, 6)),
        'scale': rng.normal(size=(*stacked, 6)),
        'bias': rng.normal(size=(*stacked, 6)),
        'mean': 10 * rng.normal(size=(*stacked, 6)),
        # From where epsilon is all to where it is nothing.
        'var': np.broadcast_to([0, 1e-6, 1e-5, 1e-2, 1, 50], (*stacked, 6)),
    }
    drawn = {name: value.astype(np.float32) for name, value in drawn.items()}
    params = {f'{conv}/kernel': drawn['kernel'], f'{norm}/scale': drawn['scale'], f'{norm}/bias': drawn['bias']}
    statistics = {f'{norm}/{name}': drawn[name] for name in ('mean', 'var')}
    variables = {'params': nested(params), 'batch_stats': nested(statistics)}
    folded = traverse_util.flatten_dict(fold(variables)['params'], sep='/')
    assert set(folded) == {f'{conv}/kernel', f'{conv}/bias'}
    kernel, bias = folded[f'{conv}/kernel'], folded[f'{conv}/bias']
    assert kernel.dtype == bias.dtype == np.float32

    image = rng.normal(size=(4, 4, 2))
    for k in np.ndindex(stacked):
        w, s, b, m, q = (drawn[name][k].astype(np.float64) for name in ('kernel', 'scale', 'bias', 'mean', 'var'))
        for channel in range(6):
            r = np.sqrt(q[channel] + 1e-5)
            once: dict[str, Any] = {'rtol': 2.0**-24 * (1 + 1e-6), 'atol': 0}
            np.testing.assert_allclose(kernel[k][..., channel], s[channel] * w[..., channel] / r, **once)
            np.testing.assert_allclose(bias[k][channel], b[channel] - s[channel] * m[channel] / r, **once)
        normed = np_norm(np_conv(image, w), {'scale': s, 'bias': b}, {'mean': m, 'var': q})
        np.testing.assert_allclose(
            np_conv(image, kernel[k]) + bias[k], normed, rtol=1e-6, atol=1e-6 * abs(normed).max()
        )


def nested(flat: dict[str, np.ndarray]) -> Tree:
    return traverse_util.unflatten_dict(flat, sep='/')


# --- Networks. ---


def test_the_parameters_are_those_that_the_folded_network_would_make(net: RoutedResNet) -> None:
    variables = random_variables(net)
    folded = fold(variables)
    assert described(folded) == described(shapes(net.clone(folded=True)))
    assert set(folded) == {'params'}
    assert 'norm' in ''.join(by_path(variables)) and 'norm' not in ''.join(by_path(folded))


def described(variables: Tree) -> Tree:
    return jax.tree.map(lambda leaf: f'{leaf.dtype}{list(leaf.shape)}', variables)


def test_what_has_no_norm_is_left_alone(net: RoutedResNet) -> None:
    before, after = by_path(random_variables(net)), by_path(fold(random_variables(net)))
    untouched = [path for path in before if 'router' in path or 'head' in path]
    assert any('router' in path for path in untouched) == (net.router is not None)
    for path in untouched:
        np.testing.assert_array_equal(after[path], before[path], strict=True)


def test_the_folded_network_answers_alike(net: RoutedResNet) -> None:
    variables, images = random_variables(net, seed=3), random_images(net.architecture, 8)
    outputs = []
    for each, weights in ((net, variables), (net.clone(folded=True), fold(variables))):
        forward = quick_jit(lambda weights, images, each=each: each.apply(weights, images, masked(), train=False))
        outputs.append(answers(forward(weights, images), 0.5))
    assert_no_decision_hangs_on_rounding(outputs[0], 0.5)
    assert_alike(outputs[1], outputs[0])
    assert net.router is None or 0 < outputs[0].u_Bxn.mean() < 1


def test_cast_leaves_routers_and_head_in_float32() -> None:
    net = RoutedResNet(cifar_resnet(8, image_size=8), dtype=jnp.bfloat16)
    types = {path: leaf.dtype for path, leaf in by_path(cast(fold(random_variables(net)), jnp.bfloat16)).items()}
    exact = {path for path in types if 'router' in path or 'head' in path}
    assert exact and {types[path] for path in exact} == {np.dtype('float32')}
    assert {types[path] for path in types.keys() - exact} == {np.dtype(jnp.bfloat16)}


def test_a_norm_that_keeps_no_statistics_stays() -> None:
    """As a router of one's own may have: LayerNorm."""
    params = {'router/norm1/scale': np.ones(3), 'router/norm1/bias': np.zeros(3)}
    assert set(traverse_util.flatten_dict(fold({'params': nested(params), 'batch_stats': {}})['params'], sep='/')) == {
        *params
    }


def test_a_norm_that_follows_no_convolution_is_refused_by_name() -> None:
    params = {f'router/mine/{name}': np.ones(3) for name in ('scale', 'bias')}
    statistics = {f'router/mine/{name}': np.ones(3) for name in ('mean', 'var')}
    with pytest.raises(InputError, match=r'^Batch norm router/mine cannot be folded: call it norm1'):
        fold({'params': nested(params), 'batch_stats': nested(statistics)})
