"""A trained network pruned to a cost: the same blocks left out for all images, before it is trained on to heal."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.config.setup import Setup
from codinet_jax.data import augment
from codinet_jax.models import execution, pretrained, weights_file
from codinet_jax.models.network import drawn
from experiments.real_accuracy import allocation, gates, ordering

SURE = 30.0  # a logit margin that leaves nothing open
NUM_IMAGES = 512  # that the order of blocks is found on


def write(start: pathlib.Path, setup: Setup, target_cost: float, output: pathlib.Path) -> None:
    """Writes the start's weights with gates that are fixed: blocks are left out, least harm first, down to the cost.

    Args:
      start: weights of the static network.
      setup: of the network with gates that look at no image.
      target_cost: a share of the static network's MACs; the nearest that so many blocks can cost is taken.
      output: the file.
    """
    model, imported = setup.model, weights_file.read(start)
    variables = pretrained.into(drawn(model, 0), imported, str(start))
    split = setup.data.open('train').sample(NUM_IMAGES, 0)
    images_BxHxWxC = augment.normalise(jnp.asarray(split.images_NxHxWxC), *setup.data.spec.normalisation)

    @jax.jit
    def log_probabilities(route_n: jax.Array) -> jax.Array:
        noise_Bxnx2 = jnp.broadcast_to(execution.dictated(route_n)[None], (len(images_BxHxWxC), len(route_n), 2))
        hard = execution.with_noise(execution.masked())
        output: Any = model.apply(variables, images_BxHxWxC, hard, noise_Bxnx2, train=True, mutable=['batch_stats'])[0]
        return jax.nn.log_softmax(output.logits_BxY)

    costs, is_free_n = model.costs, allocation.free_n(model.architecture)
    target_macs = target_cost * costs.static_macs
    order = ordering.greedy(log_probabilities, is_free_n, lambda route_n: costs.mean_macs(route_n) <= target_macs)
    place_n = np.where(is_free_n, 0.0, np.nan)
    place_n[order['order']] = np.linspace(1, 0, len(order['order']), endpoint=False)
    margins_n = np.where(allocation.pruned(place_n, costs, target_macs) > 0, SURE, -SURE)
    fixed = gates.edited(variables, ('logits',), [np.array([0.0, margin], np.float32) for margin in margins_n])
    weights_file.write(output, fixed, weights_file.read_input(start), model.architecture.stride_on)
