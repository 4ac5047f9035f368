"""CIFAR ResNets as a config names them, for the kernels that compute them whole."""

from typing import Any, NamedTuple

from codinet_jax.config import setup
from codinet_jax.data.spec import DataSpec
from codinet_jax.models.network import RoutedResNet
from configs import cifar10_r20


class Network(NamedTuple):
    model: RoutedResNet
    spec: DataSpec


def network_of(depth: int, router: str | None = 'linear', config: Any = cifar10_r20, **changes: Any) -> Network:
    changed = config.get_config()
    changed.update_from_flattened_dict({'model.depth': depth} | changes)
    named = setup.read(changed)
    return Network(named.model.clone(router=router), named.data.spec)
