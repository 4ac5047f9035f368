"""One pure training step: views, loss, gradient, update, metrics (Eq. 12)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from codinet_jax.data import augment
from codinet_jax.data.datasets import DatasetSpec
from codinet_jax.models.codinet import CoDiNet, RoutedOutput
from codinet_jax.models.cost import CostTable
from codinet_jax.models.execution import Execution
from codinet_jax.routing import budget, losses, paths, relaxation
from codinet_jax.training.state import TrainState

Metrics = dict[str, jax.Array]


class Objective(NamedTuple):
    """The weights and margins of Eq. 12; gamma is in the train state, for it may move toward `target_cost`."""

    alpha: float
    beta: float
    consistency_margin: float
    diversity_margin: float
    target_cost: float | None
    gamma_gain: float
    gamma_lead: float
    gamma_window: float
    gamma_max: float


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """What a stage's step is made of, apart from the state and the batch.

    `objective` None leaves cross-entropy alone: stage 2, and static networks. `schedule`, the optimiser's own, is only
    told of here; it counts from `start`, the stage's first step.
    """

    model: CoDiNet
    execution: Execution
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    start: int
    dataset: DatasetSpec
    num_views: int
    costs: CostTable
    objective: Objective | None
    key: jax.Array

    def __call__(self, state: TrainState, images_LxHxWxC: jax.Array, labels_L: jax.Array) -> tuple[TrainState, Metrics]:
        """uint8 images and int labels in; the next state and the metrics of this step out.

        All randomness is a function of the key and the step's number, so that a resumed run draws the same.
        """
        view_key, noise_key = jax.random.split(jax.random.fold_in(self.key, state.step))
        spec, n = self.dataset, self.model.architecture.num_blocks
        views_LxMxHxWxC = augment.make_views(images_LxHxWxC, view_key, self.num_views, spec.crop_padding, spec.flip)
        images_BxHxWxC = augment.normalise(views_LxMxHxWxC.reshape(-1, *views_LxMxHxWxC.shape[2:]), spec.mean, spec.std)
        labels_B = jnp.repeat(labels_L, self.num_views)
        noise_Bxnx2 = jax.random.gumbel(noise_key, (len(labels_B), n, 2))

        def loss_fn(params: Any) -> tuple[jax.Array, tuple[RoutedOutput, Any, Metrics]]:
            output, mutated = self.model.apply(
                {'params': params, 'batch_stats': state.batch_stats},
                images_BxHxWxC,
                self.execution,
                noise_Bxnx2,
                train=True,
                mutable=['batch_stats'],
            )
            loss, terms = self.loss(output, labels_B, state.budget.gamma)
            return loss, (output, mutated['batch_stats'], terms)

        gradient, (output, batch_stats, metrics) = jax.grad(loss_fn, has_aux=True)(state.params)
        updates, opt_state = self.optimizer.update(gradient, state.opt_state, state.params)
        metrics |= {
            'accuracy': jnp.mean(jnp.argmax(output.logits_BxY, axis=-1) == labels_B),
            'gradient_norm': optax.tree.norm(gradient),
            'learning_rate': jnp.asarray(self.schedule(state.step - self.start)),
        }
        gamma_budget = state.budget
        if output.router_logits_Bxnx2 is not None:
            metrics |= self.route_metrics(output.router_logits_Bxnx2) | {'gamma': state.budget.gamma}
            if self.objective and self.objective.target_cost is not None:
                gamma_budget = budget.update(
                    state.budget,
                    metrics['macs_share'],
                    self.objective.target_cost,
                    gain=self.objective.gamma_gain,
                    lead=self.objective.gamma_lead,
                    window=self.objective.gamma_window,
                    gamma_max=self.objective.gamma_max,
                )
        return (
            TrainState(
                step=state.step + 1,
                params=optax.apply_updates(state.params, updates),
                batch_stats=batch_stats,
                opt_state=opt_state,
                budget=gamma_budget,
            ),
            metrics,
        )

    def loss(self, output: RoutedOutput, labels_B: jax.Array, gamma: jax.Array) -> tuple[jax.Array, Metrics]:
        """Eq. 12, and its terms before they are weighted."""
        terms = {
            'cross_entropy': optax.losses.softmax_cross_entropy_with_integer_labels(output.logits_BxY, labels_B).mean()
        }
        total = terms['cross_entropy']
        if self.objective:
            paths_LxMxn = output.run_probability_Bxn.reshape(-1, self.num_views, output.run_probability_Bxn.shape[-1])
            terms |= {
                'consistency': losses.consistency_loss(paths_LxMxn, self.objective.consistency_margin),
                'diversity': losses.diversity_loss(paths_LxMxn, self.objective.diversity_margin),
                'cost': losses.cost_loss(output.run_probability_Bxn, jnp.asarray(self.costs.costs_n)),
            }
            total += (
                self.objective.alpha * terms['consistency']
                + self.objective.beta * terms['diversity']
                + gamma * terms['cost']
            )
        return total, {'loss': total} | terms

    def route_metrics(self, router_logits_Bxnx2: jax.Array) -> Metrics:
        """What the noise-free decisions of this batch say; `macs_share` is a share of the static network's MACs.

        In stage 1 these decisions are the routers' under relaxed activations, so evaluation may decide otherwise.
        """
        decisions_Bxn = relaxation.hard_decision(relaxation.run_probability(router_logits_Bxnx2))
        run_rates_n = paths.run_rates_n(decisions_Bxn)
        return {
            'mean_path_length': paths.mean_path_length(decisions_Bxn),
            'macs_share': self.costs.share_of_static(run_rates_n),
            'num_paths': paths.num_paths(decisions_Bxn),
            'route_entropy': paths.route_entropy(decisions_Bxn),
            'agreement': paths.agreement(decisions_Bxn.reshape(-1, self.num_views, decisions_Bxn.shape[-1])),
            'run_rates_n': run_rates_n,
        }
