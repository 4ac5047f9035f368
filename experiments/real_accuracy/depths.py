"""One set of convolutions, two depths: a shallow network made of the first blocks of each stage of a deep one.

Norms and head are each network's own, as in slimmable networks (arXiv 1812.08928), for the same convolution sees other
statistics where fewer blocks came before it; everything else is shared. An image's first view trains the deep network
and its second the shallow one, so that a step costs what the two cost, not twice the deep one. Together they are a
cascade: the shallow one answers, and of what it is not sure of, the deep one.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from codinet_jax.models import execution
from codinet_jax.models.architecture import cifar_resnet
from codinet_jax.models.network import RoutedResNet
from experiments.real_accuracy import gates, networks, training

Path = tuple[str, ...]


def shallow(deep: networks.Start, depth: int) -> networks.Start:
    """The CIFAR ResNet of this depth that lies in the deep one: the first blocks of each stage, and its norms there."""
    architecture = cifar_resnet(depth)
    blocks = {f'stage{i}_blocks': stage.repeats for i, stage in enumerate(architecture.stages, start=1)}
    taken = {
        path: leaf[: blocks[path[1]]] if path[1] in blocks else leaf
        for path, leaf in traverse_util.flatten_dict(deep.variables).items()
        if blocks.get(path[1], 1)
    }
    return networks.Start(f'{deep.name}_first{depth}', architecture, traverse_util.unflatten_dict(taken))


def begin(deep: networks.Start, depth: int) -> Any:
    """Variables of both: the deep one's, and under `own` what the shallow one does not share with it."""
    own = traverse_util.flatten_dict(shallow(deep, depth).variables['params'])
    own = {path: leaf for path, leaf in own.items() if is_own(path)}
    return {
        'params': {'deep': deep.variables['params'], 'own': traverse_util.unflatten_dict(own)},
        'batch_stats': {
            'deep': deep.variables['batch_stats'],
            'own': shallow(deep, depth).variables['batch_stats'],
        },
    }


def both(variables: Any, deep: networks.Start, depth: int) -> tuple[networks.Start, networks.Start]:
    """The shallow and the deep network of `begin`'s variables, each whole."""
    params, batch_stats = variables['params'], variables['batch_stats']
    of_deep = deep._replace(variables={'params': params['deep'], 'batch_stats': batch_stats['deep']})
    of_shallow = shallow(of_deep, depth)
    flat = traverse_util.flatten_dict(of_shallow.variables['params']) | traverse_util.flatten_dict(params['own'])
    return of_shallow._replace(
        variables={'params': traverse_util.unflatten_dict(flat), 'batch_stats': batch_stats['own']}
    ), of_deep


def is_own(path: Path) -> bool:
    """Whether a parameter is a norm's or the head's, by its path."""
    return any('norm' in name or name == 'head' for name in path)


def answer(deep: networks.Start, depth: int) -> training.Answer:
    """Both networks, as what trains them asks them: an image's first view goes to the deep one, its second not."""
    convolution = networks.convolution()

    def applied(network: networks.Start, views: jax.Array) -> tuple[jax.Array, Any]:
        model = RoutedResNet(network.architecture, None, networks.train_dtype(), convolution=convolution)
        model = model.clone(unroll=network.architecture.num_blocks)
        output: Any
        output, mutated = model.apply(network.variables, views, execution.masked(), train=True, mutable=['batch_stats'])
        return output.logits_BxY, mutated['batch_stats']

    def answered(
        params: Any, batch_stats: Any, views: jax.Array, knobs: gates.Knobs, key: jax.Array
    ) -> training.Answered:
        del knobs, key
        views_LxMxHxWxC = views.reshape(-1, 2, *views.shape[1:])
        of_shallow, of_deep = both({'params': params, 'batch_stats': batch_stats}, deep, depth)
        deep_LxY, deep_stats = applied(of_deep, views_LxMxHxWxC[:, 0])
        own_LxY, own_stats = applied(of_shallow, views_LxMxHxWxC[:, 1])
        logits_BxY = jnp.stack([deep_LxY, own_LxY], axis=1).reshape(-1, deep_LxY.shape[-1])
        share = of_shallow.architecture.num_blocks / of_deep.architecture.num_blocks
        stats = {'deep': deep_stats, 'own': own_stats}
        return training.Answered(logits_BxY, stats, jnp.zeros(()), jnp.float32((1 + share) / 2))

    return answered
