"""A trained shallow network that goes on, where it is unsure, with the later blocks of a trained deep one.

What a network is that resumes is told in `models.resuming`, and how one is begun in `models.joining`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.models import execution, joining
from codinet_jax.models.architecture import Architecture, resumed
from codinet_jax.models.network import RoutedResNet
from experiments.real_accuracy import gates, images, networks, training

UNSURE = 0.1  # an image goes on, unless told otherwise, whose likeliest class has less than 90 %
AT_ONCE = 50  # images


def network(shallow: Architecture, deep: Architecture) -> RoutedResNet:
    """The two as one, which `begin` gives variables."""
    return RoutedResNet(resumed(shallow, deep), 'resuming')


def begin(shallow: networks.Start, deep: networks.Start, some: images.Images) -> Any:
    """Variables of `network`, joined by least squares over the pixels of some images."""
    rows = range(0, len(some.labels_N), AT_ONCE)
    batches = [images.normalise(jnp.asarray(some.images_NxHxWxC[i : i + AT_ONCE])) for i in rows]
    architecture = network(shallow.architecture, deep.architecture).architecture
    variables = joining.joined(architecture, shallow.variables, deep.variables, batches)
    variables['params']['router_start'] = {'bias': np.float32(np.log(1 / UNSURE - 1))}
    return variables


def answer(model: RoutedResNet) -> training.Answer:
    """Both answers to every view, first those of the shallow network, as what trains them asks them."""
    model = model.clone(
        dtype=networks.train_dtype(), unroll=model.architecture.num_blocks, convolution=networks.convolution()
    )

    def answered(
        params: Any, batch_stats: Any, views: jax.Array, knobs: gates.Knobs, key: jax.Array
    ) -> training.Answered:
        del knobs, key
        variables = {'params': params, 'batch_stats': batch_stats}
        output: Any
        output, mutated = model.apply(variables, views, execution.all_run(), train=True, mutable=['batch_stats'])
        heads_BxY = jnp.concatenate(output.of_stages)
        return training.Answered(heads_BxY, mutated['batch_stats'], jnp.zeros(()), jnp.ones(()))

    return answered
