"""Where predictors come from: a network and its variables, or the workdir of a finished run."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from codinet_jax.config import networks, setup
from codinet_jax.data.spec import DataSpec
from codinet_jax.inference import exported, program
from codinet_jax.inference.folding import cast, fold
from codinet_jax.inference.operating_points import OperatingPoints
from codinet_jax.inference.predictor import Predictor
from codinet_jax.models.fitting import fitting
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import files
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir


def from_network(
    model: RoutedResNet,
    data_spec: DataSpec,
    variables: Mapping[str, Any],
    *,
    threshold: float = 0.5,
    strategy: str | None = None,
    about: Mapping[str, Any] | None = None,
    operating_points: OperatingPoints | None = None,
) -> Predictor:
    """A network, batch norm folded, on all devices; it can be exported.

    Args:
      model: the network.
      data_spec: of the images.
      variables: as the network's `apply` takes them.
      threshold: a block runs where v reaches it.
      strategy: 'masked', 'conditional', 'compacted' or 'fused'; if not given, 'fused' for the networks that it computes
        and was found to be the fastest for, in bfloat16 on a CUDA device and in float32 on a CPU; else 'conditional'
        for one image and 'compacted' for more. What is exported is always 'compacted'.
      about: the network's settings, for the reader of what is exported.
      operating_points: what calibration found of it.

    Raises:
      InputError: there is no such strategy, or not for this network. That the variables are another network's is told
        by this or, where nothing has to be traced before, by the first answer.
    """
    known = operating_points or OperatingPoints()
    spec = program.network_spec(model, data_spec)
    if about is None:
        about = {'name': model.architecture.name, 'router': model.router, 'dtype': jnp.dtype(model.dtype).name}

    def write(directory: str | os.PathLike[str], threshold: float) -> None:
        forward = program.program(model, data_spec, 'compacted')
        mean, std = data_spec.normalisation
        with fitting(model, variables):
            exported.write(
                directory,
                lambda weights, *inputs: forward(
                    cast(traverse_util.unflatten_dict(weights, sep='/'), model.dtype), *inputs
                ),
                traverse_util.flatten_dict(fold(variables), sep='/'),
                spec,
                threshold,
                preprocessing={'normalisation': '(pixels / 255 - mean) / std', 'mean': mean, 'std': std},
                network=about,
                operating_points=known,
                decides=model.router is not None,
            )

    with fitting(model, variables):
        on_devices = program.on_devices(model, data_spec, variables, strategy)

    def forward(images_BxHxWxC: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        with fitting(model, variables):
            return on_devices(images_BxHxWxC, threshold)

    return Predictor(spec, forward, float(threshold), write, known, decides=model.router is not None)


def from_workdir(
    path: str | os.PathLike[str],
    *,
    operating_point: str | float | None = None,
    cost: float | None = None,
    strategy: str | None = None,
) -> Predictor:
    """The network of a finished run, as `from_network` has it.

    Args:
      path: a workdir of `codinet_jax.main`.
      operating_point: a name that `codinet_jax.calibrate` gave to a threshold, or the target cost it is named for;
        without it and a cost, 0.5.
      cost: what the mean image may cost instead, as a share of the static network's MACs.
      strategy: see `from_network`.

    Raises:
      InputError: there is no finished run, no such operating point or strategy, or the cost cannot be had.
    """
    workdir = Workdir(path)
    with files.reading(workdir.path):
        is_exported = (workdir.path / exported.MANIFEST).is_file()
    if is_exported:
        raise InputError(f'{workdir} holds an exported network and no run: give it as --exported, or to load_exported.')
    found, known = setup.read(workdir.read_config()), operating_points(workdir)
    return from_network(
        found.model,
        found.data.spec,
        workdir.read_weights(),
        threshold=known.threshold(operating_point, cost),
        strategy=strategy,
        about={'dataset': found.record['dataset'], **found.record['model']},
        operating_points=known,
    )


def operating_points(workdir: Workdir) -> OperatingPoints:
    """What `codinet_jax.calibrate` found of a run.

    Raises:
      InputError: it cannot be read.
    """
    try:
        points, curve = workdir.read_operating_points(), workdir.read_cost_curve()['curve']
        known = OperatingPoints.of_record(points, curve, str(workdir))
        return dataclasses.replace(known, decides=workdir.read_config().model.router != networks.STATIC)
    except InputError:  # a ValueError, with a sentence of its own
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f'The operating points of {workdir} cannot be read ({error!r}): move operating_points.json and '
            'cost_curve.json away, and run codinet_jax.calibrate again.'
        ) from error
