"""Early exits: a linear head after every stage, and an image leaves at the first that is sure of it.

The generic method, for BranchyNet (Teerapittayanon et al., arXiv 1709.01686), MSDNet (Huang et al., arXiv 1703.09844)
and DG-Net's exits, whose backbones are others. Head s is a Dense layer on the pooled output of stage s (router
'exits'). All are trained together, every image going all the way: L = CE(head) + w Σ_s CE(head_s), w = 1, which is
MSDNet's plain sum; BranchyNet weighs its exits one by one. In use an image leaves after the first stage whose largest
probability is above p, so that routes are whole stages, and the blocks of later ones are skipped row by row.

Here and there: p is `routing.initial_run_rate`, 0.9 unless set. BranchyNet looks at the entropy; MSDNet, as we, at the
largest probability, with a threshold of each exit's own, found on held-out images. Here one number moves all exits: the
dial of a trained network, or, where `loss.target_cost` asks for a cost, stage 2, which has it met. No gradient goes
through a decision: both stages minimise the same, and gamma moves nothing. The cost table counts all exits for every
image, and so it does shortcuts that change the shape, which are computed of images that have left, too.
"""

import dataclasses
import functools
import operator
from typing import ClassVar

from codinet_jax.methods.method import Method, Rules, Seen, Term, Variants, classification, cross_entropy
from codinet_jax.models import execution
from codinet_jax.runtime import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class EarlyExit(Method):
    """Heads after stages, trained jointly.

    Attributes:
      exit_weight: w, of the sum over all heads but the last.
    """

    learns_routes: ClassVar[bool] = False
    router: ClassVar[str | None] = 'exits'
    variants: ClassVar[Variants] = {
        'early_exit': {
            'method': 'early_exit',
            'model.router': 'exits',
            'routing.initial_run_rate': 0.9,
            'loss.alpha': 0.0,
            'loss.beta': 0.0,
            'loss.exit_weight': 1.0,
        }
    }

    exit_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least('exit_weight', self.exit_weight, 0)

    def stages(self) -> tuple[Rules, Rules]:
        # The router is the threshold alone: nothing learns it, and decay would draw it to a half.
        rules = Rules(execution.all_run(), self.objective, frozen='routers')
        return rules, rules

    def objective(self, seen: Seen) -> dict[str, Term]:
        """The cross-entropy of the last head, and the sum of all others'."""
        losses = [cross_entropy(logits, seen.labels_B, seen.label_smoothing) for logits in seen.output.of_stages[:-1]]
        return classification(seen) | {'exits': Term(functools.reduce(operator.add, losses), self.exit_weight)}
