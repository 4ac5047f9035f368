"""Cascades: every image goes through the first of some networks, and those that it is unsure of through the next too.

The answer is the mean of the probabilities of those that were asked, as in "Wisdom of Committees" (arXiv 2012.01988),
for what the cheaper ones found costs nothing more.

To whoever uses it a cascade is a routed network with a gated block for every network but the first: v is how unsure the
answer so far is, 1 less the largest probability, and the next one runs where v reaches the threshold. So it has a
dial, is calibrated, exported, timed and served as any network is, and a batch's unsure rows alone reach the next one.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from codinet_jax.config import setup
from codinet_jax.data.spec import DataSpec
from codinet_jax.data.split import Split
from codinet_jax.inference import exported, fused, load
from codinet_jax.inference.folding import cast, fold
from codinet_jax.inference.operating_points import OperatingPoints, Point
from codinet_jax.inference.predictor import NetworkSpec, Predictor, Program
from codinet_jax.inference.program import FUSED, STRATEGIES, program, ready
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.hosts import Host
from codinet_jax.workdir import Workdir

UNSURE = 0.1  # a threshold to begin with: the next network is asked where the likeliest class has less than 90 %


class Member(NamedTuple):
    """A static network of a cascade: the network, the images it takes, and its variables."""

    model: RoutedResNet
    data_spec: DataSpec
    variables: Mapping[str, Any]


def from_networks(
    members: Sequence[Member],
    *,
    threshold: float = UNSURE,
    about: Mapping[str, Any] | None = None,
    operating_points: OperatingPoints | None = None,
) -> Predictor:
    """A cascade of static networks, cheapest first, on all devices; it can be exported.

    Args:
      members: two or more, of the same images and classes.
      threshold: how unsure of an image a network is, 1 less its largest probability, for the next one to be asked.
      about: the networks' settings, for the reader of what is exported.
      operating_points: what calibration found of it.

    Raises:
      InputError: they cannot be one cascade.
    """
    spec, known = network_spec(members), operating_points or OperatingPoints()
    networks, weights = zip(
        *(
            ready(
                member.model, member.data_spec, FUSED if fused.is_default(member.model) else 'masked', member.variables
            )
            for member in members
        ),
        strict=True,
    )
    forward = sharding.on_devices(_forward(networks, 'conditional'), _forward(networks, 'compacted'), weights)
    names = [member.model.architecture.name for member in members]

    def write(directory: str | os.PathLike[str], threshold: float) -> None:
        by_xla = [program(member.model, member.data_spec, 'masked') for member in members]
        compacted = _forward(by_xla, 'compacted')
        numbered = {str(k): fold(member.variables) for k, member in enumerate(members)}

        def of_flat(flat: Mapping[str, jax.Array], *inputs: Any) -> Any:
            tree = traverse_util.unflatten_dict(flat, sep='/')
            return compacted(tuple(cast(tree[str(k)], member.model.dtype) for k, member in enumerate(members)), *inputs)

        means, stds = zip(*(member.data_spec.normalisation for member in members), strict=True)
        exported.write(
            directory,
            of_flat,
            traverse_util.flatten_dict(numbered, sep='/'),
            spec,
            threshold,
            preprocessing={'normalisation': '(pixels / 255 - mean) / std, by network', 'mean': means, 'std': stds},
            network=about or {'name': ' > '.join(names)},
            operating_points=known,
        )

    return Predictor(spec, forward, float(threshold), write, known)


def read_members(paths: Sequence[str | os.PathLike[str]]) -> list[Member]:
    """The networks of finished runs.

    Raises:
      InputError: there is no finished run in one of the workdirs.
    """
    members = []
    for workdir in map(Workdir, paths):
        found = setup.read(workdir.read_config())
        members.append(Member(found.model, found.data.spec, workdir.read_weights()))
    return members


class Answers(NamedTuple):
    """What is said of N images after one network, after two, and so on: class, and how unsure; what each network says
    alone; and the true classes."""

    predictions_KxN: np.ndarray
    unsure_KxN: np.ndarray
    alone_KxN: np.ndarray
    labels_N: np.ndarray


def means(probabilities_KxBxY: np.ndarray) -> np.ndarray:
    """The answers [K, B, Y] of the first network alone, of the first two, and so on to all: means of probabilities."""
    found = [probabilities_KxBxY[0]]
    for k, probabilities_BxY in enumerate(probabilities_KxBxY[1:], start=1):
        found.append(_joined(found[-1], probabilities_BxY, k))
    return np.stack(found)


def _joined(mean_BxY: Any, probabilities_BxY: Any, num_before: int) -> Any:
    """The mean of one more than those that `mean_BxY` is the mean of."""
    before = np.float32(num_before)
    return (before * mean_BxY + probabilities_BxY) / (before + np.float32(1))


def answers(members: Sequence[Member], split: Split, batch_size: int) -> Answers:
    """The answers of the first networks, of every number of them, from which any threshold's follow."""
    networks = [load.from_network(*member) for member in members]
    predictions, unsure, alone, labels = [], [], [], []
    for images_BxHxWxC, labels_B, positions_B in split.evaluation_batches(batch_size, Host()):
        is_real_B = positions_B >= 0
        alone_KxBxY = np.stack([network(images_BxHxWxC).probabilities_BxY for network in networks])
        means_KxBxY = means(alone_KxBxY)
        alone.append(alone_KxBxY.argmax(axis=-1)[:, is_real_B])
        predictions.append(means_KxBxY.argmax(axis=-1)[:, is_real_B])
        # In float32, as the program decides: of an answer as sure as can be nothing is left.
        unsure.append(np.float32(1) - means_KxBxY.max(axis=-1)[:, is_real_B].astype(np.float32))
        labels.append(labels_B[is_real_B])
    predictions_KxN, unsure_KxN, alone_KxN = (np.concatenate(each, axis=1) for each in (predictions, unsure, alone))
    return Answers(predictions_KxN, unsure_KxN, alone_KxN, np.concatenate(labels))


def decided(unsure_KxB: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Before each network but the first how unsure the answer is, and whether the network is asked: [B, K - 1] of both.

    `unsure_KxB` is of the answers of the first network, of the first two, and so on, float32.
    """
    v, asked = [unsure_KxB[0]], [unsure_KxB[0] >= np.float32(threshold)]
    for unsure_B in unsure_KxB[1:-1]:
        # An image that is not asked of keeps its answer, and is as sure of it as before.
        v.append(np.where(asked[-1], unsure_B, v[-1]))
        asked.append(asked[-1] & (v[-1] >= np.float32(threshold)))
    return np.stack(v, axis=-1), np.stack(asked, axis=-1)


def point(found: Answers, spec: NetworkSpec, threshold: float) -> Point:
    """What a threshold makes of the cascade; K counts the networks asked beside the first."""
    _, asked_Nxn = decided(found.unsure_KxN, threshold)
    predictions_N = np.take_along_axis(found.predictions_KxN, asked_Nxn.sum(axis=-1)[None], 0)[0]
    macs = spec.fixed_macs + float(asked_Nxn.mean(axis=0) @ np.asarray(spec.blocks_macs))
    top1 = float(np.mean(predictions_N == found.labels_N))
    return Point(threshold, macs / spec.static_macs, top1, float(asked_Nxn.sum(axis=-1).mean()))


def network_spec(members: Sequence[Member]) -> NetworkSpec:
    """What is to be known of a cascade; its cost is a share of the last network's, alone.

    Raises:
      InputError: its networks are fewer than two, routed, of other images or classes, or not from cheap to expensive.
    """
    if len(members) < 2:
        raise InputError('A cascade is of two networks or more, cheapest first: name another.')
    first, last = members[0], members[-1]
    for member in members:
        name, arch = member.model.architecture.name, member.model.architecture
        if member.model.router is not None:
            raise InputError(f'{name} is routed, and a cascade is of static networks: train it with method=static.')
        if _takes(member) != _takes(first):
            raise InputError(f'{name} is not of the images and classes of {first.model.architecture.name}.')
    macs = [member.model.costs.static_macs for member in members]
    for k, (before, after) in enumerate(itertools.pairwise(macs), start=2):
        if before >= after:
            raise InputError(
                f'Network {k} of the cascade costs {after / 1e6:.2f} MMACs, and the one before it {before / 1e6:.2f}: '
                'give the cheaper ones first.'
            )
    arch = last.model.architecture
    return NetworkSpec(
        classes=first.data_spec.class_names,
        image_size=arch.image_size,
        num_channels=arch.image_channels,
        center_crop=first.data_spec.center_crop,
        blocks_per_stage=(len(members) - 1,),
        blocks_macs=tuple(macs[1:]),
        fixed_macs=macs[0],
        static_macs=macs[-1],
    )


def _takes(member: Member) -> tuple[Any, ...]:
    """What all networks of a cascade must have in common."""
    arch, spec = member.model.architecture, member.data_spec
    return arch.image_size, arch.image_channels, spec.class_names, spec.center_crop


def _forward(networks: Sequence[Program], strategy: str) -> Program:
    """The pure function of a cascade: of each network's weights, uint8 images and a threshold."""
    first, *others = networks

    def forward(weights: Sequence[Any], images_BxHxWxC: jax.Array, threshold: jax.Array) -> tuple[jax.Array, jax.Array]:
        execution = STRATEGIES[strategy](threshold)
        mean_BxY = jax.nn.softmax(first(weights[0], images_BxHxWxC, threshold)[0])
        unsure = []
        for k, (network, variables) in enumerate(zip(others, weights[1:], strict=True), start=1):
            # Of an image that the network before was not asked of, the answer is the same, and so is how unsure it is:
            # whoever is asked here was asked of by all before.
            unsure.append(1 - jnp.max(mean_BxY, axis=-1))

            def ask(
                images: jax.Array, mean: jax.Array, network: Program = network, variables: Any = variables, k: int = k
            ) -> jax.Array:
                return _joined(mean, jax.nn.softmax(network(variables, images, threshold)[0]), k)

            mean_BxY = execution.combine(ask, lambda _, mean: mean, (images_BxHxWxC, mean_BxY), unsure[-1])
        # Logits to whoever takes the softmax: what has no probability has the smallest there is.
        return jnp.log(jnp.maximum(mean_BxY, np.finfo(np.float32).tiny)), jnp.stack(unsure, axis=-1)

    return forward
