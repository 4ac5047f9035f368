"""What a method of routing must beat: the static network, and skipping at random."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from codinet_jax.methods.method import Method, Rules, Seen, Term, classification
from codinet_jax.models import execution
from codinet_jax.routing import losses, relaxation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Static(Method):
    """No routers; both stages train by cross-entropy alone."""

    is_routed: ClassVar[bool] = False

    def stages(self) -> tuple[Rules, Rules]:
        return Rules(execution.masked(), classification), Rules(execution.masked(), classification, frozen='routers')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random(Method):
    """Blocks skipped at random at a wanted cost, by router 'random': only the price of compute is learnt from."""

    router: ClassVar[str | None] = 'random'

    # The run rate moves for as long as gamma pushes: it must brake early.
    gamma_damping_steps: float = 200.0

    def stages(self) -> tuple[Rules, Rules]:
        relax = execution.relaxed(relaxation.gumbel_softmax, 1.0)
        return Rules(relax, self.objective), Rules(execution.masked(), classification, frozen='routers')

    def objective(self, seen: Seen) -> dict[str, Term]:
        """Cross-entropy and the cost of Eq. 11."""
        v_Bxn = seen.output.run_probability_Bxn
        cost = losses.cost_loss(v_Bxn, jnp.asarray(seen.costs.costs_n))
        return classification(seen) | {'cost': Term(cost, seen.gamma)}
