"""Stochastic gates (Herrmann, Bowen and Zabih, arXiv 1812.04180; irwinherrmann/stochastic-gates): the batch has a run
rate to meet, and the network places its runs itself.

Gates decide as ConvNet-AIG's do, from the block's input (router 'gate_unit'), or from two free numbers a block and no
image (router 'independent', which learns a static route). To cross-entropy is added λ (t - mean rate)², the mean over
the batch and over all blocks ("batch activation"); one-sided, only where the mean is above t.

Here and there: the loss is that of their ImageNet script (`trainimg.py`) with its batch rate switched on; their CIFAR
script's target is the rate of the batch before, which aims at nothing. Theirs fine-tunes a trained network (give one by
`init_from`); it has further a decay of its own for gates, 10 / n of the network's, and gates over groups of channels,
from which their best results are: both are not here. How blocks, decisions in evaluation and stages differ is told in
`convnet_aig`.
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

_DEPENDENT = {
    'method': 'stochastic_gates',
    'model.router': 'gate_unit',
    'routing.initial_run_rate': 1 / (1 + math.exp(-1.9)),  # the gates' own
    'loss.alpha': 0.0,
    'loss.beta': 0.0,
    'loss.rate_weight': 2.0,
}
_INDEPENDENT = {'model.router': 'independent', 'routing.initial_run_rate': 1 / (1 + math.exp(-3.9))}
_AUTHORS = {
    'batch_size': 256,
    'model.shortcut': 'projection',
    'loss.rate_weight': 1.0,
    'loss.target_rate': 0.6,
    'loss.one_sided': False,
    'optimizer.weight_decay': 1e-4,
    'stage1.epochs': 100.0,
    'stage1.learning_rate': 0.1,
    'stage1.decay_epochs': (30.0, 60.0, 90.0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StochasticGates(Method):
    """Herrmann et al.'s batch rate.

    Attributes:
      rate_weight: λ.
      target_rate: t, in (0, 1].
      one_sided: whether a mean rate below t is free.
      temperature: of the gradient.
      noisy_evaluation: whether decisions are drawn in evaluation, one of their three ways.
    """

    variants: ClassVar[Variants] = {
        'stochastic_gates': _DEPENDENT,
        'stochastic_gates_authors': PLAIN | _DEPENDENT | _AUTHORS,
        'independent_gates': _DEPENDENT | _INDEPENDENT,
        'independent_gates_authors': PLAIN | _DEPENDENT | _INDEPENDENT | _AUTHORS,
    }

    rate_weight: float = 2.0
    target_rate: float = 0.7
    one_sided: bool = False
    temperature: float = 1.0
    noisy_evaluation: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least('rate_weight', self.rate_weight, 0)
        checks.share_above_zero('target_rate', self.target_rate)
        checks.above_zero('temperature', self.temperature)

    @property
    def samples_in_evaluation(self) -> bool:
        return self.noisy_evaluation

    def stages(self) -> tuple[Rules, Rules]:
        return relaxed_then_hard(relaxation.gumbel_straight_through, self.temperature, self.objective)

    def objective(self, seen: Seen) -> dict[str, Term]:
        """Cross-entropy, the price of compute if there is one, and the batch's rate off its target."""
        rates_n = rates.run_rates_n(seen.output.run_probability_Bxn)
        off = rates.batch_rate_loss(rates_n, self.target_rate, one_sided=self.one_sided)
        return priced_classification(seen) | {'rates': Term(off, self.rate_weight)}
