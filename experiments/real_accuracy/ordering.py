"""In which order blocks can be spared: greedy, least harm first, by how trained networks answer without them."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.runtime import files
from codinet_jax.runtime.waiting import waiting
from experiments.real_accuracy import allocation, gates, images, networks


def places_n(cache: pathlib.Path, start: networks.Start, train: images.Images, num_images: int) -> np.ndarray:
    """0 for the block that is missed most, 1 for the one that is missed least, NaN where a block always runs.

    Harm is the divergence from the answers of the whole network to augmented training images, squares cut out. Norms
    take the batch's statistics, as if estimated anew.
    """
    file = _file(cache, start.name, num_images)
    if not file.exists():
        record = _greedy(start, train, num_images)
        files.write(file, lambda opened: opened.write(files.json_bytes(record)))
    order = read(cache, start.name, num_images)['order']
    place_n = np.full(start.architecture.num_blocks, np.nan)
    place_n[order] = np.linspace(1, 0, len(order))
    return place_n


def read(cache: pathlib.Path, name: str, num_images: int) -> dict[str, Any]:
    """What `places_n` kept: the order, the divergence after each step of it, and that without each block alone."""
    found: dict[str, Any] = json.loads(_file(cache, name, num_images).read_text())
    return found


def _file(cache: pathlib.Path, name: str, num_images: int) -> pathlib.Path:
    return cache / f'order_{name}_{num_images}.json'


def _greedy(start: networks.Start, train: images.Images, num_images: int) -> dict[str, Any]:
    model, variables = networks.gated(start, 'standardised', 0)
    model = model.clone(dtype=networks.train_dtype())
    draws_NxMx5 = images.draws(2, len(train.labels_N))[1:, :num_images].transpose(1, 0, 2)
    views_BxHxWxC = images.views(
        jnp.asarray(train.images_NxHxWxC[:num_images]),
        jnp.asarray(draws_NxMx5),
        jnp.ones((num_images, 1), bool),
        12,
    )[:, 0]

    @jax.jit
    def log_probabilities(variables: Any, views_BxHxWxC: jax.Array, rates_n: jax.Array) -> jax.Array:
        output: Any = model.apply(
            variables,
            images.normalise(views_BxHxWxC),
            gates.execution(gates.Knobs(rates_n)),
            gates.noise(jax.random.key(0), len(views_BxHxWxC), rates_n),
            train=True,
            mutable=['batch_stats'],
        )[0]
        return jax.nn.log_softmax(output.logits_BxY)

    return greedy(
        lambda route_n: log_probabilities(variables, views_BxHxWxC, route_n),
        allocation.free_n(start.architecture),
    )


def greedy(
    log_probabilities: Callable[[np.ndarray], jax.Array],
    is_free_n: np.ndarray,
    is_enough: Callable[[np.ndarray], bool] = lambda route_n: False,
) -> dict[str, Any]:
    """Leaves out one free block after another, each time the one without which answers change least.

    Args:
      log_probabilities: answers [B, Y] on a route [n] of zeros and ones, always to the same images.
      is_free_n: blocks that may be left out.
      is_enough: whether to end at a route.

    Returns:
      `order`, the blocks as they were left out; `divergence`, in nats, from the answers of the whole network after
      each; and `divergence_alone` of each free block, as if it were the only one.
    """

    def answers(routes_Fxn: np.ndarray) -> np.ndarray:
        return np.asarray(jax.device_get([log_probabilities(route_n) for route_n in routes_Fxn]), np.float64)

    left = [int(k) for k in np.flatnonzero(is_free_n)]
    route_n = np.ones(len(is_free_n), np.float32)
    whole_BxY = answers(route_n[None])[0]
    order: list[int] = []
    harm: list[float] = []
    alone: dict[int, float] = {}
    with waiting('ordering blocks', len(left), 'blocks') as report:
        while left and not is_enough(route_n):
            routes_Fxn = np.repeat(route_n[None], len(left), axis=0)
            routes_Fxn[np.arange(len(left)), left] = 0
            found = np.mean(np.sum(np.exp(whole_BxY) * (whole_BxY - answers(routes_Fxn)), axis=-1), axis=-1)
            alone = alone or {k: float(h) for k, h in zip(left, found, strict=True)}
            best = int(np.argmin(found))
            order.append(left.pop(best))
            harm.append(float(found[best]))
            route_n[order[-1]] = 0
            report(len(order))
    return {'order': order, 'divergence': harm, 'divergence_alone': alone}
