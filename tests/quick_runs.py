"""Training in less time, in this process and in commands that are forks of one.

Steps are compiled with little care: nets as small as those of tests train as fast, and compile in two fifths of the
time. So is what draws fresh weights. What evaluates runs four times as long if it is compiled so, and keeps its level.
Cost is matched on few images.

A maximum is not to be differentiated so: computed twice, before and after other operations are fused with it, it is no
longer equal to any of what it is the maximum of, and its gradient is 0 / 0.
"""

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax

from codinet_jax.models import network
from codinet_jax.runtime import sharding
from codinet_jax.training import cost_matching, loop, stages

OPTIONS: dict[str, Any] = {'xla_backend_optimization_level': 0}
_spread = sharding.spread
quick_jit = functools.partial(jax.jit, compiler_options=OPTIONS)


def begin() -> None:
    """From now on, of every training loop of this process."""
    loop.compiled = compiled
    cost_matching.NUM_IMAGES = 256
    network.DRAWING_ON_CPU |= OPTIONS


def end() -> None:
    """Steps are compiled with care again."""
    loop.compiled = stages.compiled


def spread(forward: Callable[..., Any], mesh: jax.sharding.Mesh) -> Any:
    """`sharding.spread` otherwise, for predictors that are asked once or twice."""
    with mock.patch.object(jax, 'jit', quick_jit):
        return _spread(forward, mesh)


def compiled(step: stages.Step, mesh: jax.sharding.Mesh) -> Any:
    """`stages.compiled` otherwise."""
    with mock.patch.object(jax, 'jit', quick_jit):
        return stages.compiled(step, mesh)
