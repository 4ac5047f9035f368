"""SkipNet, hybrid reinforcement learning (Wang et al., arXiv 1711.09485; ucbdrive/skipnet, train_rl.py): after
supervised training, gates are drawn and learn from what they led to.

Stage 1 is `skipnet`'s. In stage 2 every gate is drawn from Bernoulli(p), and E[L - (α/N) Σ_k (1 - g_k) C_k] is
minimised, L the cross-entropy of the network so drawn: blocks by its gradient, gates by REINFORCE, where a gate is
credited with -L and with what it and later gates earned by skipping ("HRL" there). There is no baseline. Where labels
are smoothed L is of smooth labels, to blocks and gates alike; a teacher, if there is one, teaches blocks alone.
Evaluation takes the likelier decision.

Here and there: α is `loss.skip_reward`, to which γ is added, so that a wanted cost is met by the same controller; C_k/N
is a block's share of the MACs of all blocks, theirs 1 over the number of gates. Norms use the batch's statistics under
drawn gates, as theirs do, and in evaluation running ones, which follow these. The policy gradient is a mean over rows,
as in the equation. Their CIFAR script has a sum over 128 rows times 0.01, for which `skipnet_hrl_authors` has a weight
of 1.28; their ImageNet script has a mean times 0.01, and lets a gradient of L through the credit, which is a constant
here. It also first divides the decision layer by 0.05; here `routing.temperature` divides p's logit, in both stages.
The rest is told in `skipnet`.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from codinet_jax.methods.method import (
    Rules,
    Seen,
    Term,
    Variants,
    cifar_epochs,
    cross_entropies_B,
    priced_classification,
)
from codinet_jax.methods.skipnet import SkipNet
from codinet_jax.models import execution
from codinet_jax.routing import policy_gradient, relaxation
from codinet_jax.runtime import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkipNetHRL(SkipNet):
    """SkipNet with its second stage.

    Attributes:
      skip_reward: α, for a route that skips all blocks.
      policy_weight: of the policy gradient, beside cross-entropy.
      temperature: of p in both stages; below 1 draws are nearer to the likelier decision.
    """

    variants: ClassVar[Variants] = {
        'skipnet_hrl': {**SkipNet.variants['skipnet'], 'method': 'skipnet_hrl'},
        'skipnet_hrl_authors': {
            **SkipNet.variants['skipnet_authors'],
            'method': 'skipnet_hrl',
            'loss.skip_reward': 0.1,
            'loss.policy_weight': 1.28,
            'stage2.epochs': cifar_epochs(10_000),
            'stage2.learning_rate': 1e-4,
            'stage2.decay_epochs': (),
        },
    }

    read_in: ClassVar[Mapping[str, tuple[int, ...]]] = {'relaxation': (1,), 'skip_reward': (2,), 'policy_weight': (2,)}

    skip_reward: float = 0.0
    policy_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least('skip_reward', self.skip_reward, 0)
        checks.at_least('policy_weight', self.policy_weight, 0)

    def stages(self) -> tuple[Rules, Rules]:
        drawn = execution.relaxed(relaxation.drawn, self.temperature)
        return super().stages()[0], Rules(drawn, self.reinforced)

    def reinforced(self, seen: Seen) -> dict[str, Term]:
        """Cross-entropy of the drawn network, its cost, what gates learn from both, and the mean return of a route."""
        output = seen.output
        assert output.router_logits_Bxnx2 is not None
        losses_B = cross_entropies_B(output.logits_BxY, seen.labels_B, seen.label_smoothing)
        rewards_n = (self.skip_reward + seen.gamma) * jnp.asarray(seen.costs.costs_n)
        returns_Bxn = policy_gradient.later_returns_Bxn(output.run_probability_Bxn, losses_B, rewards_n)
        log_p_Bxnx2 = policy_gradient.log_probabilities(output.router_logits_Bxnx2, temperature=self.temperature)
        chances_Bxn = policy_gradient.of_drawn_Bxn(output.run_probability_Bxn, log_p_Bxnx2)
        learnt: jax.Array = policy_gradient.reinforce(chances_Bxn, returns_Bxn)
        return priced_classification(seen) | {
            'policy': Term(learnt, self.policy_weight),
            'reward': Term(jnp.mean(returns_Bxn[:, 0]), None),
        }
