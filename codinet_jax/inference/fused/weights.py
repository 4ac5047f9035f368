"""Where a network's stages have the weights of their blocks."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from codinet_jax.models.architecture import Architecture


def flat(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """All parameters by their paths, 'head/kernel' for one."""
    return {path: np.asarray(leaf) for path, leaf in traverse_util.flatten_dict(params, sep='/').items()}


def under(params: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Those of a module, by their paths in it."""
    return {path.removeprefix(f'{name}/'): leaf for path, leaf in params.items() if path.startswith(f'{name}/')}


def of_stage(arch: Architecture, i: int, params: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Every block's own parameters, of stage i from 1, in the order in which blocks run."""
    stage = arch.stages[i - 1]
    if stage.transition:
        yield under(params, f'stage{i}_transition')
    stacked = under(params, f'stage{i}_blocks')
    if odd := {len(leaf) for leaf in stacked.values()} - {stage.repeats}:
        raise ValueError(f'the weights of stage {i} are of {odd} equal blocks, and there are {stage.repeats}')
    for k in range(stage.repeats):
        yield {path: leaf[k] for path, leaf in stacked.items()}
