"""What a method of routing must beat: the static network, and skipping at random."""

import dataclasses
from typing import ClassVar

from codinet_jax.methods.method import (
    HARD_STAGE,
    Method,
    Rules,
    Variants,
    classification,
    priced_classification,
    relaxed_then_hard,
)
from codinet_jax.models import execution
from codinet_jax.routing import relaxation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Static(Method):
    """No routers; both stages train by cross-entropy alone."""

    is_routed: ClassVar[bool] = False
    learns_routes: ClassVar[bool] = False
    variants: ClassVar[Variants] = {
        'static': {
            'method': 'static',
            'model.router': 'static',
            'loss.target_cost': None,  # every image costs the same
        }
    }

    def stages(self) -> tuple[Rules, Rules]:
        return Rules(execution.masked(), classification), HARD_STAGE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random(Method):
    """Blocks skipped at random at a wanted cost, by router 'random': only the price of compute is learnt from."""

    router: ClassVar[str | None] = 'random'
    variants: ClassVar[Variants] = {
        'random': {
            'method': 'random',
            'model.router': 'random',
            'routing.initial_run_rate': 0.9,
            'loss.alpha': 0.0,  # a route drawn at random is not to be shaped
            'loss.beta': 0.0,
            'loss.gamma_damping_steps': 200.0,
        }
    }

    # The run rate moves for as long as gamma pushes: it must brake early.
    gamma_damping_steps: float = 200.0

    def stages(self) -> tuple[Rules, Rules]:
        return relaxed_then_hard(relaxation.gumbel_softmax, 1.0, priced_classification)
