"""A cascade evaluated as a routed network is: which networks each image was sent to is its route."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from codinet_jax.config.setup import Setup
from codinet_jax.data.augmentations import AUGMENTATIONS
from codinet_jax.data.split import Split
from codinet_jax.data.thumbnails import thumbnails
from codinet_jax.evaluation.record import (
    AugmentedRecord,
    Record,
    ShuffledRecord,
    write_routes,
    write_shuffled,
    write_thumbnails,
)
from codinet_jax.evaluation.statistics import summarise
from codinet_jax.inference.cascade import Member, network_spec, steps
from codinet_jax.inference.cascade_answers import Said, asking, decided
from codinet_jax.models.cost import CostTable
from codinet_jax.runtime import provenance
from codinet_jax.runtime.hosts import Host
from codinet_jax.workdir import Workdir

Asked = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Recorded(NamedTuple):
    """What `evaluate` records; a block for every step but the first."""

    record: Record
    augmented: AugmentedRecord
    shuffled: ShuffledRecord


def costs(members: Sequence[Member]) -> CostTable:
    """A cascade's: every image pays the first step, as it would a stem; the static network is the last alone."""
    spec = network_spec(members)
    nothing_n = (0,) * len(spec.blocks_macs)
    return CostTable(spec.fixed_macs, spec.blocks_macs, nothing_n, nothing_n, head=0, alone=spec.static_macs)


def evaluate(members: Sequence[Member], split: Split, threshold: float, batch_size: int) -> Recorded:
    """Takes every step with every image and with its augmentations once, and decides as the cascade does.

    Shuffled routes need no more: what is answered after each step is known, so the shares are those of all shuffles.
    """
    ask = asking(members)
    views = {'plain': lambda images_BxHxWxC, positions_B: images_BxHxWxC} | {
        name: jax.jit(function) for name, function in AUGMENTATIONS.items()
    }
    parts: list[list[Any]] = []
    for images_BxHxWxC, labels_B, positions_B in split.evaluation_batches(batch_size, Host()):
        is_real_B = positions_B >= 0
        columns = _of_batch(ask, views, images_BxHxWxC, positions_B, threshold)
        parts.append([labels_B[is_real_B], *(column[..., is_real_B, :] for column in columns)])
    labels, *found = zip(*parts, strict=True)
    labels_N = np.concatenate(labels)
    v_VxNxn, asked_VxNxn, answers_VxNxK, divergences_VxN = (np.concatenate(each, axis=-2) for each in found)
    predictions_VxN = np.take_along_axis(answers_VxNxK, _last_VxNx1(asked_VxNxn), -1)[..., 0]
    record = Record(labels_N, predictions_VxN[0], v_VxNxn[0], asked_VxNxn[0])
    augmented = AugmentedRecord(
        np.array(list(AUGMENTATIONS)), predictions_VxN[1:], v_VxNxn[1:], asked_VxNxn[1:], divergences_VxN[1:, :, 0]
    )
    return Recorded(record, augmented, _shuffled(record, answers_VxNxK[0]))


def write(
    workdir: Workdir, members: Sequence[Member], last: Setup, split: Split, threshold: float, batch_size: int
) -> None:
    """Keeps `evaluate` of a test split in a workdir as a run's evaluation; `last` is the setup of the last member.

    It holds no weights: what it is for is to be analysed, and compared with runs.
    """
    table, found = costs(members), evaluate(members, split, threshold, batch_size)
    networks = [f'ResNet-{step.name.rpartition("-")[2]}' for step in steps(members)]
    num_params = sum(leaf.size for member in members for leaf in jax.tree.leaves(member.variables['params']))
    results = summarise(found.record, table) | provenance.machine()
    results |= {'split': 'test', 'threshold': threshold, 'seed': last.recipe.seed, 'num_params': num_params}
    results |= {'num_steps': 0, 'seconds_train': 0.0, 'images_per_second': 0.0}
    workdir.write_config(last.record)
    write_routes(workdir, 'test', found.record, found.augmented)
    write_shuffled(workdir, 'test', found.shuffled)
    write_thumbnails(workdir, 'test', thumbnails(split))
    workdir.write_results(results | {'cascade': {'networks': networks, 'costs': list(table)}})


def _of_batch(
    ask: Callable[[np.ndarray], Said],
    views: Mapping[str, Callable[..., Any]],
    images_BxHxWxC: np.ndarray,
    positions_B: np.ndarray,
    threshold: float,
) -> Asked:
    """Of each view how unsure, who goes on, the class after each step, and the divergence from the plain view's."""
    columns = []
    plain_BxY = None
    for view in views.values():
        seen = np.asarray(view(images_BxHxWxC, positions_B))
        _, probabilities_KxBxY, unsure_KxB = ask(seen)
        v_Bxn, asked_Bxn = decided(unsure_KxB, threshold)
        last_1xBx1 = np.sum(asked_Bxn, axis=-1)[None, :, None]
        answer_BxY = np.take_along_axis(probabilities_KxBxY, last_1xBx1, 0)[0].astype(np.float64)
        plain_BxY = answer_BxY if plain_BxY is None else plain_BxY
        columns.append((v_Bxn, asked_Bxn, probabilities_KxBxY.argmax(-1).T, _divergence_B(plain_BxY, answer_BxY)))
    v, asked, answers, divergences = (np.stack(column) for column in zip(*columns, strict=True))
    return v, asked, answers, divergences[..., None]


def _divergence_B(p_BxY: np.ndarray, q_BxY: np.ndarray) -> np.ndarray:
    """KL(p || q) in nats."""
    smallest = np.finfo(np.float32).tiny
    logs_BxY = np.log(np.maximum(p_BxY, smallest)) - np.log(np.maximum(q_BxY, smallest))
    return np.maximum(np.sum(p_BxY * logs_BxY, axis=-1), 0.0)


def _last_VxNx1(asked_VxNxn: np.ndarray) -> np.ndarray:
    """Whose answer it is: the last that is asked."""
    return np.sum(asked_VxNxn, axis=-1, keepdims=True)


def _shuffled(record: Record, answers_NxK: np.ndarray) -> ShuffledRecord:
    right_NxK = answers_NxK == record.labels_N[:, None]
    last_N, num_networks = np.sum(record.decisions_Nxn, axis=-1), answers_NxK.shape[1]

    def shares_K(rows: Any) -> np.ndarray:
        return np.bincount(last_N[rows], minlength=num_networks) / len(last_N[rows])

    within_N = np.zeros(len(last_N))
    for label in np.unique(record.labels_N):
        rows = np.flatnonzero(record.labels_N == label)
        within_N[rows] = right_NxK[rows] @ shares_K(rows)
    return ShuffledRecord(record.predictions_N, right_NxK @ shares_K(slice(None)), within_N)
