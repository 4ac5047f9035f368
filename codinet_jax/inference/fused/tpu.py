"""A routed CIFAR ResNet on a TPU: each stage's equal blocks as one Pallas kernel, `kernels.tpu_blocks`.

    weights = jax.device_put(tpu.pack(model, spec, fold(variables)))  # once
    logits_BxY, v_Bxn = jax.jit(tpu.program(model, spec))(weights, images_BxHxWxC, threshold)

It computes what `masked` does, in the network's dtype; sums are float32. XLA has the rest: the stem, the two blocks
that change the shape, both branches of them, and the head. It compiles for TPUs and has never run on one.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from codinet_jax.data import augment
from codinet_jax.data.spec import DataSpec
from codinet_jax.inference.folding import cast
from codinet_jax.inference.predictor import Program
from codinet_jax.kernels import tpu_blocks
from codinet_jax.models import execution
from codinet_jax.models.architecture import Stage
from codinet_jax.models.blocks import ModuleDef, stem
from codinet_jax.models.network import GatedBlock, RoutedResNet, no_norm
from codinet_jax.runtime.errors import InputError


def supports(model: RoutedResNet) -> str | None:
    """None if the kernel computes a network; otherwise a sentence that says why not."""
    arch = model.architecture
    if model.router not in ('linear', None):
        return f"The fused kernel for TPUs has routers 'linear', or none, not {model.router!r}."
    if not all(_is_known(stage) for stage in arch.stages):
        return (
            f'The fused kernel for TPUs computes CIFAR ResNets of 32x32 or 64x64 pixels, not {arch.name} of '
            f'{arch.image_size}x{arch.image_size}.'
        )
    return None


def is_possible(model: RoutedResNet) -> bool:
    return supports(model) is None


def is_default(model: RoutedResNet) -> bool:
    """It is not: whether it should be no measurement has said yet."""
    del model
    return False


def pack(model: RoutedResNet, spec: DataSpec, folded: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of a folded network as `program` reads them.

    Raises:
      InputError: the kernel does not compute this network.
    """
    del spec  # `program` normalises
    _check(model)
    rest, stacks = dict(folded['params']), {}
    for name, stage in _stacks(model).items():
        blocks = rest.pop(name)
        stacks[name] = tpu_blocks.pack(blocks['residual'], blocks.get('router'), stage.block.in_size, model.dtype)
    return {'rest': cast(rest, model.dtype), 'stacks': stacks}


def program(model: RoutedResNet, spec: DataSpec, *, interpret: Any = False) -> Program:
    """The pure function of a network, for TPUs or, with `interpret`, for any device and slowly.

    It takes `pack`'s arrays, uint8 images [B, H, W, C], a threshold and, to dictate decisions, noise [B, n, 2]; it
    returns logits [B, Y] and v [B, n], float32.

    Raises:
      InputError: the kernel does not compute this network.
    """
    _check(model)
    network = _Network(model, interpret)

    def forward(
        packed: Any, images_BxHxWxC: jax.Array, threshold: jax.Array, noise_Bxnx2: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        normalised_BxHxWxC = augment.normalise(images_BxHxWxC, *spec.normalisation)
        answer: Any = network.apply(
            {'params': packed['rest']}, normalised_BxHxWxC, packed['stacks'], threshold, noise_Bxnx2
        )
        return answer

    return forward


class _Network(nn.Module):
    """`RoutedResNet`, folded, but for its stacks of equal blocks, whose weights it is given."""

    model: RoutedResNet
    interpret: Any

    @nn.compact
    def __call__(
        self, images_BxHxWxC: jax.Array, stacks: Any, threshold: jax.Array, noise_Bxnx2: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        model, arch = self.model, self.model.architecture
        conv: ModuleDef = partial(nn.Conv, use_bias=True, dtype=model.dtype)
        gated = partial(
            GatedBlock,
            router=model.router,
            execution=execution.with_noise(execution.masked(threshold)),
            conv=conv,
            norm=no_norm,
            router_norm=no_norm,
        )
        a_BxHxWxC = stem(arch, images_BxHxWxC.astype(model.dtype), conv, no_norm)
        v_BxnS, k = [], 0
        for i, stage in enumerate(arch.stages, start=1):
            if stage.transition:
                noise_Bx2 = None if noise_Bxnx2 is None else noise_Bxnx2[:, k]
                block = gated(stage.transition, first=k, name=f'stage{i}_transition')
                (a_BxHxWxC, _), gate = block((a_BxHxWxC, ()), noise_Bx2, (), None, None)
                v_BxnS.append(jnp.ones((len(a_BxHxWxC), 1)) if gate is None else gate[0][:, None])
                k += 1
            if stage.repeats:
                noise_BxnSx2 = None if noise_Bxnx2 is None else noise_Bxnx2[:, k : k + stage.repeats]
                a_BxHxWxC, v_Bxr = tpu_blocks.run(
                    stacks[f'stage{i}_blocks'],
                    a_BxHxWxC,
                    threshold if model.router else jnp.zeros(()),
                    None if noise_BxnSx2 is None else noise_BxnSx2[..., 1] - noise_BxnSx2[..., 0],
                    interpret=self.interpret,
                )
                v_BxnS.append(v_Bxr)
                k += stage.repeats
        z_BxC = jnp.mean(a_BxHxWxC, axis=(1, 2), dtype=jnp.float32)
        return nn.Dense(arch.num_classes, name='head')(z_BxC), jnp.concatenate(v_BxnS, axis=1)


def _stacks(model: RoutedResNet) -> dict[str, Stage]:
    return {f'stage{i}_blocks': stage for i, stage in enumerate(model.architecture.stages, start=1) if stage.repeats}


def _is_known(stage: Stage) -> bool:
    block = stage.block
    is_basic = [conv.kernel for conv in block.convs] == [3, 3]
    return is_basic and tpu_blocks.supports(block.in_size, block.channels)


def _check(model: RoutedResNet) -> None:
    why_not = supports(model)
    if why_not:
        raise InputError(why_not)
