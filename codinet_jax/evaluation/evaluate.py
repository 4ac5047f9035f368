"""Exact evaluation, and the record of every route taken: each image counted once, whatever batch and devices are."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from codinet_jax.data import augment
from codinet_jax.data.augmentations import AUGMENTATIONS
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.data.prefetch import prefetch
from codinet_jax.data.spec import DataSpec
from codinet_jax.data.split import Split
from codinet_jax.evaluation.record import AugmentedRecord, Record
from codinet_jax.evaluation.statistics import summarise
from codinet_jax.models import execution
from codinet_jax.models.fitting import fitting
from codinet_jax.models.network import RoutedResNet
from codinet_jax.routing import paths, relaxation
from codinet_jax.runtime import hosts, sharding
from codinet_jax.runtime.waiting import SECONDS_BETWEEN_LINES, waiting

EVALUATING = 'evaluating'


class Answers(NamedTuple):
    """What the network says to a batch: classes, gates v, decisions u, and every class's log probability."""

    predictions_B: jax.Array
    run_probability_Bxn: jax.Array
    decisions_Bxn: jax.Array
    log_probabilities_BxY: jax.Array


Forward = Callable[..., Answers]


def make_forward(
    model: RoutedResNet, spec: DataSpec, mesh: Mesh, threshold: float = 0.5, *, is_sampled: bool = False
) -> Forward:
    """The jitted inference of one batch, from variables, uint8 images, their positions in the split, and a stream.

    Positions and stream, a number, seed the draws where decisions are sampled (4.5.1); else nothing is random.
    """
    rolled, hard = model.clone(unroll=1), execution.masked(threshold)
    n = model.architecture.num_blocks
    if is_sampled:
        hard = execution.with_noise(hard)

    def forward(variables: Any, images_BxHxWxC: jax.Array, positions_B: jax.Array, stream: jax.Array) -> Answers:
        normalised_BxHxWxC = augment.normalise(images_BxHxWxC, *spec.normalisation)
        noise_Bxnx2 = _noise_Bxnx2(positions_B, stream, n) if is_sampled else None
        output: Any = rolled.apply(variables, normalised_BxHxWxC, hard, noise_Bxnx2, train=False)
        v_Bxn, logits_BxY = output.run_probability_Bxn, output.logits_BxY
        return Answers(
            jnp.argmax(logits_BxY, axis=-1),
            relaxation.run_probability(output.router_logits_Bxnx2) if is_sampled else v_Bxn,
            relaxation.hard_decision(v_Bxn, threshold),
            jax.nn.log_softmax(logits_BxY.astype(jnp.float32)),
        )

    everywhere, rows = sharding.replicated(mesh), sharding.by_rows(mesh)
    # The answers are small and every host records them all.
    return jax.jit(forward, in_shardings=(everywhere, rows, rows, everywhere), out_shardings=everywhere)


def _noise_Bxnx2(positions_B: jax.Array, stream: jax.Array, n: int) -> jax.Array:
    """Gumbel noise that is an image's own, whatever batch it is in."""
    key = jax.random.fold_in(jax.random.key(2), stream)
    return jax.vmap(lambda position: jax.random.gumbel(jax.random.fold_in(key, position), (n, 2)))(positions_B)


def _nothing() -> None:
    pass


def evaluate(
    forward: Forward,
    variables: Any,
    split: Split,
    batch_size: int,
    mesh: Mesh,
    before_batch: Callable[[], None] = _nothing,
    what: str = EVALUATING,
) -> Record:
    """Runs every image once; the batch is rounded up to a multiple of the devices, its padding never counted.

    `before_batch` is called before each, and what it raises ends the evaluation; `what` is it called while it lasts.
    """

    def of_batch(images_BxHxWxC: jax.Array, labels_B: jax.Array, positions_B: jax.Array) -> tuple[jax.Array, ...]:
        return (labels_B, *forward(variables, images_BxHxWxC, positions_B, 0)[:3])

    return Record(*of_every_image(of_batch, split, batch_size, mesh, before_batch, what))


def evaluate_augmented(
    forward: Forward,
    variables: Any,
    split: Split,
    batch_size: int,
    mesh: Mesh,
    before_batch: Callable[[], None] = _nothing,
) -> tuple[Record, AugmentedRecord]:
    """Runs every image and its augmentations once, as `evaluate` does the images alone."""
    rows = sharding.by_rows(mesh)
    augmented = {name: jax.jit(function, out_shardings=rows) for name, function in AUGMENTATIONS.items()}
    divergence = jax.jit(paths.divergence_B)

    def of_batch(images_BxHxWxC: jax.Array, labels_B: jax.Array, positions_B: jax.Array) -> tuple[jax.Array, ...]:
        *of_images, plain_BxY = forward(variables, images_BxHxWxC, positions_B, 0)
        answers = [labels_B, *of_images]
        for stream, function in enumerate(augmented.values(), start=1):
            altered_BxHxWxC = function(images_BxHxWxC, positions_B)
            *answer, log_probabilities_BxY = forward(variables, altered_BxHxWxC, positions_B, stream)
            answers += [*answer, divergence(plain_BxY, log_probabilities_BxY)]
        return tuple(answers)

    columns = of_every_image(of_batch, split, batch_size, mesh, before_batch)
    of_images, of_augmentations = columns[:4], columns[4:]
    stacked = (np.stack(of_augmentations[start::4]) for start in range(4))
    return Record(*of_images), AugmentedRecord(np.array(list(augmented)), *stacked)


def of_every_image(
    of_batch: Callable[..., tuple[jax.Array, ...]],
    split: Split,
    batch_size: int,
    mesh: Mesh,
    before_batch: Callable[[], None] = _nothing,
    what: str = EVALUATING,
) -> list[np.ndarray]:
    """The columns that `of_batch` answers to every batch's images, labels and positions, in the split's order."""
    batch_size = -(-batch_size // mesh.size) * mesh.size
    batches = (sharding.put(mesh, *batch) for batch in split.evaluation_batches(batch_size, hosts.this()))
    parts: list[Any] = []
    unread: tuple[jax.Array, ...] | None = None
    with (
        waiting(what, split.num_images, quiet=SECONDS_BETWEEN_LINES) as report,
        contextlib.closing(prefetch(batches)) as ready,
    ):
        for number, (images_BxHxWxC, labels_B, positions_B) in enumerate(ready):
            before_batch()
            answers = of_batch(images_BxHxWxC, labels_B, positions_B)
            # The answers of the batch before are read while the devices work on this one.
            if unread:
                parts.append(jax.device_get(unread))
                report(number * batch_size)
            unread = sharding.to_every_host(mesh)(positions_B, *answers)
    parts += [jax.device_get(unread)] if unread else []
    positions, *columns = map(np.concatenate, zip(*parts, strict=True))
    in_order = np.argsort(positions, kind='stable')[np.sum(positions < 0) :]
    return [column[in_order] for column in columns]


class Evaluation(NamedTuple):
    """All that is kept of a split: what the network did with the images and their augmentations, and the numbers."""

    record: Record
    augmented: AugmentedRecord
    summary: dict[str, Any]


def evaluate_weights(
    model: RoutedResNet,
    spec: DataSpec,
    variables: Any,
    split: Split | tuple[Any, Any],
    *,
    batch_size: int = 500,
    threshold: float = 0.5,
    is_sampled: bool = False,
) -> Evaluation:
    """Evaluates a network with the given variables on a split and its augmentations, on all devices.

    Args:
      model: the network.
      spec: of the images.
      variables: as the network's `apply` takes them.
      split: a data set, as `ImageSet(images_NxHxWxC, labels_N)`, or the two arrays alone.
      batch_size: images at a time, over all devices.
      threshold: a block runs where v reaches it.
      is_sampled: whether it runs with probability v instead; see `Method.samples_in_evaluation`.

    Returns:
      The record of the N images, as its `decisions_Nxn`; that of their augmentations; and numbers by name: accuracies
      and rates as shares, costs in MACs.

    Raises:
      InputError: the network's router does not exist, it or the split is of other images, the variables are another
        network's, or the machine does not let an image be read.
    """
    arch = model.architecture
    spec.check_network(arch.num_classes, arch.image_channels)
    if isinstance(split, tuple):
        split = ImageSet.checked(*split, arch.image_shape, arch.num_classes)
    mesh = sharding.data_mesh()
    forward = make_forward(model, spec, mesh, threshold, is_sampled=is_sampled)
    variables = jax.device_put(variables, sharding.replicated(mesh))
    with fitting(model, variables):
        record, augmented = evaluate_augmented(forward, variables, split, batch_size, mesh)
    return Evaluation(record, augmented, summarise(record, model.costs))
