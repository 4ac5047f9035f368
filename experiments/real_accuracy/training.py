"""Steps of fine-tuning: cross-entropy, distillation and a method's own loss; S of them in one call of the device."""

import json
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import files
from codinet_jax.training.optimizer import label_routers
from experiments.real_accuracy import gates, images

MOMENTUM, WEIGHT_DECAY, ROUTER_DECAY, EMA_DECAY = 0.9, 1e-4, 1e-3, 0.998
LARGEST_GRADIENT = 5.0
DISTILLATION_TEMPERATURE, DISTILLATION_SHARE = 3.0, 0.5


class Data(NamedTuple):
    """The training set on the device: pixels, classes, the pool's draws and its soft targets."""

    images_NxHxWxC: Any
    labels_N: Any
    draws_KxNx5: Any
    soft_KxNxY: Any


class Batches(NamedTuple):
    """Which images S steps see, and which views of the pool."""

    indices_SxL: Any
    variants_SxLxM: Any


class State(NamedTuple):
    """What training carries on; `averages` are the exponential moving averages of the variables."""

    variables: Any
    averages: Any
    momentum: Any
    step: Any


class Answered(NamedTuple):
    """What a network made of a batch: logits [B, Y], or those of several answers one after another, norm statistics, a
    method's own loss, its mean run rate."""

    logits_BxY: jax.Array
    batch_stats: Any
    routing: jax.Array
    run_rate: jax.Array


# Of parameters, norm statistics, normalised views (those of an image side by side), knobs, a key.
Answer = Callable[[Any, Any, jax.Array, gates.Knobs, jax.Array], Answered]
Call = Callable[[State, Data, Batches, gates.Knobs, jax.Array], tuple[State, dict[str, jax.Array]]]


def begin(variables: Any, step: int = 0) -> State:
    variables = jax.tree.map(jnp.array, variables)
    copies = jax.tree.map(jnp.copy, variables)
    return State(variables, copies, jax.tree.map(jnp.zeros_like, variables['params']), jnp.int32(step))


def save(path: pathlib.Path, state: State, settings: Mapping[str, Any]) -> None:
    """Writes what `resume` reads, whole or not at all, and the settings of the run."""
    leaves = jax.tree.leaves(jax.device_get(state))
    files.write(path, lambda file: np.savez(file, *leaves, settings=json.dumps(settings)))


def resume(path: pathlib.Path, state: State) -> State:
    """The saved state, which has the structure of `state`; that one itself if nothing is saved."""
    if not path.exists():
        return state
    with np.load(path) as arrays:
        leaves = [jnp.asarray(arrays[name]) for name in arrays.files if name != 'settings']
    return jax.tree.unflatten(jax.tree.structure(state), leaves)


def batches(num_images: int, batch: int, num_views: int, pool: int, steps: range, seed: int) -> Batches:
    """Every image once an epoch, what is left over dropped; odd views of an image come from the pool's odd half."""
    per_epoch = num_images // batch
    orders: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    rows = []
    for step in steps:
        epoch, place = divmod(step, per_epoch)
        if epoch not in orders:
            rng = np.random.default_rng([seed, epoch])
            variants = 2 * rng.integers(0, pool // 2, (num_images, num_views)) + np.arange(num_views) % 2
            orders = {epoch: (rng.permutation(num_images).astype(np.int32), variants.astype(np.int32))}
        order, variants = orders[epoch]
        chosen = slice(place * batch, (place + 1) * batch)
        rows.append((order[chosen], variants[chosen]))
    indices, variants = zip(*rows, strict=True)
    return Batches(np.stack(indices), np.stack(variants))


def _decayed(path: tuple[Any, ...], gradient: jax.Array, param: jax.Array, label: str) -> jax.Array:
    """With decay of the backbone and of the routers' kernels: biases hold thresholds, and their constants stay."""
    if label == 'backbone':
        return gradient + WEIGHT_DECAY * param
    return gradient + ROUTER_DECAY * param if path[-1].key == 'kernel' else gradient


def routed(model: RoutedResNet, num_views: int) -> Answer:
    """A routed network, as what trains it asks it."""

    def answer(params: Any, batch_stats: Any, views: jax.Array, knobs: gates.Knobs, key: jax.Array) -> Answered:
        noise_Bxnx2 = gates.noise(key, len(views), knobs.rates_n)
        rungs_Bxnx2 = gates.rungs(knobs.rates_n, len(views), num_views)
        output: Any
        output, mutated = model.apply(
            {'params': params, 'batch_stats': batch_stats},
            views,
            gates.execution(knobs),
            jnp.where(knobs.rung > 0, rungs_Bxnx2, noise_Bxnx2),
            train=True,
            mutable=['batch_stats'],
        )
        routing = gates.routing_loss(output, knobs, num_views)
        return Answered(output.logits_BxY, mutated['batch_stats'], routing, jnp.mean(output.run_probability_Bxn))

    return answer


def _loss(
    params: Any,
    batch_stats: Any,
    views: jax.Array,
    labels_B: jax.Array,
    soft_BxY: jax.Array,
    knobs: Any,
    key: Any,
    answer: Answer,
) -> tuple[jax.Array, Any]:
    """Of a batch, by every answer alike; and what came of it: norm statistics, metrics."""
    answered = answer(params, batch_stats, images.normalise(views), knobs, key)
    num_answers = len(answered.logits_BxY) // len(views)
    labels_B, soft_BxY = jnp.tile(labels_B, num_answers), jnp.tile(soft_BxY, (num_answers, 1))
    cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels(answered.logits_BxY, labels_B).mean()
    T = DISTILLATION_TEMPERATURE
    divergence = optax.losses.kl_divergence(
        jax.nn.log_softmax(answered.logits_BxY / T), jax.nn.softmax(soft_BxY / T)
    ).mean()
    total = (1 - DISTILLATION_SHARE) * cross_entropy + DISTILLATION_SHARE * T**2 * divergence + answered.routing
    metrics = {
        'loss': total,
        'cross_entropy': cross_entropy,
        'divergence': divergence,
        'routing': answered.routing,
        'accuracy': jnp.mean(jnp.argmax(answered.logits_BxY, -1) == labels_B),
        'run_rate': answered.run_rate,
    }
    return total, (answered.batch_stats, metrics)


def make_call(answer: Answer, num_views: int, cut: int, num_steps: int) -> Call:
    """The jitted training of `num_steps` steps; the state is given up for the next.

    On a CPU it is one step, unrolled: a convolution's backward pass is slow there inside a loop.
    """

    def step(state: State, data: Data, batch: Batches, knobs: gates.Knobs, key: jax.Array) -> tuple[State, Any]:
        indices_L, variants_LxM = batch
        drawn_LxMx5 = data.draws_KxNx5[variants_LxM, indices_L[:, None]]
        views = images.views(data.images_NxHxWxC[indices_L], drawn_LxMx5, variants_LxM % 2 == 1, cut)
        soft_LxMxY = data.soft_KxNxY[variants_LxM, indices_L[:, None]]
        (_, (batch_stats, metrics)), gradient = jax.value_and_grad(partial(_loss, answer=answer), has_aux=True)(
            state.variables['params'],
            state.variables['batch_stats'],
            views.reshape(-1, *views.shape[2:]),
            jnp.repeat(data.labels_N[indices_L], num_views),
            soft_LxMxY.reshape(-1, soft_LxMxY.shape[-1]).astype(jnp.float32),
            knobs,
            jax.random.fold_in(key, state.step),
        )
        params = state.variables['params']
        labels = label_routers(params)
        rates = {'backbone': knobs.backbone_rate, 'router': knobs.router_rate}
        gradient = jax.tree_util.tree_map_with_path(_decayed, gradient, params, labels)
        metrics['gradient_norm'] = optax.tree.norm(gradient)
        shrink = jnp.minimum(1.0, LARGEST_GRADIENT / jnp.maximum(metrics['gradient_norm'], 1e-9))
        gradient = jax.tree.map(lambda g: shrink * g, gradient)
        momentum = jax.tree.map(lambda m, g: MOMENTUM * m + g, state.momentum, gradient)
        params = jax.tree.map(
            lambda p, m, g, label: p - rates[label] * (MOMENTUM * m + g), params, momentum, gradient, labels
        )
        variables = {'params': params, 'batch_stats': batch_stats}
        decay = jnp.minimum(EMA_DECAY, (1 + state.step) / (10 + state.step))
        averages = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.averages, variables)
        return State(variables, averages, momentum, state.step + 1), metrics

    def call(state: State, data: Data, batches: Batches, knobs: gates.Knobs, key: jax.Array) -> tuple[State, Any]:
        if num_steps == 1:
            batch, knob = jax.tree.map(lambda x: x[0], (batches, knobs))
            return step(state, data, batch, knob, key)
        state, metrics = jax.lax.scan(
            lambda state, each: step(state, data, each[0], each[1], key), state, (batches, knobs)
        )
        return state, jax.tree.map(jnp.mean, metrics)

    return jax.jit(call, donate_argnums=0)
