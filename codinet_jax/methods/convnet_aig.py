"""ConvNet-AIG (Veit and Belongie, arXiv 1711.11503; andreasveit/convnet-aig): every block has a run rate to meet.

A gate unit on the block's input (`models.gates.GateUnit`) gives two numbers, a Gumbel draw decides, and the gradient is
that of the Gumbel-Softmax with the same noise (`relaxation.gumbel_straight_through`). To cross-entropy is added λ times
the mean over blocks of (t_k - rate_k)², where a rate is the share of a batch that runs the block. One stage trains
everything; it is from scratch on CIFAR-10.

Here and there: their blocks are relu(s + v f), ours v relu(s + f) + (1 - v) relu(s): the same values, for v is 0 or 1,
but other gradients to v. They draw decisions in evaluation too, which is `routing.noisy_evaluation` here, and not the
default; they keep the epoch that is best on test data, and we the last one. Their first layer has a bias that the norm
after it takes away again. A target of 1 leaves a block out of the loss and forces nothing, as in their code. On one
footing with the others a second stage trains the blocks under hard decisions; their own variants have none.
"""

import dataclasses
import math
from typing import ClassVar

from codinet_jax.methods.method import (
    PLAIN,
    Method,
    Rules,
    Seen,
    Term,
    Variants,
    priced_classification,
    relaxed_then_hard,
)
from codinet_jax.routing import rates, relaxation
from codinet_jax.runtime import checks
from codinet_jax.runtime.errors import InputError

_OURS = {
    'method': 'convnet_aig',
    'model.router': 'gate_unit',
    'routing.initial_run_rate': 1 / (1 + math.exp(-1.9)),  # the gate unit's own
    'loss.alpha': 0.0,
    'loss.beta': 0.0,
    'loss.rate_weight': 2.0,
}
_AUTHORS = (
    PLAIN
    | _OURS
    | {
        'batch_size': 256,
        'model.shortcut': 'projection',
        'loss.target_rate': 0.7,
        'loss.block_rates': (),
        'optimizer.weight_decay': 5e-4,
        'stage1.epochs': 350.0,
        'stage1.learning_rate': 0.1,
        'stage1.decay_epochs': (150.0, 250.0),
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNetAIG(Method):
    """ConvNet-AIG at its values for CIFAR-10.

    Attributes:
      rate_weight: λ.
      target_rate: t of every block, in (0, 1].
      block_rates: one for each block in its place, if any.
      temperature: of the gradient.
      noisy_evaluation: whether decisions are drawn in evaluation, as theirs are.
    """

    variants: ClassVar[Variants] = {
        'convnet_aig': _OURS,
        'convnet_aig_authors': _AUTHORS,
        'convnet_aig_imagenet': _AUTHORS
        | {
            'loss.rate_weight': 1.0,
            'optimizer.weight_decay': 1e-4,
            'stage1.epochs': 100.0,
            'stage1.decay_epochs': (30.0, 60.0, 90.0),
        },
    }

    rate_weight: float = 2.0
    target_rate: float = 0.7
    block_rates: tuple[float, ...] = ()
    temperature: float = 1.0
    noisy_evaluation: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least('rate_weight', self.rate_weight, 0)
        checks.share_above_zero('target_rate', self.target_rate)
        for rate in self.block_rates:
            checks.share_above_zero('block_rates', rate)
        checks.above_zero('temperature', self.temperature)

    @property
    def samples_in_evaluation(self) -> bool:
        return self.noisy_evaluation

    def check_blocks(self, num_blocks: int) -> None:
        if self.block_rates and len(self.block_rates) != num_blocks:
            raise InputError(
                f'loss.block_rates are {len(self.block_rates)} for {num_blocks} blocks: give one for each, or none.'
            )

    def stages(self) -> tuple[Rules, Rules]:
        return relaxed_then_hard(relaxation.gumbel_straight_through, self.temperature, self.objective)

    def objective(self, seen: Seen) -> dict[str, Term]:
        """Cross-entropy, the price of compute if there is one, and every block's rate off its target."""
        rates_n = rates.run_rates_n(seen.output.run_probability_Bxn)
        targets_n = self.block_rates or (self.target_rate,) * len(rates_n)
        return priced_classification(seen) | {
            'rates': Term(rates.block_rate_loss(rates_n, targets_n), self.rate_weight)
        }
