"""The gates of other authors, as routers: each by its own equation, under our names.

ConvNet-AIG's gate unit (arXiv 1711.11503), LAUDNet's one layer (arXiv 2308.15949), stochastic gates that see no image
(Herrmann et al., arXiv 1812.04180), and SkipNet's two feed-forward gates (arXiv 1711.09485). Their convolutions have no
bias where a norm follows, which would take it away again.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from codinet_jax.models.architecture import Block
from codinet_jax.models.router import (
    Bias,
    Router,
    RouterKind,
    but_first,
    no_macs,
    pooled,
    strided_conv_macs,
    torch_linear,
)

UNIT_FEATURES = 16
UNIT_BIAS = (0.1, 2.0)  # open at 0.87
INDEPENDENT_LOGITS = (0.1, 4.0)  # open at 0.98
LAYER_BIAS = (0.0, 5.0)  # open at 0.993

_he = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class GateUnit(Router):
    """Global average pool, Dense(16), batch norm, ReLU, Dense(2): a block starts open for nearly every image."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        del shared, k
        z_Bx1x1xC = pooled(a_BxHxWxC)[:, None, None, :]
        z = self.norm(name='norm1')(self.conv(UNIT_FEATURES, (1, 1), name='conv1')(z_Bx1x1xC))
        decide = nn.Dense(2, kernel_init=nn.initializers.normal(0.001), bias_init=_constants(UNIT_BIAS), name='decide')
        return decide(nn.relu(z)[:, 0, 0]), carry


class IndependentGate(Router):
    """Two numbers a block and no look at the image: what it learns is a static route."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        del shared, k
        logits_2 = self.param('logits', _constants(INDEPENDENT_LOGITS), (2,))
        return jnp.broadcast_to(logits_2[None], (a_BxHxWxC.shape[0], 2)), carry


class OneLayerGate(Router):
    """Global average pool, Dense(2)."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        del shared, k
        decide = nn.Dense(2, kernel_init=torch_linear, bias_init=_constants(LAYER_BIAS), name='decide')
        return decide(pooled(a_BxHxWxC)), carry


class FeedForwardGate(Router):
    """3x3 convolutions, each with batch norm and ReLU, the last of stride 2; global average pool, Dense(2).

    FFGate-I has two after a max-pool by 2, FFGate-II one. The network's first block always runs.
    """

    num_convs: int

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        del shared
        a = a_BxHxWxC.astype(jnp.float32)
        if self.num_convs == 2:
            window = (min(2, self.block.in_size),) * 2  # a map of one pixel stays as it is
            a = nn.max_pool(a, window, strides=window)
        for i in range(1, self.num_convs + 1):
            stride = 2 if i == self.num_convs else 1
            a = self.conv(a.shape[-1], (3, 3), strides=stride, padding=1, name=f'conv{i}')(a)
            a = nn.relu(self.norm(name=f'norm{i}')(a))
        return but_first(k, nn.Dense(2, kernel_init=_he, name='decide')(pooled(a)), carry, carry)


class FeedForwardGate1(FeedForwardGate):
    """FFGate-I, for networks of less than 100 layers."""

    num_convs: int = 2


class FeedForwardGate2(FeedForwardGate):
    """FFGate-II, for deeper ones."""

    num_convs: int = 1


def _constants(values: tuple[float, ...]) -> Any:
    return lambda key, shape, dtype=jnp.float32: jnp.asarray(values, dtype)


def _unit_macs(block: Block) -> int:
    return block.in_channels * UNIT_FEATURES + 2 * UNIT_FEATURES


def _one_layer_macs(block: Block) -> int:
    return 2 * block.in_channels


def _feed_forward1_macs(block: Block) -> int:
    half = max(1, block.in_size // 2)
    return 9 * block.in_channels**2 * (half**2 + (-(-half // 2)) ** 2) + 2 * block.in_channels


GATES = {
    'gate_unit': RouterKind(GateUnit, _unit_macs, initial_margin=UNIT_BIAS[1] - UNIT_BIAS[0]),
    'independent': RouterKind(
        IndependentGate, no_macs, bias=Bias(('logits',)), initial_margin=INDEPENDENT_LOGITS[1] - INDEPENDENT_LOGITS[0]
    ),
    'one_layer': RouterKind(OneLayerGate, _one_layer_macs, initial_margin=LAYER_BIAS[1] - LAYER_BIAS[0]),
    'feedforward1': RouterKind(FeedForwardGate1, _feed_forward1_macs, first_runs=True),
    'feedforward2': RouterKind(FeedForwardGate2, strided_conv_macs, first_runs=True),
}
