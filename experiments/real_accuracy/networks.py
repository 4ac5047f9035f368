"""The trained networks, with gates or without."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from codinet_jax.kernels import cpu_convolution
from codinet_jax.models import pretrained, weights_file
from codinet_jax.models.architecture import Architecture, cifar_resnet
from codinet_jax.models.cost import CostTable, cost_table
from codinet_jax.models.network import RoutedResNet, fresh_variables
from codinet_jax.models.routers import ROUTERS, is_router
from experiments.real_accuracy import gates


class Start(NamedTuple):
    """A static network's weights: `name` of the file, its backbone, its variables."""

    name: str
    architecture: Architecture
    variables: Any


def read(path: str) -> Start:
    variables = weights_file.read(path)
    variables = {name: variables[name] for name in ('params', 'batch_stats')}
    repeats = variables['params']['stage1_blocks']['residual']['conv1']['kernel'].shape[0]
    return Start(pathlib.Path(path).stem, cifar_resnet(6 * repeats + 2), variables)


def static(start: Start, dtype: Any) -> RoutedResNet:
    return RoutedResNet(start.architecture, None, dtype)


def gated(start: Start, router: str, seed: int, initial_margin: float = 0.0) -> tuple[RoutedResNet, Any]:
    """A network of the start's weights and fresh routers, in float32, its blocks in a loop.

    Routers are drawn here, for to compile the network's own initialisation takes longer than some runs have.
    """
    gates.register()
    model = RoutedResNet(start.architecture, router)
    shapes = traverse_util.flatten_dict(jax.eval_shape(lambda: fresh_variables(model, 0)))
    rng, fresh = np.random.default_rng(seed), {}
    for path, leaf in sorted(shapes.items()):
        fresh[path] = np.zeros(leaf.shape, np.float32)
        if path[-1] == 'kernel' and is_router(path):
            fresh[path] = (rng.standard_normal(leaf.shape) / np.sqrt(leaf.shape[-2])).astype(np.float32)
        elif path[-1] == 'scale':
            fresh[path] += 1
        elif path[-2:] == ('decide', 'bias'):
            fresh[path][..., 1] = initial_margin
    return model, pretrained.into(traverse_util.unflatten_dict(fresh), start.variables, start.name)


def compact(variables: Any) -> dict[str, Any]:
    """Leaves by path; margins may be larger than float16 reaches, and images lie close to thresholds."""
    flat = traverse_util.flatten_dict(variables)
    return {
        '/'.join(path): np.asarray(leaf, np.float32 if is_router(path) else np.float16) for path, leaf in flat.items()
    }


def costs(start: Start, has_routers: bool) -> CostTable:
    return cost_table(start.architecture, ROUTERS['linear'].macs if has_routers else None)


def convolution() -> Any:
    """What convolves where all is float32: on a CPU our own, where a compiler is here."""
    if jax.default_backend() != 'cpu':
        return None
    return cpu_convolution.by_kernels() if cpu_convolution.is_built() else cpu_convolution.conv_general_dilated


def train_dtype() -> Any:
    return jnp.float32 if jax.default_backend() == 'cpu' else jnp.bfloat16
