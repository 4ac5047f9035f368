"""What each of the two stages of section 3.4 trains, for how long, and how its gates are executed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from codinet_jax import sharding
from codinet_jax.data.datasets import DatasetSpec
from codinet_jax.models import execution
from codinet_jax.models.codinet import CoDiNet
from codinet_jax.models.cost import CostTable
from codinet_jax.routing.relaxation import RELAXATIONS
from codinet_jax.training import optimizer
from codinet_jax.training.step import Objective, Step


class Stage(NamedTuple):
    """The steps of a run from `start` to before `end`; its `step` says what is trained, and how gates are executed."""

    number: int
    start: int
    end: int
    step: Step


def plan(config: ConfigDict, model: CoDiNet, costs: CostTable, dataset: DatasetSpec, num_images: int) -> list[Stage]:
    """The two stages of a config. Epochs become steps here: one pass over the images is `num_images / batch_size`."""

    def steps(epochs: float) -> int:
        return round(epochs * num_images / config.batch_size)

    key = jax.random.fold_in(jax.random.key(config.seed), 1)  # the seed's own key initialises the network
    objective = Objective(**{field: config.loss[field] for field in Objective._fields})
    relax = RELAXATIONS[config.routing.relaxation]
    under = {
        1: (execution.relaxed(relax, config.routing.temperature), None if model.router is None else objective),
        2: (execution.masked(), None),
    }
    base = config.optimizer.base_batch_size or config.batch_size
    stages, start = [], 0
    for number, setting in ((1, config.stage1), (2, config.stage2)):
        schedule = optimizer.schedule(
            setting.learning_rate * config.batch_size / base,
            [steps(epoch) for epoch in setting.decay_epochs],
            setting.decay_factor,
            steps(setting.warmup_epochs),
        )
        sgd = optimizer.sgd(
            schedule,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            freeze_routers=number == 2,
        )
        gates, terms = under[number]
        step = Step(
            model,
            gates,
            sgd,
            schedule,
            start,
            dataset,
            config.num_views,
            costs,
            terms,
            key,
            accumulate_steps=config.accumulate_steps,
            label_smoothing=config.loss.label_smoothing,
            ema_decay=config.optimizer.ema_decay,
            skip_nonfinite=config.optimizer.skip_nonfinite,
        )
        stages.append(Stage(number, start, start + steps(setting.epochs), step))
        start = stages[-1].end
    return stages


def compiled(step: Step, mesh: Mesh) -> Callable[..., Any]:
    """The jitted step: the batch spread over the mesh, the state on every device of it and given up for the next."""
    everywhere, rows = sharding.replicated(mesh), sharding.by_rows(mesh)
    return jax.jit(step, donate_argnums=0, in_shardings=(everywhere, rows, rows), out_shardings=everywhere)
