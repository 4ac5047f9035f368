"""The program of inference, one for predicting, exporting and timing: a folded network from pixels to logits and gates,
under any of the executions that decide hard, or in a kernel of its own."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import traverse_util
from ml_collections import ConfigDict

from codinet_jax import settings, sharding
from codinet_jax.data import augment
from codinet_jax.errors import InputError
from codinet_jax.inference import artefact, fused
from codinet_jax.inference.folding import cast, fold
from codinet_jax.inference.predictor import Card, Forward, Program
from codinet_jax.models import execution
from codinet_jax.models.codinet import fresh_variables
from codinet_jax.models.execution import Execution

STRATEGIES: dict[str, Callable[..., Execution]] = {
    'masked': execution.masked,
    'conditional': execution.conditional,
    'compacted': execution.compacted,
}

FUSED = 'fused'
MOST_CONDITIONAL = 32  # rows of a batch off the CPU, where each of them has the host read a condition at every block


def card(config: ConfigDict) -> Card:
    """What is to be known of a config's network."""
    dataset, arch, costs = settings.dataset(config), settings.architecture(config), settings.costs(config)
    return Card(
        classes=dataset.classes or tuple(map(str, range(dataset.num_classes))),
        image_size=dataset.image_size,
        num_channels=dataset.num_channels,
        center_crop=dataset.center_crop,
        blocks_per_stage=tuple(stage.repeats + bool(stage.transition) for stage in arch.stages),
        blocks_macs=costs.blocks_n,
        fixed_macs=costs.fixed_macs,
        static_macs=costs.static_macs,
    )


def can_run(strategy: str, batch_size: int) -> bool:
    """Whether an execution is of any use for a batch of that size on the devices here."""
    return strategy != 'conditional' or jax.default_backend() == 'cpu' or batch_size <= MOST_CONDITIONAL


def program(config: ConfigDict, strategy: str, *, unroll: int = 1, **options: Any) -> Program:
    """The pure function of a config's network.

    It takes folded variables, uint8 images [B, H, W, C], a threshold and, to dictate decisions, noise [B, n, 2]; it
    returns logits [B, Y] and v [B, n]. `options` are the strategy's, as `tile`.

    Raises:
      InputError: there is no such strategy.
    """
    if strategy not in STRATEGIES:
        raise InputError(f'There is no strategy {strategy!r}: take one of {", ".join((*STRATEGIES, FUSED))}.')
    dataset = settings.dataset(config)
    model = settings.network(config).clone(folded=True, unroll=unroll)

    def forward(
        variables: Any, images_BxHxWxC: jax.Array, threshold: jax.Array, noise_Bxnx2: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        num_rows = images_BxHxWxC.shape[0]
        if isinstance(num_rows, int) and not can_run(strategy, num_rows):
            raise InputError(
                f'conditional decides row by row, and {num_rows} rows are too many off the CPU: take compacted, or '
                f'batches of at most {MOST_CONDITIONAL}.'
            )
        hard = STRATEGIES[strategy](threshold, **options)
        if noise_Bxnx2 is not None:
            hard = execution.with_noise(hard)
        normalised_BxHxWxC = augment.normalise(images_BxHxWxC, dataset.mean, dataset.std)
        output: Any = model.apply(variables, normalised_BxHxWxC, hard, noise_Bxnx2, train=False)
        return output.logits_BxY, output.run_probability_Bxn

    return forward


def ready(config: ConfigDict, strategy: str, variables: Mapping[str, Any], **options: Any) -> tuple[Program, Any]:
    """The program of a strategy, and a network's variables as it reads them.

    Raises:
      InputError: there is no such strategy, or not for this network.
    """
    if strategy == FUSED:
        return fused.program(config), fused.pack(config, fold(variables))
    return program(config, strategy, **options), cast(fold(variables), settings.network(config).dtype)


def untrained(config: ConfigDict) -> dict[str, Any]:
    """Variables of a config's network that has learnt nothing, for timing."""
    return jax.jit(lambda: fresh_variables(settings.network(config), config.seed))()


def on_devices(config: ConfigDict, variables: Mapping[str, Any], strategy: str | None) -> Forward:
    """The network on all devices: unless told otherwise fused where that is at home, else 'conditional' for one image
    and 'compacted' for more.

    Raises:
      InputError: there is no such strategy, or not for this network.
    """
    if strategy is None and fused.is_at_home(config):
        strategy = FUSED
    (single, weights), (several, _) = (
        ready(config, strategy or default, variables) for default in ('conditional', 'compacted')
    )
    return sharding.on_devices(single, several, weights)


def export(
    directory: str | os.PathLike[str], config: ConfigDict, variables: Mapping[str, Any], threshold: float
) -> None:
    """Writes the network under compacted execution as an artefact; see `artefact.write`.

    Raises:
      InputError: the directory holds something, or cannot be written.
    """
    dataset, forward, dtype = settings.dataset(config), program(config, 'compacted'), settings.network(config).dtype
    artefact.write(
        directory,
        lambda weights, *inputs: forward(cast(traverse_util.unflatten_dict(weights, sep='/'), dtype), *inputs),
        traverse_util.flatten_dict(fold(variables), sep='/'),
        card(config),
        threshold,
        preprocessing={'normalisation': '(pixels / 255 - mean) / std', 'mean': dataset.mean, 'std': dataset.std},
        network={'dataset': config.dataset, **config.model.to_dict()},
    )
