"""The seam between training and a method of routing: how gates are decided, what is minimised and what is frozen.

A method is a `Method`, a frozen dataclass whose fields are its settings; those of the same names in a config's `loss`
and `routing` fill them, and a config file of one's own may add to these after `config.unlock()`. Its `stages` say what
each of the two stages of training asks of the network. Its `variants` are what may follow a config's name after a
colon: of each, the settings that it changes, by dotted name. One of one's own is added to `methods.METHODS` by
`methods.register`; its variants are known from then on, which is too late for a colon in the command whose --import
registers it: there `--config.method` names it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from codinet_jax.models import execution
from codinet_jax.models.cost import CostTable
from codinet_jax.models.execution import Execution
from codinet_jax.models.network import RoutedOutput
from codinet_jax.models.routers import router_kind
from codinet_jax.routing import losses
from codinet_jax.routing.controller import CostController
from codinet_jax.routing.relaxation import Relaxation
from codinet_jax.runtime import checks


class Seen(NamedTuple):
    """What an objective is told of a batch of B rows, the `num_views` views of an image side by side.

    `gamma` is the weight of compute, which a cost controller may move; `cross_entropy` is that of the output's logits,
    a mean over rows; `progress` is the share of the stage's steps that are done; `teacher_logits_BxY` are those of the
    network that is distilled, None without one; `again` has the network see the batch once more by another execution,
    as it is in training but without a gradient, and without noise but for what opens blocks.
    """

    output: RoutedOutput
    labels_B: jax.Array
    num_views: int
    costs: CostTable
    gamma: jax.Array
    cross_entropy: jax.Array
    progress: float | jax.Array = 0.0
    teacher_logits_BxY: jax.Array | None = None
    again: Callable[[Execution], RoutedOutput] | None = None
    label_smoothing: float = 0.0  # of `cross_entropy`


class Term(NamedTuple):
    """A scalar to be minimised, times its weight; without one it is reported and nothing else."""

    value: jax.Array
    weight: float | jax.Array | None = 1.0


Objective = Callable[[Seen], dict[str, Term]]
Variants = Mapping[str, Mapping[str, Any]]  # by name, settings by dotted name
# What authors' variants begin with, or they would keep what a config has for CoDiNet: one view of an image, one stage,
# SGD whose rate falls by steps, and nothing beside what the method minimises.
PLAIN: dict[str, Any] = {
    'num_views': 1,
    'routing.temperature': 1.0,
    'routing.noisy_evaluation': False,
    'loss.gamma': 0.0,
    'loss.target_cost': None,
    'loss.label_smoothing': 0.0,
    'loss.extra_terms': (),
    'loss.extra_weights': (),
    'distillation.weight': 0.0,
    'distillation.temperature': 2.0,
    'distillation.teacher': None,
    'distillation.teacher_depth': None,
    'optimizer.kind': 'sgd',
    'optimizer.momentum': 0.9,
    'optimizer.nesterov': False,
    'optimizer.base_batch_size': None,
    'optimizer.router_factor': 1.0,
    'optimizer.block_factor': 1.0,
    'optimizer.ema_decay': 0.0,
    'stage1.warmup_epochs': 0.0,
    'stage1.decay': 'steps',
    'stage1.decay_factor': 0.1,
    'stage2.epochs': 0.0,
    'stage2.warmup_epochs': 0.0,
    'stage2.decay': 'steps',
    'stage2.decay_factor': 0.1,
}


def cifar_epochs(steps: int) -> float:
    """Steps of 128 images, as authors count, in passes over CIFAR's 50,000."""
    return steps * 128 / 50_000


class Rules(NamedTuple):
    """What a stage of training asks: how gates are executed, what is minimised, and what stays as it is.

    The execution may be a function of `Seen.progress`, as where a temperature falls.
    Where routers are frozen the cost controller rests, for gamma would move nothing, and extra loss terms are left out.
    With 'backbone' all else is frozen, its norms use running averages, and the controller rests too.

    `opened`, of the progress and the number of blocks, says which blocks run whatever routers say: their noise is
    raised above all logit margins, which every execution that draws heeds.
    """

    execution: Execution | Callable[[jax.Array], Execution]
    objective: Objective
    frozen: Literal['routers', 'backbone'] | None = None
    opened: Callable[[jax.Array, int], jax.Array] | None = None


def cross_entropy(logits_BxY: jax.Array, labels_B: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """The mean over rows, in nats."""
    return cross_entropies_B(logits_BxY, labels_B, label_smoothing).mean()


def cross_entropies_B(logits_BxY: jax.Array, labels_B: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """Of every row, in nats."""
    if not label_smoothing:
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits_BxY, labels_B)
    targets_BxY = optax.smooth_labels(jax.nn.one_hot(labels_B, logits_BxY.shape[-1]), label_smoothing)
    return optax.losses.softmax_cross_entropy(logits_BxY, targets_BxY)


def classification(seen: Seen) -> dict[str, Term]:
    """Cross-entropy alone: stage 2 of section 3.4, and networks without routers."""
    return {'cross_entropy': Term(seen.cross_entropy)}


def priced_classification(seen: Seen) -> dict[str, Term]:
    """Cross-entropy and the cost of Eq. 11, which a wanted cost needs."""
    cost = losses.cost_loss(seen.output.run_probability_Bxn, jnp.asarray(seen.costs.costs_n))
    return classification(seen) | {'cost': Term(cost, seen.gamma)}


# Section 3.4's stage 2: routers are frozen, and blocks learn under the decisions that evaluation takes.
HARD_STAGE = Rules(execution.masked(), classification, frozen='routers')


def relaxed_then_hard(relax: Relaxation, temperature: float, objective: Objective) -> tuple[Rules, Rules]:
    """Section 3.4: everything learns by an objective under relaxed decisions, then blocks alone under hard ones."""
    return Rules(execution.relaxed(relax, temperature), objective), HARD_STAGE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """What all methods share: the price of compute.

    Attributes:
      gamma: its weight; where it starts, if there is a target cost.
      target_cost: wanted share of the static network's MACs; the cost controller moves gamma toward it.
      gamma_gain, gamma_damping_steps, gamma_window, gamma_max: of the controller; see `CostController`.

    Raises:
      InputError: the first setting found wrong, by name, with what it may be; so in all methods.
    """

    is_routed: ClassVar[bool] = True
    learns_routes: ClassVar[bool] = True  # if not, gamma moves nothing
    router: ClassVar[str | None] = None  # the only one that it can be had with, if there is but one
    taught_in: ClassVar[tuple[int, ...]] = (1, 2)  # stages in which a teacher teaches, if there is one
    # Settings that some stages alone read, and which; where stage 2 is `HARD_STAGE` it reads none of the method's own.
    read_in: ClassVar[Mapping[str, tuple[int, ...]]] = MappingProxyType({})
    variants: ClassVar[Variants] = MappingProxyType({})  # see `method`

    gamma: float = 0.0
    target_cost: float | None = None
    gamma_gain: float = 0.1
    gamma_damping_steps: float = 100.0
    gamma_window: float = 20.0
    gamma_max: float = 10.0

    def __post_init__(self) -> None:
        for name in ('gamma', 'gamma_gain', 'gamma_damping_steps', 'gamma_max'):
            checks.at_least(name, getattr(self, name), 0)
        checks.at_least('gamma_window', self.gamma_window, 1)
        if self.target_cost is not None:
            checks.share_above_zero('target_cost', self.target_cost)
            checks.at_least('gamma_max', self.gamma_max, self.gamma)

    @classmethod
    def settings(cls) -> set[str]:
        """The settings of a config's `loss` and `routing` that it reads."""
        return {
            field.name for field in dataclasses.fields(cls) if cls.learns_routes or not field.name.startswith('gamma')
        }

    @property
    def samples_in_evaluation(self) -> bool:
        """Whether evaluation draws decisions by chance, as training does, and does not take the likelier ones."""
        return False

    @property
    def least_images(self) -> int:
        """How many images a part of a batch must have for the objective to say anything."""
        return 1

    @property
    def controller(self) -> CostController | None:
        """What moves gamma; None where it stays."""
        if self.target_cost is None:
            return None
        return CostController(
            self.target_cost, self.gamma_gain, self.gamma_damping_steps, self.gamma_window, self.gamma_max
        )

    def suits(self, router: str | None) -> bool:
        """Whether it trains networks with this router; one that has `Stages` is trained by the method that names it."""
        if router is None:
            return not self.is_routed
        is_claimed = self.router is not None or router_kind(router).stages is not None
        return self.is_routed and (self.router == router or not is_claimed)

    def stages(self) -> tuple[Rules, Rules]:
        """What the two stages ask, in order."""
        raise NotImplementedError

    def taught(self, output: RoutedOutput) -> tuple[tuple[jax.Array, float], ...]:
        """Which answers [B, Y] a teacher's are held against, each with its weight; the network's own, unless others
        learn from it as well."""
        return ((output.logits_BxY, 1.0),)

    def check_blocks(self, num_blocks: int) -> None:
        """Refuses settings that do not fit a network of so many blocks.

        Raises:
          InputError: the first such setting, by name.
        """
