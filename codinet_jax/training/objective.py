"""What a step minimises: the terms of a method's objective, weighted and added (Eq. 12)."""

import functools
import operator

import jax
import optax

from codinet_jax.methods import Seen
from codinet_jax.methods.method import Objective
from codinet_jax.models.cost import CostTable
from codinet_jax.models.network import RoutedOutput


def total_loss(
    objective: Objective,
    output: RoutedOutput,
    labels_B: jax.Array,
    *,
    num_views: int,
    costs: CostTable,
    gamma: jax.Array,
    label_smoothing: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The sum of the weighted terms, and the terms before they are weighted, by name."""
    seen = Seen(output, labels_B, num_views, costs, gamma, cross_entropy(output.logits_BxY, labels_B, label_smoothing))
    terms = objective(seen)
    first, *others = (term.weight * term.value for term in terms.values())
    total = first + functools.reduce(operator.add, others) if others else first
    return total, {name: term.value for name, term in terms.items()}


def cross_entropy(logits_BxY: jax.Array, labels_B: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """The mean over rows, in nats."""
    if not label_smoothing:
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits_BxY, labels_B).mean()
    targets_BxY = optax.smooth_labels(jax.nn.one_hot(labels_B, logits_BxY.shape[-1]), label_smoothing)
    return optax.losses.softmax_cross_entropy(logits_BxY, targets_BxY).mean()
