"""Where predictors come from: a network and its variables, or the workdir of a finished run."""

import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import traverse_util

from codinet_jax.config import setup
from codinet_jax.data.datasets import DataSpec
from codinet_jax.inference import exported, program
from codinet_jax.inference.folding import cast, fold
from codinet_jax.inference.predictor import Predictor
from codinet_jax.models.network import RoutedResNet
from codinet_jax.workdir import Workdir


def from_network(
    model: RoutedResNet,
    data_spec: DataSpec,
    variables: Mapping[str, Any],
    *,
    threshold: float = 0.5,
    strategy: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> Predictor:
    """A network, batch norm folded, on all devices; it can be exported.

    Args:
      model: the network.
      data_spec: of the images.
      variables: as the network's `apply` takes them.
      threshold: a block runs where v reaches it.
      strategy: 'masked', 'conditional', 'compacted' or 'fused'; if not given, 'fused' for the networks in bfloat16 that
        it computes on a CUDA device; else 'conditional' for one image and 'compacted' for more. What is exported is
        always 'compacted'.
      about: the network's settings, for the reader of what is exported.

    Raises:
      InputError: there is no such strategy, or not for this network.
    """
    spec = program.network_spec(model, data_spec)
    if about is None:
        about = {'name': model.architecture.name, 'router': model.router, 'dtype': jnp.dtype(model.dtype).name}

    def write(directory: str | os.PathLike[str], threshold: float) -> None:
        forward = program.program(model, data_spec, 'compacted')
        mean, std = data_spec.normalisation
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
        )

    return Predictor(spec, program.on_devices(model, data_spec, variables, strategy), float(threshold), write)


def from_workdir(
    path: str | os.PathLike[str], *, operating_point: str | None = None, strategy: str | None = None
) -> Predictor:
    """The network of a finished run, as `from_network` has it.

    Args:
      path: a workdir of `codinet_jax.main`.
      operating_point: a name that `codinet_jax.calibrate` gave to a threshold; 0.5 if not given.
      strategy: see `from_network`.

    Raises:
      InputError: there is no finished run, or no such operating point or strategy.
    """
    workdir = Workdir(path)
    found = setup.read(workdir.read_config())
    return from_network(
        found.model,
        found.data.spec,
        workdir.read_weights(),
        threshold=workdir.read_threshold(operating_point),
        strategy=strategy,
        about={'dataset': found.record['dataset'], **found.record['model']},
    )
