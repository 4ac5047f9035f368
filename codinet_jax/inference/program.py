"""The program of inference, one for predicting, exporting and timing: a folded network from pixels to logits and gates,
under any of the executions that decide hard, or in a kernel of its own."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from codinet_jax.data import augment
from codinet_jax.data.spec import DataSpec
from codinet_jax.inference import fused
from codinet_jax.inference.folding import cast, fold
from codinet_jax.inference.predictor import Forward, NetworkSpec, Program
from codinet_jax.kernels import pixel_pairs
from codinet_jax.models import execution
from codinet_jax.models.execution import Execution
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError

STRATEGIES: dict[str, Callable[..., Execution]] = {
    'masked': execution.masked,
    'conditional': execution.conditional,
    'compacted': execution.compacted,
}

FUSED = 'fused'
MOST_CONDITIONAL = 32  # rows of a batch off the CPU, where each of them has the host read a condition at every block


def network_spec(model: RoutedResNet, spec: DataSpec) -> NetworkSpec:
    """What is to be known of a network of such images.

    Raises:
      InputError: the network is for other images.
    """
    arch, costs = model.architecture, model.costs
    spec.check_network(arch.num_classes, arch.image_channels)
    return NetworkSpec(
        classes=spec.class_names,
        image_size=arch.image_size,
        num_channels=arch.image_channels,
        center_crop=spec.center_crop,
        blocks_per_stage=tuple(stage.num_blocks for stage in arch.stages),
        blocks_macs=costs.blocks_n,
        fixed_macs=costs.fixed_macs,
        static_macs=costs.static_macs,
    )


def can_run(strategy: str, batch_size: int, platform: str | None = None) -> bool:
    """Whether an execution is of any use for a batch of that size on the devices of a platform, or those here."""
    return strategy != 'conditional' or (platform or jax.default_backend()) == 'cpu' or batch_size <= MOST_CONDITIONAL


def check_can_run(strategy: str, batch_size: int, platform: str | None = None) -> None:
    """Refuses what `can_run` says no to.

    Raises:
      InputError: it does.
    """
    if not can_run(strategy, batch_size, platform):
        raise InputError(
            f'conditional decides row by row, and {batch_size} rows are too many off the CPU: take compacted, or '
            f'batches of at most {MOST_CONDITIONAL}.'
        )


def program(model: RoutedResNet, spec: DataSpec, strategy: str, *, unroll: int = 1, **options: Any) -> Program:
    """The pure function of a network.

    It takes folded variables, uint8 images [B, H, W, C], a threshold and, to dictate decisions, noise [B, n, 2]; it
    returns logits [B, Y] and v [B, n]. `options` are the strategy's, as `tile`.

    Raises:
      InputError: there is no such strategy.
    """
    if strategy not in STRATEGIES:
        raise InputError(f'There is no strategy {strategy!r}: take one of {", ".join((*STRATEGIES, FUSED))}.')
    folded = model.clone(folded=True, unroll=unroll, convolution=pixel_pairs.conv_general_dilated)

    def forward(
        variables: Any, images_BxHxWxC: jax.Array, threshold: jax.Array, noise_Bxnx2: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        num_rows = images_BxHxWxC.shape[0]
        if isinstance(num_rows, int):
            check_can_run(strategy, num_rows)
        hard = STRATEGIES[strategy](threshold, **options)
        if noise_Bxnx2 is not None:
            hard = execution.with_noise(hard)
        normalised_BxHxWxC = augment.normalise(images_BxHxWxC, *spec.normalisation)
        output: Any = folded.apply(variables, normalised_BxHxWxC, hard, noise_Bxnx2, train=False)
        return output.logits_BxY, output.run_probability_Bxn

    return forward


def ready(
    model: RoutedResNet, spec: DataSpec, strategy: str, variables: Mapping[str, Any], **options: Any
) -> tuple[Program, Any]:
    """The program of a strategy, and a network's variables as it reads them.

    Raises:
      InputError: there is no such strategy, or not for this network.
    """
    if strategy == FUSED:
        return fused.ready(model, spec, fold(variables))
    return program(model, spec, strategy, **options), cast(fold(variables), model.dtype)


def on_devices(model: RoutedResNet, spec: DataSpec, variables: Mapping[str, Any], strategy: str | None) -> Forward:
    """The network on all devices: unless told otherwise 'fused' where that is the default, else 'conditional' for one
    image and 'compacted' for more.

    Raises:
      InputError: there is no such strategy, or not for this network.
    """
    if strategy is None and fused.is_default(model):
        strategy = FUSED
    single, weights = ready(model, spec, strategy or 'conditional', variables)
    several = single if strategy else program(model, spec, 'compacted')
    return sharding.on_devices(single, several, weights)
