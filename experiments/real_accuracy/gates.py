"""One gate for all methods: what each of them does is a matter of numbers that the compiled step is given.

Rank gates run the top t_k of a batch, as Mixture-of-Depths does of tokens (arXiv 2404.02258); rate and batch rate draw
straight-through Gumbel gates as ConvNet-AIG (arXiv 1711.11503) and Herrmann et al. (arXiv 1812.04180) do.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from codinet_jax.models import execution as executions
from codinet_jax.models import routers
from codinet_jax.models.execution import BlockFn, Execution, Operands
from codinet_jax.models.network import RoutedOutput
from codinet_jax.models.routers import ROUTERS, Router, RouterKind
from codinet_jax.routing import losses

TEMPERATURE = 1.0
CONSISTENCY_MARGIN = 0.2
WIDEST = 64  # channels of the last stage


class Knobs(NamedTuple):
    """What a step of a method is, as numbers; with a leading axis S, those of S steps.

    `rank`, `heed` and `through` are switches: whether a gate ranks its batch, whether logit margins count (or the rates
    alone, by chance), whether gradients pass decisions. `noise` scales the logistic noise on margins, `shift` is added
    to them. With `rung` no router decides, but `rungs`.
    """

    rates_n: Any
    rank: Any = 0.0
    heed: Any = 1.0
    through: Any = 0.0
    noise: Any = 0.0
    shift: Any = 0.0
    rate_weight: Any = 0.0
    batch_rate_weight: Any = 0.0
    bounds_weight: Any = 0.0
    bounds: Any = 0.0
    alpha: Any = 0.0
    beta: Any = 0.0
    diversity_margin: Any = 0.0
    backbone_rate: Any = 0.0
    router_rate: Any = 0.0
    rung: Any = 0.0


class Start(nn.Module):
    """No decision yet to carry on."""

    @nn.compact
    def __call__(self, stem_BxHxWxC: jax.Array, images_BxHxWxC: jax.Array) -> tuple[Any, Any]:
        del images_BxHxWxC
        return jnp.zeros((stem_BxHxWxC.shape[0], 2)), ()


class StandardisedRouter(Router):
    """The paper's router, its input standardised by constants; where `copy` is 1 it repeats the decision before it.

    `reach` is how much of a gate's gradient reaches the backbone; standardising amplifies it, so that 1 may diverge.
    Centre and scale fold into the first dense layer (`as_linear`), so the product's router computes the same.
    """

    @nn.compact
    def __call__(
        self, a_BxHxWxC: jax.Array, carry: jax.Array, shared: Any, k: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        del shared, k
        z_BxC = jnp.mean(a_BxHxWxC, axis=(1, 2), dtype=jnp.float32)
        channels = z_BxC.shape[-1:]
        centre_C = jax.lax.stop_gradient(self.param('centre', nn.initializers.zeros, channels))
        scale_C = jax.lax.stop_gradient(self.param('scale', nn.initializers.ones, channels))
        copy = jax.lax.stop_gradient(self.param('copy', nn.initializers.zeros, ()))
        reach = jax.lax.stop_gradient(self.param('reach', nn.initializers.zeros, ()))
        z_BxC = jax.lax.stop_gradient(z_BxC) + reach * (z_BxC - jax.lax.stop_gradient(z_BxC))
        h_BxC = nn.relu(nn.Dense(channels[0], name='hidden')((z_BxC - centre_C[None]) * scale_C[None]))
        logits_Bx2 = jnp.where(copy > 0, carry, nn.Dense(2, name='decide')(h_BxC))
        return logits_Bx2, logits_Bx2


class ProbeRouter(Router):
    """No router: it hands out its pooled input, padded to the widest."""

    @nn.compact
    def __call__(self, a_BxHxWxC: jax.Array, carry: Any, shared: Any, k: jax.Array) -> tuple[jax.Array, Any]:
        del shared, k
        z_BxC = jnp.mean(a_BxHxWxC, axis=(1, 2), dtype=jnp.float32)
        return jnp.pad(z_BxC, ((0, 0), (0, WIDEST - z_BxC.shape[-1]))), carry


KINDS = {
    'standardised': RouterKind(StandardisedRouter, ROUTERS['linear'].macs, start=Start),
    'probe': RouterKind(ProbeRouter, lambda block: 0, bias=None),
}


def register() -> None:
    """Adds the two routers to the table that networks read; not on import, for others list that table."""
    for name, kind in KINDS.items():
        routers.register(name, kind)


# All blocks run, whatever routers decide; for ProbeRouter.
always = Execution(lambda logits, noise: jnp.ones(logits.shape[0]), lambda run, skip, operands, v: run(*operands))


def threshold(margins_B: jax.Array, rate: jax.Array) -> jax.Array:
    """Half way between the last of the top `rate` of the margins and the next."""
    sorted_B = jnp.sort(margins_B, descending=True)
    count = jnp.clip(jnp.round(rate * len(margins_B)).astype(jnp.int32), 1, len(margins_B) - 1)
    return (sorted_B[count - 1] + sorted_B[count]) / 2


def thresholds_n(margins_Bxn: jax.Array, rates_n: jax.Array) -> jax.Array:
    return jax.vmap(threshold, in_axes=(1, 0))(margins_Bxn, rates_n)


def execution(knobs: Knobs) -> Execution:
    """A block's decision, exactly 0. or 1.; its noise is the pair [logistic noise, run rate of the block].

    A rate of 1 or more always runs and one of 0 or less never does. Backward a decision is sigmoid(margin above the
    threshold), and the image's gradient is taken in float32, for in bfloat16 a sum of so many loses its digits.
    """

    def decide(logits_Bx2: jax.Array, noise_Bx2: jax.Array | None) -> jax.Array:
        assert noise_Bx2 is not None
        rate = noise_Bx2[0, 1]
        is_free = (rate > 0) & (rate < 1)
        odds = jax.scipy.special.logit(jnp.clip(rate, 1e-6, 1 - 1e-6))
        margin_B = knobs.heed * (logits_Bx2[:, 1] - logits_Bx2[:, 0] + knobs.shift) + (1 - knobs.heed) * odds
        z_B = margin_B + knobs.noise * noise_Bx2[:, 0]
        # Whatever is added to all margins of a batch changes no rank: without this its gradient would not be zero.
        centre = knobs.rank * jnp.mean(z_B)
        z_B = z_B - centre + jax.lax.stop_gradient(centre)
        z_B = z_B - knobs.rank * jax.lax.stop_gradient(threshold(z_B, rate))
        hard_B = jnp.where(is_free, z_B >= 0, rate >= 1).astype(jnp.float32)
        p_B = jax.nn.sigmoid(z_B / TEMPERATURE)
        return hard_B + jnp.where(is_free, knobs.through, 0.0) * (p_B - jax.lax.stop_gradient(p_B))

    def combine(run: BlockFn, skip: BlockFn, operands: Operands, v_B: jax.Array) -> jax.Array:
        return _choose(v_B, run(*operands), skip(*operands))

    return Execution(decide, combine)


@jax.custom_vjp
def _choose(v_B: jax.Array, run: jax.Array, skip: jax.Array) -> jax.Array:
    return jnp.where((v_B >= 0.5)[:, None, None, None], run, skip)


def _choose_forward(v_B: jax.Array, run: jax.Array, skip: jax.Array) -> tuple[jax.Array, Any]:
    return _choose(v_B, run, skip), (v_B >= 0.5, run, skip)


def _choose_backward(kept: Any, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    u_B, run, skip = kept
    difference = (run - skip).astype(jnp.float32) * gradient.astype(jnp.float32)
    is_run = u_B[:, None, None, None]
    zero = jnp.zeros_like(gradient)
    return jnp.sum(difference, (1, 2, 3)), jnp.where(is_run, gradient, zero), jnp.where(is_run, zero, gradient)


_choose.defvjp(_choose_forward, _choose_backward)


def noise(key: jax.Array, num_rows: int, rates_n: jax.Array) -> jax.Array:
    """[B, n, 2] as `execution` reads it."""
    shape = (num_rows, len(rates_n))
    return jnp.stack([jax.random.logistic(key, shape), jnp.broadcast_to(rates_n[None], shape)], axis=-1)


def dictated(decisions_Bxn: jax.Array) -> jax.Array:
    """Noise that leaves nothing to routers, under knobs with `noise` 1."""
    margins_Bxn = executions.dictated(decisions_Bxn)[..., 1]
    return jnp.stack([margins_Bxn, jnp.full_like(margins_Bxn, 0.5)], axis=-1)


def rungs(rates_n: jax.Array, num_rows: int, num_views: int) -> jax.Array:
    """Noise that dictates two rungs: an image's first view runs all blocks but those of rate 0, its others those of 1.

    Where an image has one view, every second image is as a first view.
    """
    is_first_B = jnp.arange(num_rows) % max(2, num_views) == 0
    return dictated(jnp.where(is_first_B[:, None], rates_n[None] > 0, rates_n[None] >= 1))


def routing_loss(output: RoutedOutput, knobs: Knobs, num_views: int) -> jax.Array:
    """All terms that any method adds, each by its weight.

    Rates: sum over free blocks of (mean v_k - t_k)², and (mean v - mean t)² of all of them. Bounds (LAUDNet, arXiv
    2308.15949): max(0, c t - rate)² + max(0, rate - 1 + c (1 - t))². Eq. 8 and 9 of CoDiNet, of noise-free gates.
    """
    assert output.router_logits_Bxnx2 is not None
    is_free_n = ((knobs.rates_n > 0) & (knobs.rates_n < 1)).astype(jnp.float32)
    num_free = jnp.maximum(jnp.sum(is_free_n), 1)
    rate_n = jnp.mean(output.run_probability_Bxn, axis=0)
    miss_n = is_free_n * (rate_n - knobs.rates_n)
    low_n = jax.nn.relu(knobs.bounds * knobs.rates_n - rate_n)
    high_n = jax.nn.relu(rate_n - 1 + knobs.bounds * (1 - knobs.rates_n))
    margins_Bxn = output.router_logits_Bxnx2[..., 1] - output.router_logits_Bxnx2[..., 0]
    q_n = knobs.rank * jax.lax.stop_gradient(thresholds_n(margins_Bxn, knobs.rates_n))
    p_Bxn = is_free_n[None] * jax.nn.sigmoid(margins_Bxn - q_n[None])
    paths_LxMxn = p_Bxn.reshape(-1, num_views, p_Bxn.shape[-1])
    return (
        knobs.rate_weight * jnp.sum(jnp.square(miss_n))
        + knobs.batch_rate_weight * jnp.square(jnp.sum(miss_n) / num_free)
        + knobs.bounds_weight * jnp.sum(is_free_n * (jnp.square(low_n) + jnp.square(high_n)))
        + knobs.alpha * losses.consistency_loss(paths_LxMxn, CONSISTENCY_MARGIN)
        + knobs.beta * losses.diversity_loss(paths_LxMxn, knobs.diversity_margin)
    )


def block_names(variables: Any) -> list[tuple[str, int | None]]:
    """The module of every block in order, and its place in the stack if it is one of several."""
    names: list[tuple[str, int | None]] = []
    for stage in (1, 2, 3):
        if f'stage{stage}_transition' in variables['params']:
            names.append((f'stage{stage}_transition', None))
        name = f'stage{stage}_blocks'
        if name in variables['params']:
            names += [(name, i) for i in range(len(variables['params'][name]['residual']['conv1']['kernel']))]
    return names


def edited(variables: Any, leaf: Sequence[str], values_n: Iterable[Any], *, add: bool = False) -> Any:
    """Variables with a leaf of every block's router set, or added to."""
    flat = traverse_util.flatten_dict(variables)
    for (name, i), value in zip(block_names(variables), values_n, strict=True):
        path = ('params', name, 'router', *leaf)
        array = np.array(flat[path], np.float32)
        place = ... if i is None else i
        array[place] = array[place] + value if add else value
        flat[path] = array
    return traverse_util.unflatten_dict(flat)


def lowered(variables: Any, thresholds_n: np.ndarray) -> Any:
    """Variables whose margins are lower by a threshold a block; a copied decision is lowered where it is made."""
    flat = traverse_util.flatten_dict(variables)
    values = []
    for (name, i), q in zip(block_names(variables), np.asarray(thresholds_n), strict=True):
        copy = np.asarray(flat['params', name, 'router', 'copy'])[... if i is None else i]
        values.append(np.array([0.0, 0.0 if copy > 0 else -q], np.float32))
    return edited(variables, ('decide', 'bias'), values, add=True)


def scaled(variables: Any, factors_n: np.ndarray) -> Any:
    """Variables whose margins are multiplied by a factor a block; a copied decision by that of where it is made."""
    flat = traverse_util.flatten_dict(variables)
    for leaf in ('kernel', 'bias'):
        for (name, i), factor in zip(block_names(variables), np.asarray(factors_n), strict=True):
            path, place = ('params', name, 'router', 'decide', leaf), ... if i is None else i
            flat[path] = np.array(flat[path], np.float32)
            flat[path][place] *= factor
    return traverse_util.unflatten_dict(flat)


def as_linear(variables: Any, rates_n: np.ndarray, shift: float = 0.0) -> Any:
    """The same network for the product's linear router: constants folded, forced blocks by their bias.

    A network that copies decisions has no such form.
    """
    flat = traverse_util.flatten_dict(jax.tree.map(np.asarray, variables))
    for module in {name for name, _ in block_names(variables)}:
        path = ('params', module, 'router')
        centre, scale, *_ = (flat.pop((*path, leaf)) for leaf in ('centre', 'scale', 'copy', 'reach'))
        kernel = flat[*path, 'hidden', 'kernel'] * scale[..., :, None]
        flat[*path, 'hidden', 'kernel'] = kernel
        flat[*path, 'hidden', 'bias'] = flat[*path, 'hidden', 'bias'] - np.einsum('...i,...ij->...j', centre, kernel)
    folded = traverse_util.unflatten_dict(flat)
    for (name, i), rate in zip(block_names(folded), rates_n, strict=True):
        place = ... if i is None else i
        router = folded['params'][name]['router']['decide']
        router['kernel'], router['bias'] = np.array(router['kernel']), np.array(router['bias'])
        if 0 < rate < 1:
            router['bias'][place, 1] += shift
        else:
            router['kernel'][place] = 0
            router['bias'][place] = [0.0, 30.0 if rate >= 1 else -30.0]
    return folded
