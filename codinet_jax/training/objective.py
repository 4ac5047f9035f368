"""What a step minimises: the terms of a method's objective, weighted and added (Eq. 12); and distillation."""

import functools
import operator
from collections.abc import Callable, Sequence

import jax
import optax

from codinet_jax.methods import Seen, Term
from codinet_jax.methods.method import Objective, cross_entropy
from codinet_jax.models.cost import CostTable
from codinet_jax.models.execution import Execution
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
    progress: float | jax.Array = 0.0,
    teacher_logits_BxY: jax.Array | None = None,
    again: Callable[[Execution], RoutedOutput] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The sum of the weighted terms, and the terms before they are weighted, by name."""
    loss = cross_entropy(output.logits_BxY, labels_B, label_smoothing)
    seen = Seen(output, labels_B, num_views, costs, gamma, loss, progress, teacher_logits_BxY, again, label_smoothing)
    terms = objective(seen)
    first, *others = (term.weight * term.value for term in terms.values() if term.weight is not None)
    total = first + functools.reduce(operator.add, others) if others else first
    return total, {name: term.value for name, term in terms.items()}


Taught = Callable[[RoutedOutput], Sequence[tuple[jax.Array, float]]]  # see `Method.taught`


def distilled(objective: Objective, weight: float, temperature: float, taught: Taught) -> Objective:
    """The objective with the teacher's answers to learn from as well; as it is where the weight is zero."""
    if not weight:
        return objective

    def objective_and_teacher(seen: Seen) -> dict[str, Term]:
        assert seen.teacher_logits_BxY is not None
        values = [
            own_weight * divergence(logits_BxY, seen.teacher_logits_BxY, temperature)
            for logits_BxY, own_weight in taught(seen.output)
        ]
        return objective(seen) | {'distillation': Term(functools.reduce(operator.add, values), weight)}

    return objective_and_teacher


def divergence(logits_BxY: jax.Array, teacher_logits_BxY: jax.Array, temperature: float) -> jax.Array:
    """T^2 KL(teacher || network) at temperature T, in nats, the mean over rows (Hinton et al., 2015)."""
    log_p_BxY = jax.nn.log_softmax(logits_BxY / temperature)
    log_q_BxY = jax.nn.log_softmax(teacher_logits_BxY / temperature)
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(log_p_BxY, log_q_BxY).mean()
