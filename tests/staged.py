"""A network of three stages, for routers that gather something over a stage, and its answers in every execution."""

import functools
from typing import Any

import jax
import numpy as np

import helpers
from codinet_jax.models import execution
from codinet_jax.models.architecture import Architecture, Block, Conv, Stage
from codinet_jax.models.network import RoutedOutput, RoutedResNet
from reference_network import Tree

EXECUTIONS: dict[str, Any] = {
    'masked': execution.masked,
    'conditional': execution.conditional,
    'compacted': execution.compacted,
    'compacted-2': functools.partial(execution.compacted, tile=2),
}


def architecture(first: int, second: int) -> Architecture:
    """Stages of so many blocks and of one; the second and the third begin with a block that changes the shape."""
    padded, projected = (
        Block(6, 4, (Conv(3, 6, 2), Conv(3, 6)), 'pad'),
        Block(3, 6, (Conv(3, 8, 2), Conv(3, 8)), 'projection'),
    )
    stages = (
        Stage(None, Block(6, 4, (Conv(3, 4), Conv(3, 4)), 'identity'), first),
        Stage(padded, Block(3, 6, (Conv(3, 6), Conv(3, 6)), 'identity'), second - 1),
        Stage(projected, Block(2, 8, (Conv(3, 8),), 'identity'), 0),
    )
    return Architecture(6, 3, 5, 'cifar', 4, stages)


@functools.cache
def compiled(net: RoutedResNet, strategy: str) -> Any:
    def forward(variables: Tree, images_BxHxWxC: jax.Array, threshold: jax.Array) -> RoutedOutput:
        how = EXECUTIONS[strategy](threshold)
        output: RoutedOutput = net.apply(variables, images_BxHxWxC, how, train=False)
        return output

    return helpers.quick_jit(forward)


def answers(
    net: RoutedResNet, variables: Tree, images_BxHxWxC: jax.Array, strategy: str = 'masked', threshold: float = 0.5
) -> RoutedOutput:
    output: RoutedOutput = jax.device_get(compiled(net, strategy)(variables, images_BxHxWxC, np.float32(threshold)))
    return output


def in_double(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), dict(tree))


def assert_no_tie(v_Bxn: np.ndarray, threshold: float) -> None:
    assert np.abs(v_Bxn - threshold).min() > 1e-4, 'no gate may be a tie'


def assert_alike(logits_BxY: Any, expected_BxY: Any) -> None:
    """But for rounding, on the scale of the largest logit."""
    scale = np.abs(np.asarray(expected_BxY)).max()
    np.testing.assert_allclose(np.asarray(logits_BxY) / scale, np.asarray(expected_BxY) / scale, atol=1e-4)
