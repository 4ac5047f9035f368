"""A shallow network that answers, and goes on where it is unsure: nothing that it has computed is computed again.

Ours; its pieces are known: heads of growing cost on features that are kept (MSDNet, arXiv 1703.09844; progressive
networks, arXiv 1606.04671). The network is a deep one whose blocks run in another order (router 'resuming',
`model.first_depth`; of two trained ones `model.resumes`): all that a shallow one has too, a head, then the others stage
by stage. L = CE(last head) + w CE(first head), every image going all the way; a teacher, if there is one, teaches
both heads, weighed alike. In use an image stays with the first answer where its largest probability is above p =
`routing.initial_run_rate`, as at an early exit, and so p is a dial and can meet a wanted cost.
"""

import dataclasses
from typing import ClassVar

import jax

from codinet_jax.methods.early_exit import EarlyExit
from codinet_jax.methods.method import Variants
from codinet_jax.models.network import RoutedOutput


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resumed(EarlyExit):
    """Two heads, trained jointly; `exit_weight` is w."""

    router: ClassVar[str | None] = 'resuming'
    variants: ClassVar[Variants] = {
        'resumed': {**EarlyExit.variants['early_exit'], 'method': 'resumed', 'model.router': 'resuming'}
    }

    def taught(self, output: RoutedOutput) -> tuple[tuple[jax.Array, float], ...]:
        first_BxY, last_BxY = output.of_stages
        return ((last_BxY, 1.0), (first_BxY, self.exit_weight))
