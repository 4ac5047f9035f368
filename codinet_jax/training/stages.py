"""What each of the two stages of section 3.4 trains, for how long, and the state that its first step starts from."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from codinet_jax.config.recipe import Recipe, StageRecipe
from codinet_jax.config.setup import Setup
from codinet_jax.data.spec import DataSpec
from codinet_jax.methods import Method, terms
from codinet_jax.models.network import RoutedResNet, drawn, fresh_variables
from codinet_jax.runtime import hosts, sharding
from codinet_jax.training import optimizer
from codinet_jax.training import state as train_state
from codinet_jax.training.objective import distilled
from codinet_jax.training.state import TrainState
from codinet_jax.training.step import Step


class Stage(NamedTuple):
    """The steps of a run from `start` to before `end`; its `step` says what is trained, and how gates are executed."""

    number: int
    start: int
    end: int
    step: Step
    gamma: float
    seed: int

    def first_state(
        self, variables: Mapping[str, Any] | None = None, teacher: Mapping[str, Any] | None = None
    ) -> TrainState:
        """The state before the stage's first step, from variables or fresh; pure, to be jitted."""
        if variables is None:
            variables = fresh_variables(self.step.model, self.seed)
        if teacher is None and self.step.teacher is not None:
            teacher = fresh_variables(self.step.teacher, self.seed)
        is_averaged = self.step.ema_decay > 0
        return train_state.create(variables, self.step.optimizer, self.gamma, is_averaged=is_averaged, teacher=teacher)

    def placed_state(
        self, mesh: Mesh, variables: Mapping[str, Any] | None = None, teacher: Mapping[str, Any] | None = None
    ) -> TrainState:
        """`first_state` on every device of a mesh."""
        if variables is None:
            variables = jax.device_get(drawn(self.step.model, self.seed))
        variables, teacher = hosts.arrays_of_first((variables, teacher))
        return jax.jit(self.first_state, out_shardings=sharding.replicated(mesh))(variables, teacher)

    def always_run_n(self, step: int) -> np.ndarray:
        """The blocks that have nothing to decide at a step of the stage."""
        always_n = np.array(self.step.model.always_run_n)
        if self.step.opened is None:
            return always_n
        progress = jnp.float32((step - self.start) / max(1, self.step.num_steps))
        return always_n | np.asarray(self.step.opened(progress, len(always_n)))

    def begun_from(self, state: TrainState, mesh: Mesh) -> TrainState:
        """The state of the stage before with nothing optimised yet, placed as the step leaves it, or that would be
        compiled for its first call and again for its second.
        """
        begin = jax.jit(self.step.optimizer.init, out_shardings=sharding.replicated(mesh))
        return dataclasses.replace(state, opt_state=begin(state.params))


def plan(setup: Setup, num_images: int, model: RoutedResNet | None = None) -> list[Stage]:
    """The two stages of a setup, of its network with the convolutions it trains with, or of `model` in its place."""
    model = model or setup.training_model()
    teacher = setup.teaching(model) if setup.recipe.distillation_weight else None
    return planned(setup.method, setup.recipe, setup.data.spec, model, num_images, teacher)


def planned(
    method: Method,
    recipe: Recipe,
    spec: DataSpec,
    model: RoutedResNet,
    num_images: int,
    teacher: RoutedResNet | None = None,
) -> list[Stage]:
    """Epochs become steps here: one pass over the images is `num_images / batch_size`."""

    def steps(epochs: float) -> int:
        return round(epochs * num_images / recipe.batch_size)

    key = jax.random.fold_in(jax.random.key(recipe.seed), 1)  # the seed's own key initialises the network
    base = recipe.base_batch_size or recipe.batch_size
    stages: list[Stage] = []
    start = 0
    for number, (rules, setting) in enumerate(
        zip(method.stages(), (recipe.stage1, recipe.stage2), strict=True), start=1
    ):
        schedule = _schedule(setting, setting.learning_rate * recipe.batch_size / base, steps)
        is_frozen, is_backbone_frozen = rules.frozen == 'routers', rules.frozen == 'backbone'
        update = optimizer.OPTIMIZERS[recipe.optimizer](
            schedule,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            freeze_routers=is_frozen,
            freeze_backbone=is_backbone_frozen,
            nesterov=recipe.nesterov,
            router_factor=recipe.router_factor,
            block_factor=recipe.block_factor,
        )
        objective = rules.objective if is_frozen else terms.extended(rules.objective, recipe.extra_terms)
        # Where nobody is taught nothing reads what the teacher answers, and XLA leaves the teacher out.
        teaching = recipe.distillation_weight if number in method.taught_in else 0.0
        step = Step(
            model.clone(routers_frozen=is_frozen, backbone_frozen=is_backbone_frozen),
            rules.execution,
            distilled(objective, teaching, recipe.distillation_temperature, method.taught),
            update,
            schedule,
            start,
            spec,
            recipe.num_views,
            key,
            controller=None if rules.frozen else method.controller,
            teacher=teacher,
            accumulate_steps=recipe.accumulate_steps,
            label_smoothing=recipe.label_smoothing,
            ema_decay=recipe.ema_decay,
            skip_nonfinite=recipe.skip_nonfinite,
            num_steps=steps(setting.epochs),
            opened=rules.opened,
        )
        stages.append(Stage(number, start, start + steps(setting.epochs), step, method.gamma, recipe.seed))
        start = stages[-1].end
    return stages


def _schedule(setting: StageRecipe, learning_rate: float, steps: Callable[[float], int]) -> optax.Schedule:
    warmup_steps = steps(setting.warmup_epochs)
    if setting.decay != 'steps':
        return optimizer.smooth_schedule(setting.decay, learning_rate, steps(setting.epochs), warmup_steps)
    decay_steps = [steps(epoch) for epoch in setting.decay_epochs]
    return optimizer.schedule(learning_rate, decay_steps, setting.decay_factor, warmup_steps)


def compiled(step: Step, mesh: Mesh) -> Callable[..., Any]:
    """The jitted step: the batch spread over the mesh, the state on every device of it and given up for the next."""
    everywhere, rows = sharding.replicated(mesh), sharding.by_rows(mesh)
    return jax.jit(step, donate_argnums=0, in_shardings=(everywhere, rows, rows), out_shardings=everywhere)
