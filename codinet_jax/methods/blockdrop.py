"""BlockDrop (Wu et al., arXiv 1711.08393; Tushar-N/blockdrop, cl_training.py and finetune.py): a policy network looks
at the image and drops blocks of a network that was trained before.

The policy (router 'policy') gives every block a probability s, and decisions are drawn from Bernoulli(s̃), where
s̃ = 0.8 s + 0.2 (1 - s). A route u earns R(u) = 1 - (Σ_k u_k / n)² where the class is right, and minus a penalty where
it is not. What is minimised is -(R(u) - R(û)) Σ_k log s̃(u_k), û the likelier decisions on the same views
("self-critical"). Stage 1 is a curriculum: the backbone is frozen, norms included, and only the last blocks are
decided, at first one and in the end all; the others run, and are left out of the log-probability. The entropy of s̃ is
rewarded there. Stage 2 trains both, by the same and the cross-entropy of the network that was drawn. Evaluation runs
what has s of at least a half. The trained network is given by `--config.init_from=STATIC/weights.npz`; if it is to be
distilled too, that is in stage 2, for no gradient goes from answers to the policy.

Here and there: the entropy is the whole of it; their code has its -s̃ log s̃ alone, which pulls toward skipping. One
more block is decided whenever a share 1 / n of `routing.curriculum` has passed, theirs every epoch (54 of 5,000). The
policy gradient is a mean over rows in both stages, theirs a sum in fine-tuning: the same to Adam, as the backbone has
no part in it, and to SGD a matter of `loss.policy_weight`. The likelier decisions are tried under the batch's
statistics and leave the running ones alone, which theirs move twice. Policy and backbone pad and subsample where a
shape changes, and theirs average first; photographs' policy starts fresh, and theirs from a trained ResNet-18.
`blockdrop_authors` has 256 images a step in both stages, where theirs has 2,048 in the first, and normalises them. A
wanted cost, which they have not, is met in stage 2 by γ times the expected cost of s̃, and then by the policy's biases.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from codinet_jax.methods.method import PLAIN, Method, Rules, Seen, Term, Variants, classification
from codinet_jax.models import execution
from codinet_jax.models.network import RoutedOutput
from codinet_jax.routing import losses, policy_gradient, relaxation
from codinet_jax.runtime import checks
from codinet_jax.runtime.errors import InputError

CERTAINTY = 0.8  # their α

_OURS = {
    'method': 'blockdrop',
    'model.router': 'policy',
    'loss.alpha': 0.0,
    'loss.beta': 0.0,
    'loss.entropy_weight': 0.1,
    'loss.wrong_penalties': (1.0, 10.0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockDrop(Method):
    """BlockDrop at its values for CIFAR-10.

    Attributes:
      wrong_penalties: what a wrong class costs, in each of the two stages (their γ).
      entropy_weight: what decisions earn by their entropy in stage 1 (their β).
      policy_weight: of the policy gradient.
      curriculum: the share of stage 1 after which all blocks are decided.
    """

    router: ClassVar[str | None] = 'policy'
    taught_in: ClassVar[tuple[int, ...]] = (2,)  # stage 1 has no gradient from answers to the policy
    read_in: ClassVar[Mapping[str, tuple[int, ...]]] = {'entropy_weight': (1,), 'curriculum': (1,)}
    variants: ClassVar[Variants] = {
        'blockdrop': _OURS,
        'blockdrop_authors': PLAIN
        | _OURS
        | {
            'batch_size': 256,
            'loss.policy_weight': 1.0,
            'routing.initial_run_rate': 0.5,
            'routing.curriculum': 54 / 5000,
            'optimizer.kind': 'adam',
            'optimizer.weight_decay': 0.0,
            'stage1.epochs': 5000.0,
            'stage1.learning_rate': 1e-3,
            'stage1.decay_epochs': (),
            'stage2.epochs': 2000.0,
            'stage2.learning_rate': 1e-4,
            'stage2.decay_epochs': (),
        },
    }

    wrong_penalties: tuple[float, ...] = (1.0, 10.0)
    entropy_weight: float = 0.1
    policy_weight: float = 1.0
    curriculum: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least('entropy_weight', self.entropy_weight, 0)
        checks.at_least('policy_weight', self.policy_weight, 0)
        if len(self.wrong_penalties) != 2 or not all(0 <= penalty < float('inf') for penalty in self.wrong_penalties):
            raise InputError(f'wrong_penalties are {self.wrong_penalties}; give two of at least 0, one for each stage.')
        checks.share_above_zero('curriculum', self.curriculum)

    def stages(self) -> tuple[Rules, Rules]:
        drawn = execution.relaxed(_drawn, 1.0)
        return Rules(drawn, self.learning, frozen='backbone', opened=self.opened), Rules(drawn, self.fine_tuning)

    def opened(self, progress: float | jax.Array, num_blocks: int) -> jax.Array:
        """Which blocks are not decided yet: all but the last ones, of which there are more and more."""
        num_decided = 1 + jnp.floor(num_blocks * progress / self.curriculum + 1e-4)
        return jnp.arange(num_blocks) < num_blocks - num_decided

    def learning(self, seen: Seen) -> dict[str, Term]:
        """The curriculum: the policy alone learns, and cross-entropy is only shown."""
        is_decided_n = ~self.opened(seen.progress, seen.costs.num_blocks)
        return {
            'cross_entropy': Term(jax.lax.stop_gradient(seen.cross_entropy)),
            'entropy': Term(policy_gradient.entropy(_log_p(seen.output)), -self.entropy_weight),
        } | self._policy(seen, self.wrong_penalties[0], is_decided_n)

    def fine_tuning(self, seen: Seen) -> dict[str, Term]:
        """The policy and the blocks under what it draws."""
        is_decided_n = jnp.ones(seen.costs.num_blocks, bool)
        return classification(seen) | self._policy(seen, self.wrong_penalties[1], is_decided_n)

    def _policy(self, seen: Seen, penalty: float, is_decided_n: jax.Array) -> dict[str, Term]:
        """What the policy gradient minimises, the cost that is to be expected of a draw, and the mean R(u)."""
        assert seen.again is not None
        likely = seen.again(execution.with_noise(execution.masked()))
        drawn_B, likely_B = (_rewards_B(output, seen.labels_B, penalty) for output in (seen.output, likely))
        advantage_B = policy_gradient.self_critical_B(drawn_B, likely_B)
        log_p_Bxnx2 = _log_p(seen.output)
        chances_Bxn = policy_gradient.of_drawn_Bxn(seen.output.run_probability_Bxn, log_p_Bxnx2)
        chances_Bxn = jnp.where(is_decided_n[None], chances_Bxn, 0.0)
        run_Bxn = jnp.where(is_decided_n[None], jnp.exp(log_p_Bxnx2[..., 1]), 1.0)
        return {
            'policy': Term(policy_gradient.reinforce(chances_Bxn, advantage_B[:, None]), self.policy_weight),
            'cost': Term(losses.cost_loss(run_Bxn, jnp.asarray(seen.costs.costs_n)), seen.gamma),
            'reward': Term(jnp.mean(drawn_B), None),
        }


def _log_p(output: RoutedOutput) -> jax.Array:
    assert output.router_logits_Bxnx2 is not None
    return policy_gradient.log_probabilities(output.router_logits_Bxnx2, certainty=CERTAINTY)


def _drawn(router_logits_Bx2: jax.Array, noise_Bx2: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """From s̃, without a gradient."""
    log_p_Bx2 = policy_gradient.log_probabilities(router_logits_Bx2, certainty=CERTAINTY)
    return relaxation.drawn(log_p_Bx2, noise_Bx2, temperature)


def _rewards_B(output: RoutedOutput, labels_B: jax.Array, penalty: float) -> jax.Array:
    is_right_B = jnp.argmax(output.logits_BxY, axis=-1) == labels_B
    decisions_Bxn = relaxation.hard_decision(output.run_probability_Bxn).astype(jnp.float32)
    return policy_gradient.rewards_B(decisions_Bxn, is_right_B, penalty)
