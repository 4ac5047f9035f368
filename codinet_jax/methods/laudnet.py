"""LAUDNet, layers skipped (Han et al., arXiv 2308.15949; LeapLabTHU/LAUDNet): the network has a share of compute to
meet, and every block a range of run rates that opens as training goes on.

One linear layer on the pooled input of a block decides (router 'one_layer'), by a straight-through Gumbel draw whose
temperature falls from 5 to 0.1 by equal factors over all steps. To cross-entropy is added a weight times
(F / F_static - t)² and times the mean over blocks of max(0, ρ - high)² + max(0, low - ρ)², with low = c t,
high = 1 - c (1 - t) and c = cos²(π/2 min(1, e / 0.33)), where e is the share of training that is done: at first every
block is held to t, and after a third none is.

Here and there: ρ is a block's run rate here, and its share of FLOPs there, which counts what a block cannot skip; e
goes by steps and not by epochs; the linear layer's skip bias begins at 0, as they meant it to. They fine-tune a trained
network and distil it into the routed one, at half the weight of T² KL(trained || routed), T = 4. `laudnet_authors` has
their schedule and their T, and trains from scratch by cross-entropy unless it is given that network:
`--config.init_from=STATIC.npz --config.distillation.weight=0.5`. How blocks and stages differ is told in `convnet_aig`.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from codinet_jax.methods.method import HARD_STAGE, PLAIN, Method, Rules, Seen, Term, Variants, priced_classification
from codinet_jax.models import execution
from codinet_jax.models.execution import Execution
from codinet_jax.routing import rates, relaxation
from codinet_jax.runtime import checks

FREE_AFTER = 0.33  # of training

_OURS = {
    'method': 'laudnet',
    'model.router': 'one_layer',
    'routing.temperature': 5.0,
    'routing.final_temperature': 0.1,
    'routing.initial_run_rate': 1 / (1 + math.exp(-5.0)),  # the layer's own
    'loss.alpha': 0.0,
    'loss.beta': 0.0,
    'loss.rate_weight': 10.0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LAUDNet(Method):
    """LAUDNet's layer skipping.

    Attributes:
      rate_weight: of both terms.
      target_rate: t, a share of the static network's MACs in (0, 1].
      temperature: of the gradient, at first.
      final_temperature: of the gradient, at last; None if it stays.
    """

    variants: ClassVar[Variants] = {
        'laudnet': _OURS,
        'laudnet_authors': PLAIN
        | _OURS
        | {
            'batch_size': 256,
            'loss.target_rate': 0.5,
            'distillation.temperature': 4.0,
            'optimizer.nesterov': True,
            'optimizer.weight_decay': 5e-5,
            'optimizer.base_batch_size': 256,
            'stage1.epochs': 100.0,
            'stage1.learning_rate': 0.02,
            'stage1.decay': 'cosine',
            'stage1.decay_epochs': (),
        },
    }

    rate_weight: float = 10.0
    target_rate: float = 0.5
    temperature: float = 5.0
    final_temperature: float | None = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least('rate_weight', self.rate_weight, 0)
        checks.share_above_zero('target_rate', self.target_rate)
        checks.above_zero('temperature', self.temperature)
        if self.final_temperature is not None:
            checks.above_zero('final_temperature', self.final_temperature)

    def stages(self) -> tuple[Rules, Rules]:
        return Rules(self.execution, self.objective), HARD_STAGE

    def execution(self, progress: float | jax.Array) -> Execution:
        """Drawn decisions at the temperature of the moment."""
        last = self.final_temperature or self.temperature
        temperature = rates.falling(self.temperature, last, progress)
        return execution.relaxed(relaxation.gumbel_straight_through, temperature)

    def objective(self, seen: Seen) -> dict[str, Term]:
        """Cross-entropy, the price of compute if there is one, the share of compute off its target, and the bounds."""
        rates_n = rates.run_rates_n(seen.output.run_probability_Bxn)
        bounds = rates.closing_bounds(self.target_rate, seen.progress, FREE_AFTER)
        share = jnp.square(seen.costs.share_of_static(rates_n) - self.target_rate)
        return priced_classification(seen) | {
            'share': Term(share, self.rate_weight),
            'bounds': Term(rates.bounds_loss(rates_n, bounds), self.rate_weight),
        }
