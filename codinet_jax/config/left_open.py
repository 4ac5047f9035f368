"""What a config leaves open: a run that was begun with it recorded that, and a new one finds it.

Open may be the normalisation, which is at first that of the weights to start from, or measured; the groups of batch
norm, at first as many as there are devices; what computes convolutions in training; how deep the networks are whose
weights it names beside those that it starts from; and of a set that is found where it lies its classes and its images'
size, channels and views.
"""

import copy
import operator
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from codinet_jax.config import convolutions, setup
from codinet_jax.config.setup import Setup
from codinet_jax.data import datasets
from codinet_jax.models import pretrained, weights_file
from codinet_jax.runtime import files
from codinet_jax.runtime.errors import InputError

DEPTHS = {'model.first_depth': 'model.resumes', 'distillation.teacher_depth': 'distillation.teacher'}  # of what file


def found(config: ConfigDict, begun: ConfigDict | None) -> dict[str, Any]:
    """What `filled` fills in, by name; `begun` is the config of the run that is gone on with.

    Raises:
      InputError: the config cannot be used, or not on so many devices, or what it names cannot be read.
    """
    depths = _depths(config, begun)
    known = filled(_as_begun(config, begun), depths)
    named = setup.read(known)
    named.recipe.check_devices(jax.device_count())
    mean, std = _normalisation(known, begun, named)
    num_groups = _norm_groups(config, begun, named)
    return {
        **named.data.settings,
        'mean': mean,
        'std': std,
        'model.norm_groups': num_groups,
        'model.convolution': _convolution(config, begun, named),
    } | depths


def read(config: ConfigDict) -> Setup:
    """What a config names where no run is begun with it: the networks are as deep there as in a run, and all else that
    is open stays so.

    Raises:
      InputError: the config cannot be used, or weights that it names cannot be read.
    """
    return setup.read(filled(config, _depths(config, None)))


def filled(config: ConfigDict, settings: Mapping[str, Any]) -> ConfigDict:
    """The config with settings that `found` found."""
    changed = copy.deepcopy(config)
    for name, value in settings.items():
        section, _, field = name.rpartition('.')
        (changed[section] if section else changed)[field] = tuple(value) if isinstance(value, list) else value
    return changed


def _convolution(config: ConfigDict, begun: ConfigDict | None, named: Setup) -> str | None:
    """A run that goes on rounds as before, with a compiler at hand or without."""
    if config.model.convolution is not None or begun is None:
        return config.model.convolution or named.fastest_convolution()
    recorded: str | None = begun.model.convolution  # None of one that was begun from Python
    platform, those = convolutions.PLATFORMS.get(recorded or '', (jax.default_backend(), ''))
    if jax.default_backend() != platform:
        raise InputError(
            f'The run was begun with model.convolution={recorded}, which is for {those}: go on there, or begin another '
            'with a new --workdir.'
        )
    return recorded


def _depths(config: ConfigDict, begun: ConfigDict | None) -> dict[str, int | None]:
    return {setting: _depth(config, begun, setting) for setting in DEPTHS}


def _depth(config: ConfigDict, begun: ConfigDict | None, setting: str) -> int | None:
    read, of_file = operator.attrgetter(setting), operator.attrgetter(DEPTHS[setting])
    file = of_file(config)
    if file is None or read(config) is not None:
        return read(config)
    if begun is not None and of_file(begun) == file:
        return read(begun)
    kind, depth = pretrained.kind_and_depth(weights_file.read(file), file)
    if kind != config.model.backbone:
        raise InputError(
            f'{file} holds the weights of one of kind {kind}, and model.backbone is {config.model.backbone}: give '
            f'{DEPTHS[setting]} another.'
        )
    return depth


def _as_begun(config: ConfigDict, begun: ConfigDict | None) -> ConfigDict:
    """The config with what the run that was begun found in the same data set, where it leaves that open."""
    known = copy.deepcopy(config)
    if begun is None or not datasets.is_found(config.dataset) or begun.dataset != config.dataset:
        return known
    is_elsewhere = config.dataset == 'folder' and files.absolute(config.data_dir) != files.absolute(begun.data_dir)
    for name in datasets.FOUND:
        if name == 'classes' and is_elsewhere:
            continue  # looked for there, and held against those recorded
        if known[name] is None and begun[name] is not None:
            known[name] = tuple(begun[name]) if isinstance(begun[name], list) else begun[name]
    if (known.mean, known.std) == (None, None) and begun.mean is not None:
        known.mean, known.std = tuple(begun.mean), tuple(begun.std)
    return known


def _norm_groups(config: ConfigDict, begun: ConfigDict | None, named: Setup) -> int | None:
    if config.model.batch_norm == 'global' or config.model.norm_groups is not None:
        return config.model.norm_groups
    recorded = begun.model.norm_groups if begun else None
    return recorded or named.model.norm_groups


def _normalisation(config: ConfigDict, begun: ConfigDict | None, named: Setup) -> tuple[Any, Any]:
    own = (config.mean, config.std)
    if own != (None, None):
        return own
    if config.init_from is None:
        return named.data.measured_normalisation() or own
    if begun is not None and begun.init_from == config.init_from:
        return begun.mean, begun.std
    trained_on = weights_file.read_input(config.init_from)
    if trained_on is None:
        return named.data.measured_normalisation() or own
    num_channels = named.data.dataset.num_channels
    if len(trained_on.mean) != num_channels:
        raise InputError(
            f'{config.init_from} holds weights for images of {len(trained_on.mean)} channels, and those of '
            f'{config.dataset} have {num_channels}: give other weights to start from.'
        )
    return trained_on.mean, trained_on.std
