"""One pure training step: views, loss, gradient, update, metrics."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from codinet_jax.data import augment
from codinet_jax.data.spec import DataSpec
from codinet_jax.methods.method import Objective
from codinet_jax.models.execution import Execution, masked
from codinet_jax.models.network import RoutedOutput, RoutedResNet
from codinet_jax.routing import paths, relaxation
from codinet_jax.routing.controller import CostController
from codinet_jax.training.objective import total_loss
from codinet_jax.training.state import TrainState

# Scalars by name; the terms of the objective by themselves under 'terms'.
Metrics = dict[str, Any]
OPEN = 1e4  # noise above all logit margins


class Moment(NamedTuple):
    """How far a stage is, and what follows from it: how gates are executed, and what is added to every row's noise."""

    progress: jax.Array
    execution: Execution
    opening_nx2: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """What a stage's step is made of, apart from the state and the batch.

    `execution` may be a function of the progress: the share of the stage's `num_steps` that are done. `controller`, if
    there is one, moves gamma. `schedule`, the optimiser's own, is only logged here; it counts from `start`, the stage's
    first step. The batch is worked through in `accumulate_steps` parts, whose gradients are averaged; each part has its
    own batch statistics and its own pairs of images. `teacher` is the network whose answers to the same views are
    distilled, under the state's variables for it. With `skip_nonfinite` a step whose loss or gradient is not finite
    changes nothing but the step's number, by which the learning rate goes. `opened` is as in `Rules`.
    """

    model: RoutedResNet
    execution: Execution | Callable[[jax.Array], Execution]
    objective: Objective
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    start: int
    spec: DataSpec
    num_views: int
    key: jax.Array
    controller: CostController | None = None
    teacher: RoutedResNet | None = None
    accumulate_steps: int = 1
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    skip_nonfinite: bool = False
    num_steps: int = 1
    opened: Callable[[jax.Array, int], jax.Array] | None = None

    def __call__(self, state: TrainState, images: jax.Array, labels_L: jax.Array) -> tuple[TrainState, Metrics]:
        """uint8 images [L, H, W, C], or views [L, M, H, W, C], and int labels in; the next state and metrics out.

        All randomness is a function of the key and the step's number, so that a resumed run draws the same.
        """
        view_key, noise_key = jax.random.split(jax.random.fold_in(self.key, state.step))
        spec, n = self.spec, self.model.architecture.num_blocks
        views_LxMxHxWxC = augment.make_views(images, view_key, self.num_views, spec.crop_padding, spec.flip)
        noise_LxMxnx2 = jax.random.gumbel(noise_key, (*views_LxMxHxWxC.shape[:2], n, 2))
        gradient, batch_stats, metrics, router_logits_Bxnx2 = self.gradient(
            state, views_LxMxHxWxC, labels_L, noise_LxMxnx2
        )
        updates, opt_state = self.optimizer.update(gradient, state.opt_state, state.params)
        metrics |= {
            'gradient_norm': optax.tree.norm(gradient),
            'learning_rate': jnp.asarray(self.schedule(state.step - self.start)),
        }
        controller = state.controller
        if router_logits_Bxnx2 is not None:
            if self.opened:
                router_logits_Bxnx2 += self.opening_nx2(self.progress(state))[None]
            metrics |= self.route_metrics(router_logits_Bxnx2) | {'gamma': controller.gamma}
            if self.controller:
                controller = self.controller.update(controller, metrics['macs_share'])
        variables = {'params': optax.apply_updates(state.params, updates), 'batch_stats': batch_stats}
        after = TrainState(
            step=state.step + 1,
            **variables,
            opt_state=opt_state,
            controller=controller,
            averages=state.averages and self.average(state.averages, variables, state.step),
            teacher=state.teacher,
        )
        return self.unless_nonfinite(state, after, metrics) if self.skip_nonfinite else (after, metrics)

    def gradient(
        self, state: TrainState, views_LxMxHxWxC: jax.Array, labels_L: jax.Array, noise_LxMxnx2: jax.Array
    ) -> tuple[Any, Any, Metrics, jax.Array | None]:
        """Gradient and metrics averaged over the parts of a batch; batch statistics after it; its router outputs."""
        num_parts = self.accumulate_steps
        loss_fn = functools.partial(self.loss, state, self.moment(state))

        def add_part(carry: tuple[Any, Any], part: tuple[jax.Array, ...]) -> tuple[tuple[Any, Any], Any]:
            total, batch_stats = carry
            gradient, (batch_stats, *seen) = jax.grad(loss_fn, has_aux=True)(state.params, batch_stats, *part)
            return (jax.tree.map(lambda x, y: x + y / num_parts, total, gradient), batch_stats), seen

        # Every num_parts-th image, so that each device goes on working on images of its own.
        parts = (
            jnp.swapaxes(x.reshape(-1, num_parts, *x.shape[1:]), 0, 1)
            for x in (views_LxMxHxWxC, labels_L, noise_LxMxnx2)
        )
        nothing = jax.tree.map(jnp.zeros_like, state.params)
        (gradient, batch_stats), (metrics, router_logits) = jax.lax.scan(
            add_part,
            (nothing, state.batch_stats),
            tuple(parts),
            # Unrolled where blocks are, for a loop is slow there, and one of a single turn stays a loop unless it is
            # told to do two at a time.
            unroll=num_parts + 1 if num_parts == 1 or self.model.unroll > 1 else 1,
        )
        metrics = jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)
        if router_logits is not None:
            router_logits = router_logits.reshape(-1, *router_logits.shape[2:])
        return gradient, batch_stats, metrics, router_logits

    def loss(
        self,
        state: TrainState,
        moment: Moment,
        params: Any,
        batch_stats: Any,
        views_lxMxHxWxC: jax.Array,
        labels_l: jax.Array,
        noise_lxMxnx2: jax.Array,
    ) -> tuple[jax.Array, tuple[Any, Metrics, jax.Array | None]]:
        """The loss of a part of a batch; batch statistics after it, metrics and router outputs."""
        views_BxHxWxC, noise_Bxnx2 = (x.reshape(-1, *x.shape[2:]) for x in (views_lxMxHxWxC, noise_lxMxnx2))
        images_BxHxWxC = augment.normalise(views_BxHxWxC, *self.spec.normalisation)
        variables = {'params': params, 'batch_stats': batch_stats}
        output, batch_stats, again = self.answers(variables, images_BxHxWxC, noise_Bxnx2, moment)
        teacher_logits_BxY = self.teacher_logits(state, images_BxHxWxC)
        labels_B = jnp.repeat(labels_l, self.num_views)
        loss, terms = total_loss(
            self.objective,
            output,
            labels_B,
            num_views=self.num_views,
            costs=self.model.costs,
            gamma=state.controller.gamma,
            label_smoothing=self.label_smoothing,
            progress=moment.progress,
            teacher_logits_BxY=teacher_logits_BxY,
            again=again,
        )
        accuracy = jnp.mean(jnp.argmax(output.logits_BxY, axis=-1) == labels_B)
        metrics = {'loss': loss, 'terms': terms, 'accuracy': accuracy}
        return loss, (batch_stats, metrics, output.router_logits_Bxnx2)

    def answers(
        self, variables: Any, images_BxHxWxC: jax.Array, noise_Bxnx2: jax.Array, moment: Moment
    ) -> tuple[RoutedOutput, Any, Callable[[Execution], RoutedOutput]]:
        """What the network makes of normalised images, and batch statistics after it; and how to ask it once more."""
        apply = functools.partial(self.model.apply, train=True, mutable=['batch_stats'])

        def again(execution: Execution) -> RoutedOutput:
            quiet_Bxnx2 = jnp.broadcast_to(moment.opening_nx2[None], noise_Bxnx2.shape)
            output: RoutedOutput = apply(jax.lax.stop_gradient(variables), images_BxHxWxC, execution, quiet_Bxnx2)[0]
            return output

        drawn_Bxnx2 = noise_Bxnx2 + moment.opening_nx2[None] if self.opened else noise_Bxnx2
        output, mutated = apply(variables, images_BxHxWxC, moment.execution, drawn_Bxnx2)
        return output, mutated['batch_stats'], again

    def teacher_logits(self, state: TrainState, images_BxHxWxC: jax.Array) -> jax.Array | None:
        """What the teacher, if there is one, answers to the same images, with every block run."""
        if self.teacher is None or state.teacher is None:
            return None
        logits_BxY: jax.Array = self.teacher.apply(state.teacher, images_BxHxWxC, masked(), train=False)[0]
        return logits_BxY

    def moment(self, state: TrainState) -> Moment:
        """How far the stage is, and how gates are executed now."""
        progress = self.progress(state)
        opening_nx2 = self.opening_nx2(progress)
        execution = self.execution(progress) if callable(self.execution) else self.execution
        return Moment(progress, execution, opening_nx2)

    def unless_nonfinite(self, state: TrainState, after: TrainState, metrics: Metrics) -> tuple[TrainState, Metrics]:
        """The state after a step, or that before it where loss or gradient is not finite; and whether it is that."""
        is_finite = jnp.isfinite(metrics['loss']) & jnp.isfinite(metrics['gradient_norm'])
        # The schedule's own count goes on with the step, or the rate that is logged would not be the one applied.
        count = optax.tree.get(after.opt_state, 'count', filtering=_is_of_schedule)
        counted = optax.tree.set(state.opt_state, _is_of_schedule, count=count)
        before = dataclasses.replace(state, step=after.step, opt_state=counted)
        after = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), after, before)
        return after, metrics | {'skipped': 1.0 - is_finite}

    def progress(self, state: TrainState) -> jax.Array:
        """The share of the stage's steps that are done."""
        return (state.step - self.start) / max(1, self.num_steps)

    def opening_nx2(self, progress: jax.Array) -> jax.Array:
        """What is added to the noise of the blocks that run whatever is drawn."""
        n = self.model.architecture.num_blocks
        opened_n = self.opened(progress, n) if self.opened else jnp.zeros(n)
        return jnp.stack([jnp.zeros(n), OPEN * opened_n], axis=-1)

    def average(self, averages: Any, variables: Any, step: jax.Array) -> Any:
        """The exponential moving average; over few steps it forgets faster, or it would hold on to the first ones."""
        decay = jnp.minimum(self.ema_decay, (1 + step) / (10 + step))
        # In this form what no longer changes stays as it is, to the bit: the routers of stage 2.
        return jax.tree.map(lambda old, new: old + (1 - decay) * (new - old), averages, variables)

    def route_metrics(self, router_logits_Bxnx2: jax.Array) -> Metrics:
        """What the noise-free decisions of this batch say; `macs_share` is a share of the static network's MACs.

        In stage 1 these decisions are the routers' under relaxed activations, so evaluation may decide otherwise.
        """
        decisions_Bxn = relaxation.hard_decision(relaxation.run_probability(router_logits_Bxnx2))
        run_rates_n = paths.run_rates_n(decisions_Bxn)
        return {
            'mean_path_length': paths.mean_path_length(decisions_Bxn),
            'macs_share': self.model.costs.share_of_static(run_rates_n),
            'num_paths': paths.num_paths(decisions_Bxn),
            'route_entropy': paths.route_entropy(decisions_Bxn),
            'agreement': paths.agreement(decisions_Bxn.reshape(-1, self.num_views, decisions_Bxn.shape[-1])),
            'run_rates_n': run_rates_n,
        }


def _is_of_schedule(path: tuple[Any, ...], _: Any) -> bool:
    """Whether an optimiser's count is that of the learning rate; Adam counts what its moments are of."""
    return bool(path[-1].tuple_name == 'ScaleByScheduleState')
