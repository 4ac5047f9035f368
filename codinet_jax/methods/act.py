"""Adaptive computation time (Graves, arXiv 1603.08983; in residual networks Figurnov et al., arXiv 1612.02297;
mfigurnov/sact): inside every stage an image halts once the scores of its units' outputs come to 1.

Unit i of a stage of U units puts out x_i, whose score is h_i = σ(linear(pool(x_i))) (router 'halting'). An image halts
at N, the first unit with Σ_{i≤N} h_i ≥ 1 - ε, ε = 0.01, or at the last. With R = 1 - Σ_{i<N} h_i the stage hands on
Σ_{i<N} h_i x_i + R x_N; to cross-entropy is added τ Σ_stages mean(N + R), the ponder cost. Nothing is drawn, and
training decides as evaluation does. Gradients reach a score through the mixture and through R alone: ponder pushes the
scores before N up, by τ each, and N has none. A stage cannot skip its first unit, so there is a floor to the cost.

Here and there: the price that a wanted cost asks for, gamma, is added to τ, over n, so that it is of a share of all
units; ponder counts units, and blocks cost about the same. Our heads have no batch norm and leaky ReLU before the
linear layer, for our units end in a ReLU and theirs, of pre-activation, in neither. Of an image that has halted all
later units still run in their training; here it stands still in training too, and so it does in batch statistics. The
threshold t raises ε, whose logit is higher by t's, so that an image can be had to halt earlier without training; it
goes further only by a shift of its scores. On one footing a second stage trains the blocks under frozen scores; theirs
has none. Their images are whitened one by one and cropped from 36x36, ours by the data set's mean and from 40x40.

SACT, the same of every position, is not here, and its published numbers are data (`analysis.paper`). Its decisions are
no masks of rows: a unit's last convolution runs at the positions that go on, and its first at those and all beside
them, which saves multiplications on paper, and time only with sparse convolutions, which XLA does not have.
"""

import dataclasses
import functools
import operator
from typing import ClassVar

import jax.numpy as jnp

from codinet_jax.methods.method import (
    HARD_STAGE,
    PLAIN,
    Method,
    Rules,
    Seen,
    Term,
    Variants,
    cifar_epochs,
    classification,
)
from codinet_jax.models import execution
from codinet_jax.models.halting import INITIAL_RUN_RATE
from codinet_jax.runtime import checks

_OURS = {
    'method': 'act',
    'model.router': 'halting',
    'routing.initial_run_rate': INITIAL_RUN_RATE,
    'loss.alpha': 0.0,
    'loss.beta': 0.0,
    'loss.ponder_weight': 0.01,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ACT(Method):
    """Adaptive computation time at its values for CIFAR-10.

    Attributes:
      ponder_weight: τ, of a unit.
    """

    router: ClassVar[str | None] = 'halting'
    variants: ClassVar[Variants] = {
        'act': _OURS,
        'act_authors': PLAIN
        | _OURS
        | {
            'batch_size': 128,
            'optimizer.weight_decay': 2e-4,
            'stage1.epochs': cifar_epochs(100_000),
            'stage1.learning_rate': 0.1,
            'stage1.decay_epochs': (cifar_epochs(60_000), cifar_epochs(75_000), cifar_epochs(90_000)),
        },
    }

    ponder_weight: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least('ponder_weight', self.ponder_weight, 0)

    def stages(self) -> tuple[Rules, Rules]:
        return Rules(execution.masked(), self.objective), HARD_STAGE

    def objective(self, seen: Seen) -> dict[str, Term]:
        """Cross-entropy and the ponder cost, N + R summed over stages, the mean of all rows."""
        ponder_B = functools.reduce(operator.add, seen.output.of_stages)
        weight = self.ponder_weight + seen.gamma / seen.costs.num_blocks
        return classification(seen) | {'ponder': Term(jnp.mean(ponder_B), weight)}
