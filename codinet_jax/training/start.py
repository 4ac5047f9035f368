"""What a run starts from: weights, if there are any, and hosts that agree on the data, the workdir and the config."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from codinet_jax.config.recipe import Recipe
from codinet_jax.config.setup import Setup
from codinet_jax.data import augment
from codinet_jax.data.split import Split
from codinet_jax.models import joining, pretrained, weights_file
from codinet_jax.models.architecture import Architecture
from codinet_jax.models.network import drawn
from codinet_jax.models.routers import is_of_routing
from codinet_jax.models.weights_file import WeightsInput
from codinet_jax.runtime import hosts
from codinet_jax.runtime.console import log
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.waiting import waiting
from codinet_jax.workdir import Workdir

JOINED_ON, JOINED_AT_ONCE = 500, 50  # images


def check_shared(num_images: tuple[int, int], recipe: Recipe) -> None:
    """Refuses hosts whose data lie elsewhere and are not the same, and those that would not save or evaluate together.

    How often a run does may change when it goes on, so what the workdir records does not tell.
    """
    here = {name: getattr(recipe, name) for name in ('checkpoint_every_steps', 'eval_every_epochs')}
    first, of_first = hosts.sent_by_first((num_images, here))

    def check() -> None:
        if list(num_images) != first:
            raise InputError(
                f'The first host has {first[0]} images to train on and {first[1]} to evaluate on, another one '
                f'{num_images[0]} and {num_images[1]}: give all the same data.'
            )
        for name, value in here.items():
            if value != of_first[name]:
                raise InputError(
                    f'{name} is {of_first[name]} on the first host and {value} on another one: give all the same.'
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


def given_variables(setup: Setup, train_set: Split) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The variables to start from, if not fresh ones, and those to be distilled, if any.

    Where two networks are joined it is on images of the training set. What does not fit is refused before anything is
    written.
    """
    file = setup.recipe.init_from
    if file is None:
        setup.check_start(is_given=False)
        return None, _teacher(setup, {})
    other = _other_class(setup, file)
    _check_stride(setup.model.architecture, file)
    imported = weights_file.read(file)
    with waiting('making the weights'):
        fresh = jax.device_get(drawn(setup.model, setup.recipe.seed))
    _check_resuming(setup, imported)
    if setup.recipe.resumes is None:
        variables = pretrained.into(fresh, imported, file, is_head_fresh=bool(other))
    else:
        variables = _joined(setup, setup.recipe.resumes, imported, train_set)
        variables['params']['router_start'] = fresh['params']['router_start']
    spec, classes = setup.data.spec, pretrained.other_classes(fresh, imported)
    routers = ''
    if _is_routed(imported):
        is_opened = setup.model.router is None
        left_out, kept = 'left out, and every block runs', 'kept, and routing.initial_run_rate is not read'
        routers = f'; its routers are {left_out if is_opened else kept}'
    of = f'{classes} classes' if classes else other
    head = f'; its head is of {of}, so one of {spec.num_classes} starts fresh' if of else ''
    log(f'starting from {file}, pixels normalised by mean {spec.mean}, std {spec.std}{routers}{head}')
    return variables, _teacher(setup, imported)


def _teacher(setup: Setup, imported: dict[str, Any]) -> dict[str, Any] | None:
    """The variables to be distilled, if any; `imported` are those to start from, which teach unless others do."""
    recipe, file = setup.recipe, setup.recipe.teacher
    if not recipe.distillation_weight:
        return None
    if file is None:
        _check_classes(setup, str(recipe.init_from))
        return pretrained.teacher(setup.model, imported, str(recipe.init_from))
    _check_stride(setup.teaching(setup.model).architecture, file)
    variables = pretrained.teacher(setup.teaching(setup.model), _static(setup, file), file)
    log(f'taught by {file}')
    return variables


def _check_resuming(setup: Setup, imported: dict[str, Any]) -> None:
    """Refuses weights to start from that are of two networks joined where one is wanted, or the other way round."""
    recipe, is_joined = setup.recipe, _is_routed(imported)
    if not setup.model.architecture.first_pass:
        return
    if recipe.resumes is not None and is_joined:
        raise InputError(
            f'{recipe.init_from} is no static network, and model.resumes is to be joined to one: leave it out if these '
            'are the weights of a network that resumes already.'
        )
    if recipe.resumes is None and not is_joined:
        raise InputError(
            f'{recipe.init_from} is a static network, and one that resumes is made of two: give model.resumes the '
            'weights of the one that answers first.'
        )
    if recipe.distillation_weight and recipe.teacher is None and is_joined:
        raise InputError(
            'distillation.weight is set, and what a network that resumes starts from is no static network that could '
            'teach: give one as distillation.teacher, or set it to 0.'
        )


def _joined(setup: Setup, file: str, imported: dict[str, Any], train_set: Split) -> dict[str, Any]:
    """The variables of two networks made one, but for those of `router_start`."""
    architecture, spec = setup.model.architecture, setup.data.spec
    _check_classes(setup, str(setup.recipe.init_from))
    shallow = pretrained.one_of_two(architecture.answering_first, _static(setup, file), file)
    deep = pretrained.one_of_two(architecture.in_order, imported, str(setup.recipe.init_from))
    images_NxHxWxC, _ = train_set.sample(JOINED_ON, setup.recipe.seed)
    rows = range(0, len(images_NxHxWxC), JOINED_AT_ONCE)
    batches = [
        augment.normalise(jnp.asarray(images_NxHxWxC[i : i + JOINED_AT_ONCE]), *spec.normalisation) for i in rows
    ]
    with waiting('joining two networks'):
        variables: dict[str, Any] = jax.device_get(joining.joined(architecture, shallow, deep, batches))
    log(f'{file} answers first, joined on {len(images_NxHxWxC)} training images')
    return variables


def _static(setup: Setup, file: str) -> dict[str, Any]:
    """The weights of a static network beside the one to start from, of the same classes and pixels normalised alike."""
    _check_pixels(setup, file)
    _check_classes(setup, file)
    imported = weights_file.read(file)
    if _is_routed(imported):
        raise InputError(
            f'{file} holds a routed network, and without its routers it is another one: give the weights of a static '
            'run (method=static).'
        )
    return imported


def _is_routed(imported: dict[str, Any]) -> bool:
    return any(map(is_of_routing, traverse_util.flatten_dict(imported)))


def _check_pixels(setup: Setup, file: str) -> None:
    """Refuses weights that were trained on pixels that were normalised otherwise."""
    trained_on = weights_file.read_input(file) or WeightsInput(*setup.data.dataset.spec.normalisation)
    mean, std = setup.data.spec.normalisation
    if (tuple(trained_on.mean), tuple(trained_on.std)) != (tuple(mean), tuple(std)):
        raise InputError(
            f'{file} was trained on pixels normalised by mean {trained_on.mean}, std {trained_on.std}, and this run '
            f'normalises by {mean}, {std}: give networks that were trained alike.'
        )


def _check_stride(architecture: Architecture, file: str) -> None:
    """Refuses weights of bottlenecks that stride elsewhere: they have the same shapes."""
    has, wants = weights_file.read_stride_on(file), architecture.stride_on
    if has is not None and wants is not None and has != wants:
        raise InputError(
            f'{file} holds weights of a network that strides on its {has} convolutions, and model.stride_on is '
            f'{wants}: set it to {has}.'
        )


def _check_classes(setup: Setup, file: str) -> None:
    """Refuses weights that tell as many other classes apart."""
    if other := _other_class(setup, file):
        raise InputError(
            f'{file} is of {other}: train it on these first (method=static), or, if they are the same, name them alike.'
        )


def _other_class(setup: Setup, file: str) -> str:
    """The first of as many classes that has another name in a file of weights; '' if none has, or names are unknown."""
    there, here = weights_file.read_classes(file), class_names(setup)
    if there is None or here is None or len(there) != len(here) or there == here:
        return ''
    k = next(k for k, name in enumerate(there) if name != here[k])
    return f'other classes ({k} is {there[k]!r} there and {here[k]!r} here)'


def class_names(setup: Setup) -> tuple[str, ...] | None:
    """Those of the data set, if its classes have names."""
    classes = setup.data.spec.classes
    return None if isinstance(classes, int) else classes


def trained_on(setup: Setup) -> WeightsInput | None:
    """The normalisation, where it is not the data set's own."""
    normalisation = setup.data.spec.normalisation
    return None if normalisation == setup.data.dataset.spec.normalisation else WeightsInput(*normalisation)
