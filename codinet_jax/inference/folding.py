"""Batch norm folded into the convolutions: half the arrays to read, no norm to compute, the same wiring."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from codinet_jax.models.network import EPSILON
from codinet_jax.models.routers import is_router
from codinet_jax.runtime.errors import InputError


def fold(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a network's `folded` twin, which then computes the same but for rounding.

    A convolution w and the norm after it, of scale s, bias b, mean m and variance q, become the convolution s w / r
    with bias b - s m / r, where r = sqrt(q + EPSILON). A norm `X/normI` follows the convolution `X/convI`.

    Raises:
      InputError: a norm with statistics follows none, as in a router of one's own.
    """
    params = traverse_util.flatten_dict(variables['params'])
    statistics = traverse_util.flatten_dict(variables['batch_stats'])
    folded = {path: np.asarray(value) for path, value in params.items() if (*path[:-1], 'mean') not in statistics}
    for *parents, norm, leaf in statistics:
        if leaf != 'mean':
            continue
        # In float64, so that folding itself rounds once.
        scale, bias = (np.asarray(params[(*parents, norm, name)], np.float64) for name in ('scale', 'bias'))
        mean, var = (np.asarray(statistics[(*parents, norm, name)], np.float64) for name in ('mean', 'var'))
        gain = scale / np.sqrt(var + EPSILON)
        conv = (*parents, norm.replace('norm', 'conv'))
        if (*conv, 'kernel') not in params:
            raise InputError(
                f'Batch norm {"/".join((*parents, norm))} cannot be folded: call it norm1, and the convolution that it '
                'follows conv1.'
            )
        kernel = np.asarray(params[(*conv, 'kernel')])
        folded[(*conv, 'kernel')] = (kernel * gain[..., None, None, None, :]).astype(kernel.dtype)
        folded[(*conv, 'bias')] = (bias - mean * gain).astype(kernel.dtype)
    return {'params': traverse_util.unflatten_dict(folded)}


def cast(folded: Mapping[str, Any], dtype: Any) -> Any:
    """Folded variables with convolutions in the type they are computed in, so that no block casts its own every time.

    Routers and the head stay in float32, as the network computes them.
    """

    def of_leaf(path: tuple[Any, ...], leaf: Any) -> Any:
        names = [key.key for key in path]
        return leaf if is_router(names) or 'head' in names else leaf.astype(dtype)

    return jax.tree_util.tree_map_with_path(of_leaf, folded)
