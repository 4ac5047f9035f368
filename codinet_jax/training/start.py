"""What a run starts from: weights, if there are any, and hosts that agree on the data, the workdir and the config."""

from typing import Any

import jax

from codinet_jax.config.setup import Setup
from codinet_jax.models import pretrained, weights_file
from codinet_jax.models.network import fresh_variables
from codinet_jax.models.weights_file import WeightsInput
from codinet_jax.runtime import hosts
from codinet_jax.runtime.console import log
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.waiting import waiting
from codinet_jax.workdir import Workdir


def check_shared(num_images: tuple[int, int]) -> None:
    """Refuses hosts whose data lie elsewhere and are not the same."""
    first = hosts.sent_by_first(num_images)

    def check() -> None:
        if list(num_images) != first:
            raise InputError(
                f'The first host has {first[0]} images to train on and {first[1]} to evaluate on, another one '
                f'{num_images[0]} and {num_images[1]}: give all the same data.'
            )

    hosts.together(check)


def check_claimed(workdir: Workdir, setup: Setup) -> None:
    """Refuses hosts that do not share their workdir, or were given different configs."""
    try:
        workdir.read_config()
    except InputError as error:
        raise InputError(
            f'{workdir} is not the same directory on every host: give --workdir one they share.'
        ) from error
    workdir.check(setup.record)


def check_unchanged(num_before: int, num_now: int) -> None:
    """Refuses to go on with other images: their order, and what is held out of them, would be another."""
    if num_before not in (0, num_now):
        raise InputError(
            f'This run was begun on {num_before} training images, and there are {num_now} now: make them the same '
            'again, or train in a new --workdir.'
        )


def given_variables(setup: Setup) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The variables to start from, if not fresh ones, and those to be distilled, if any.

    What does not fit is refused before anything is written.
    """
    file = setup.recipe.init_from
    if file is None:
        setup.check_start(is_given=False)
        return None, None
    if setup.recipe.distillation_weight and setup.model.architecture.first_pass:
        raise InputError(
            'distillation.weight is set, and what a network that resumes starts from is no static network that could '
            'teach: set it to 0.'
        )
    imported = weights_file.read(file)
    with waiting('making the weights'):
        fresh = jax.device_get(jax.jit(lambda: fresh_variables(setup.model, setup.recipe.seed))())
    variables = pretrained.into(fresh, imported, file)
    spec, classes = setup.data.spec, pretrained.other_classes(fresh, imported)
    head = f'; its head is of {classes} classes, so one of {spec.num_classes} starts fresh' if classes else ''
    log(f'starting from {file}, pixels normalised by mean {spec.mean}, std {spec.std}{head}')
    if not setup.recipe.distillation_weight:
        return variables, None
    return variables, pretrained.teacher(setup.model, imported, file)


def trained_on(setup: Setup) -> WeightsInput | None:
    """The normalisation, where it is not the data set's own."""
    normalisation = setup.data.spec.normalisation
    return None if normalisation == setup.data.dataset.spec.normalisation else WeightsInput(*normalisation)
