"""CoDiNet (the paper, section 3): the routes of an image's views are drawn together, those of different images are
pushed apart, and compute has a price.

Section 3.2: a router's two numbers become a relaxed decision v by Gumbel-Softmax (Eq. 6), and run and skip mix under it
(Eq. 7). Section 3.3: consistency (Eq. 8), diversity (Eq. 9) and cost (Eq. 11) are added to cross-entropy (Eq. 12).
Section 3.4: stage 1 trains everything so; in stage 2 routers are frozen and blocks learn, by cross-entropy alone, under
the hard decisions of Eq. 13.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from codinet_jax.methods.method import Method, Rules, Seen, Term, Variants, classification, relaxed_then_hard
from codinet_jax.routing import losses, relaxation
from codinet_jax.runtime import checks
from codinet_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoDiNet(Method):
    """The paper's method, at its values (section 4.1).

    Attributes:
      alpha: weight of consistency.
      beta: weight of diversity.
      consistency_margin: m_c of Eq. 8, a length in the routing space.
      diversity_margin: m_d of Eq. 9.
      noise_free: whether the routing losses are of v without noise, at temperature 1.
      relaxation: a name in `relaxation.RELAXATIONS` (Table 9).
      temperature: of the relaxation, above 0.
    """

    variants: ClassVar[Variants] = {
        'codinet': {},
        'vanilla': {'loss.alpha': 0.0, 'loss.beta': 0.0},
        'consistency': {'loss.beta': 0.0},
    }

    alpha: float = 0.2
    beta: float = 0.2
    consistency_margin: float = 0.2
    diversity_margin: float = 0.5
    noise_free: bool = False
    relaxation: str = 'gumbel_softmax'
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ('alpha', 'beta', 'consistency_margin', 'diversity_margin'):
            checks.at_least(name, getattr(self, name), 0)
        checks.one_of('relaxation', self.relaxation, relaxation.RELAXATIONS)
        if self.relaxation == 'drawn' and not self.noise_free:
            raise InputError('relaxation is drawn, which has no gradient: routers would learn nothing by it.')
        checks.above_zero('temperature', self.temperature)
        if self.samples_in_evaluation and self.temperature != 1:
            raise InputError('relaxation sampling draws at temperature 1 when it is evaluated: leave temperature at 1.')

    @property
    def samples_in_evaluation(self) -> bool:
        return self.relaxation == 'sampling'  # section 4.5.1, and Table 9 alone

    @property
    def least_images(self) -> int:
        return 2 if self.beta > 0 else 1  # diversity is of pairs

    def stages(self) -> tuple[Rules, Rules]:
        return relaxed_then_hard(relaxation.RELAXATIONS[self.relaxation], self.temperature, self.objective)

    def objective(self, seen: Seen) -> dict[str, Term]:
        """Eq. 12."""
        v_Bxn = seen.output.run_probability_Bxn
        if self.noise_free and seen.output.router_logits_Bxnx2 is not None:
            v_Bxn = relaxation.run_probability(seen.output.router_logits_Bxnx2)
        paths_LxMxn = v_Bxn.reshape(-1, seen.num_views, v_Bxn.shape[-1])
        return classification(seen) | {
            'consistency': Term(losses.consistency_loss(paths_LxMxn, self.consistency_margin), self.alpha),
            'diversity': Term(losses.diversity_loss(paths_LxMxn, self.diversity_margin), self.beta),
            'cost': Term(losses.cost_loss(v_Bxn, jnp.asarray(seen.costs.costs_n)), seen.gamma),
        }
