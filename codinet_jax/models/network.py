"""The network: stem, stages of gated blocks, head; it returns the logits and every gate."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.models.architecture import Architecture, Block, Stage
from codinet_jax.models.blocks import ModuleDef, Residual, Shortcut, stem
from codinet_jax.models.cost import CostTable, cost_table
from codinet_jax.models.execution import Execution, masked
from codinet_jax.models.norms import GroupedBatchNorm
from codinet_jax.models.router import Stages
from codinet_jax.models.routers import router_kind, shifted
from codinet_jax.runtime import bfloat16
from codinet_jax.runtime.errors import InputError

EPSILON = 1e-5  # of batch norm
# To draw numbers takes no time. Compiling the program that does takes seconds, and a third of that at this level.
DRAWING_ON_CPU: dict[str, Any] = {'xla_backend_optimization_level': 1}
he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class RoutedOutput(NamedTuple):
    """What the network says of B images: class logits, every gate's v, and the router outputs behind it.

    All are float32. Of a router's outputs index 0 is skip and 1 is run, both unnormalised log probabilities. A static
    network has v = 1 everywhere and no router outputs. `of_stages` is what routers kept at the ends of stages, where
    theirs is a kind that does; see `router.Stages`.
    """

    logits_BxY: jax.Array
    run_probability_Bxn: jax.Array
    router_logits_Bxnx2: jax.Array | None
    of_stages: tuple[Any, ...] = ()


class GatedBlock(nn.Module):
    """F, S and, unless the network is static, a router that decides between them (Eq. 2).

    It is block `first` of the network; of a stack, where `k` is its index in that, `first` plus `k`.

    Called with `weights`, the residual's variables, stacked over blocks where `k` is given, the residual is a pure
    function that may be called under any control flow, and reads its weights only if it is. Without them it uses its
    own, as initialisation and training must.
    """

    block: Block
    router: str | None
    execution: Execution
    conv: ModuleDef
    norm: ModuleDef
    router_norm: ModuleDef
    first: int

    @nn.compact
    def __call__(
        self, state: tuple[jax.Array, Any], noise_Bx2: jax.Array | None, shared: Any, weights: Any, k: jax.Array | None
    ) -> tuple[Any, Any]:
        a_BxHxWxC, carry = state
        residual: Any = Residual(self.block, self.conv, self.norm, name='residual')
        shortcut_BxHxWxC = Shortcut(self.block, self.conv, self.norm, name='shortcut')(a_BxHxWxC)

        def run(a: jax.Array, shortcut: jax.Array) -> jax.Array:
            if weights is None:
                return nn.relu(shortcut + residual(a))
            own = (
                weights if k is None else jax.tree.map(lambda w: jax.lax.dynamic_index_in_dim(w, k, 0, False), weights)
            )
            return nn.relu(shortcut + residual.clone(parent=None).apply(own, a))

        def skip(a: jax.Array, shortcut: jax.Array) -> jax.Array:
            return a if self.block.shortcut == 'identity' else nn.relu(shortcut)

        if self.router is None:
            return (run(a_BxHxWxC, shortcut_BxHxWxC), carry), None
        conv = partial(self.conv, dtype=jnp.float32)
        router = router_kind(self.router).router(block=self.block, conv=conv, norm=self.router_norm, name='router')
        # A route must not hang on how an accelerator rounds: routers are small, and their float32 is whole.
        with jax.default_matmul_precision('highest'):
            router_logits_Bx2, carry = router(a_BxHxWxC, carry, shared, self.first + jnp.int32(0 if k is None else k))
        v_B = self.execution.decide(router_logits_Bx2, noise_Bx2)
        a_BxHxWxC = self.execution.combine(run, skip, (a_BxHxWxC, shortcut_BxHxWxC), v_B)
        return (a_BxHxWxC, carry), (v_B, router_logits_Bx2)


class RoutedResNet(nn.Module):
    """A residual network whose blocks are run or skipped image by image; static where `router` is None.

    Attributes:
      architecture: the backbone.
      router: a name in `routers.ROUTERS`, or None.
      dtype: of convolutions and norms; parameters, routers, gates and logits are float32 whatever it is.
      unroll: how many equal blocks of a stack a turn of the compiled loop runs. Their parameters are stacked either
        way; more is faster to train on CPU and slower to compile.
      norm_groups: equal parts of a training batch, each normalised by its own statistics.
      remat: whether training computes a block again in the backward pass and keeps only its input.
      initial_run_rate: how often a router runs its block before training, in (0, 1); None is as its kind has it.
      routers_frozen: whether norms of routers use running averages in training too.
      backbone_frozen: whether all others do.
      convolution: in place of `lax.conv_general_dilated`; None for that.
      folded: whether batch norm is part of the convolutions, whose weights are then `inference.folding`'s.

    Raises:
      InputError: there is no such router; when the network is first used.
    """

    architecture: Architecture
    router: str | None = 'linear'
    dtype: Any = jnp.float32
    unroll: int = 1
    norm_groups: int = 1
    remat: bool = False
    initial_run_rate: float | None = None
    routers_frozen: bool = False
    backbone_frozen: bool = False
    convolution: Callable[..., Any] | None = None
    folded: bool = False

    @property
    def static(self) -> 'RoutedResNet':
        """The same blocks without routers."""
        return self.clone(router=None, architecture=self.architecture.in_order)

    @property
    def always_run_n(self) -> tuple[bool, ...]:
        """The blocks that every image runs, whatever it is; of a static network all.

        Raises:
          InputError: there is no such router.
        """
        if self.router is None:
            return (True,) * self.architecture.num_blocks
        return router_kind(self.router).always_run_n(self.architecture)

    @property
    def costs(self) -> CostTable:
        """The MACs of every part, of one image.

        Raises:
          InputError: there is no such router.
        """
        if self.router is None:
            return cost_table(self.architecture, None)
        kind = router_kind(self.router)
        policy = kind.start_macs(self.architecture) if kind.start_macs else 0
        table = cost_table(self.architecture, kind.macs, first_runs=kind.first_runs, policy=policy)
        if not kind.stages:
            return table
        table = table._replace(routers_n=kind.stages.routers_n(self.architecture))
        if kind.stages.joins_n:
            pairs = zip(table.blocks_n, kind.stages.joins_n(self.architecture), strict=True)
            alone = cost_table(self.architecture.in_order, None).static_macs
            table = table._replace(blocks_n=tuple(block + join for block, join in pairs), alone=alone)
        return table

    @nn.compact
    def __call__(
        self, images_BxHxWxC: jax.Array, execution: Execution, noise_Bxnx2: jax.Array | None = None, *, train: bool
    ) -> RoutedOutput:
        """Classifies images.

        Args:
          images_BxHxWxC: normalised, float32, of the architecture's size and channels.
          execution: how gates are decided and what is computed; see `models.execution`.
          noise_Bxnx2: Gumbel noise for an execution that wants it.
          train: whether norms use the batch's statistics and update their running ones.

        Returns:
          Logits, gates and router outputs.

        Raises:
          InputError: there is no such router, or it is not of this architecture, or this machine computes its type
            wrong.
          ValueError: the execution wants noise and is given none.
        """
        if jnp.dtype(self.dtype) == jnp.bfloat16:
            bfloat16.check()
        conv: ModuleDef = partial(nn.Conv, use_bias=self.folded, dtype=self.dtype, kernel_init=he_normal)
        if self.convolution:
            conv = partial(conv, conv_general_dilated=self.convolution)
        if bool(self.architecture.first_pass) != bool(self.router and router_kind(self.router).resumes):
            raise InputError(
                f'Router {self.router!r} does not go with {self.architecture.name}: what resumes is an architecture of '
                "`architecture.resumed` with the router 'resuming', and neither is without the other."
            )
        gated_block = nn.remat(GatedBlock) if self.remat and train else GatedBlock
        norm = self._norm(train and not self.backbone_frozen, self.dtype)
        router_norm = self._norm(train and not self.routers_frozen, jnp.float32)
        gated: dict[str, Any] = {
            'router': self.router,
            'execution': execution,
            'conv': conv,
            'norm': norm,
            'router_norm': router_norm,
        }

        a_BxHxWxC = stem(self.architecture, images_BxHxWxC.astype(self.dtype), conv, norm)
        carry, shared = self._started(a_BxHxWxC, images_BxHxWxC, conv, router_norm)
        noise_nxBx2 = None if noise_Bxnx2 is None else jnp.swapaxes(noise_Bxnx2, 0, 1)

        state, gates, k = (a_BxHxWxC, carry), [], 0
        stages = router_kind(self.router).stages if self.router else None
        ends, of_stages = [], []
        for i, stage in enumerate(self.architecture.stages, start=1):
            if stages:
                state = (state[0], stages.begin(stage, *state))
            if stage.transition:
                noise_Bx2 = None if noise_nxBx2 is None else noise_nxBx2[k]
                name = f'stage{i}_transition'
                state, gate = gated_block(stage.transition, first=k, name=name, **gated)(
                    state, noise_Bx2, shared, self._residuals(name, train), None
                )
                gates.append(jax.tree.map(lambda x: x[None], gate))
                k += 1
            if stage.repeats:
                noise = None if noise_nxBx2 is None else noise_nxBx2[k : k + stage.repeats]
                name = f'stage{i}_blocks'
                state, gate = self._stack(gated_block, stage)(stage.block, first=k, name=name, **gated)(
                    state, noise, shared, self._residuals(name, train), jnp.arange(stage.repeats)
                )
                gates.append(gate)
                k += stage.repeats
            if stages:
                noise_Bx2 = None if noise_nxBx2 is None or k == len(noise_nxBx2) else noise_nxBx2[k]
                state, kept = self._stage_end(stages, i, state, shared, execution, noise_Bx2)
                ends.append(k - 1)
                of_stages += [] if kept is None else [kept]

        z_BxC = jnp.mean(state[0], axis=(1, 2), dtype=jnp.float32)
        logits_BxY = nn.Dense(self.architecture.num_classes, name='head')(z_BxC)
        if self.router is None:
            return RoutedOutput(logits_BxY, jnp.ones((logits_BxY.shape[0], k)), None)
        v_nxB, router_logits_nxBx2 = jax.tree.map(lambda *parts: jnp.concatenate(parts), *gates)
        if stages and stages.answer:
            of_stages.append(logits_BxY)
            logits_BxY = stages.answer(execution, of_stages, v_nxB[np.array(ends)])
        return RoutedOutput(logits_BxY, v_nxB.T, jnp.swapaxes(router_logits_nxBx2, 0, 1), tuple(of_stages))

    def _stage_end(
        self,
        stages: Stages,
        i: int,
        state: tuple[jax.Array, Any],
        shared: Any,
        execution: Execution,
        noise_Bx2: jax.Array | None,
    ) -> tuple[Any, Any]:
        """What a router makes of the end of stage i, counted from 1: the state after it, and what is kept of it; the
        noise is that of the block after it."""

        def combine(run: Any, skip: Any, operands: tuple[jax.Array, ...], router_logits_Bx2: jax.Array) -> jax.Array:
            return execution.combine(run, skip, operands, execution.decide(router_logits_Bx2, noise_Bx2))

        end = stages.end(architecture=self.architecture, stage=i, name=f'stage{i}_end')
        with jax.default_matmul_precision('highest'):
            a_BxHxWxC, carry, kept = end(*state, shared, combine)
        return (a_BxHxWxC.astype(self.dtype), carry), kept

    def _started(self, stem_BxHxWxC: jax.Array, images_BxHxWxC: jax.Array, conv: ModuleDef, norm: ModuleDef) -> Any:
        """What routers start from: the first carry, and what they share."""
        kind = router_kind(self.router) if self.router else None
        if kind is None or kind.start is None:
            return (), ()
        arguments: dict[str, Any] = {}
        if kind.start_macs:
            arguments = {'architecture': self.architecture, 'conv': partial(conv, dtype=jnp.float32), 'norm': norm}
        with jax.default_matmul_precision('highest'):  # as for routers
            return kind.start(name='router_start', **arguments)(stem_BxHxWxC, images_BxHxWxC)

    def _residuals(self, name: str, train: bool) -> Any:
        """The residual variables of a block or a stack of them; None where they are being made or changed."""
        if train or self.is_initializing():
            return None
        return {collection: tree[name]['residual'] for collection, tree in self.variables.items()}

    def _norm(self, train: bool, dtype: Any) -> ModuleDef:
        settings: dict[str, Any] = {'momentum': 0.9, 'epsilon': EPSILON, 'dtype': dtype}
        if self.folded:
            return no_norm
        # Under float32 there is nothing to gain, and a single group stays what it is everywhere else.
        if train and (self.norm_groups > 1 or dtype != jnp.float32):
            return partial(GroupedBatchNorm, groups=self.norm_groups, **settings)
        return partial(nn.BatchNorm, use_running_average=not train, **settings)

    def _stack(self, block: type[nn.Module], stage: Stage) -> ModuleDef:
        """A stage's equal blocks, one after another, parameters stacked along a leading block axis."""
        return nn.scan(
            block,
            variable_axes={'params': 0, 'batch_stats': 0},
            split_rngs={'params': True},
            in_axes=(0, nn.broadcast, nn.broadcast, 0),
            length=stage.repeats,
            unroll=self.unroll,  # more than there are, too: of one block and an unroll of one JAX makes a loop
            # The check traces the body once more, effects and all (google/flax#5540); fresh weights are drawn under it.
            check_constancy_invariants=self.is_initializing(),
        )


def fresh_variables(model: RoutedResNet, seed: int) -> dict[str, Any]:
    """Untrained parameters and batch statistics; a pure function of its arguments, to be jitted."""
    arch = model.architecture
    images_1xHxWxC = jnp.zeros((1, arch.image_size, arch.image_size, arch.image_channels))
    rolled = model.clone(unroll=1)  # the same parameters, in a fraction of the compile time
    variables = dict(rolled.init(jax.random.key(seed), images_1xHxWxC, masked(), train=False))
    if model.router and model.initial_run_rate is not None:
        margin = math.log(model.initial_run_rate / (1 - model.initial_run_rate))
        shift = margin - router_kind(model.router).initial_margin
        if abs(shift) > 1e-9:  # more than the rounding of logarithms
            variables['params'] = shifted(variables['params'], model.router, shift)
    return variables


def drawn(model: RoutedResNet, seed: int) -> dict[str, Any]:
    """`fresh_variables`, by a program of its own: in one with what follows XLA might round otherwise."""
    options = DRAWING_ON_CPU if jax.default_backend() == 'cpu' else {}
    variables: dict[str, Any] = jax.jit(lambda: fresh_variables(model, seed), compiler_options=options)()
    return variables


def no_norm(name: str) -> Callable[[jax.Array], jax.Array]:
    del name
    return lambda x: x
