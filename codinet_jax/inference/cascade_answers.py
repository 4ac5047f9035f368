"""What a cascade answers at any threshold, from every step taken with every image once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from codinet_jax.data.split import Split
from codinet_jax.inference import load
from codinet_jax.inference.calibration import RUN_ALL, RUN_FORCED
from codinet_jax.inference.cascade import Member, deciding_as_a_cascade, joined
from codinet_jax.inference.operating_points import Point
from codinet_jax.inference.predictor import NetworkSpec
from codinet_jax.runtime.hosts import Host


class Answers(NamedTuple):
    """What is said of N images after one step, after two, and so on: class, and how unsure; what each step's network
    says alone; and the true classes."""

    predictions_KxN: np.ndarray
    unsure_KxN: np.ndarray
    alone_KxN: np.ndarray
    labels_N: np.ndarray


class Said(NamedTuple):
    """Of B images the probabilities that each of K steps gives alone, the answers after each, and how unsure those are.

    In float32 that last, as the program decides: of an answer as sure as can be nothing is left.
    """

    alone_KxBxY: np.ndarray
    means_KxBxY: np.ndarray
    unsure_KxB: np.ndarray


def asking(members: Sequence[Member]) -> Callable[[np.ndarray], Said]:
    """Asks every step of images [B, H, W, C], from which follows what any threshold makes of them."""
    first, *others = [load.from_network(*deciding_as_a_cascade(member)) for member in members]

    def ask(images_BxHxWxC: np.ndarray) -> Said:
        if members[0].resumes:
            early, late = (first(images_BxHxWxC, threshold) for threshold in (RUN_FORCED, RUN_ALL))
            alone = [early.probabilities_BxY, late.probabilities_BxY]
        else:
            alone = [first(images_BxHxWxC).probabilities_BxY]
        found = list(alone)
        for k, network in enumerate(others, start=1):
            alone.append(network(images_BxHxWxC).probabilities_BxY)
            found.append(joined(found[-1], alone[-1], k))
        unsure_KxB = np.float32(1) - np.max(found, axis=-1).astype(np.float32)
        if members[0].resumes:
            unsure_KxB[0] = early.run_probability_Bxn[:, -1]
        return Said(np.stack(alone), np.stack(found), unsure_KxB)

    return ask


def answers(members: Sequence[Member], split: Split, batch_size: int) -> Answers:
    """The answers after every number of steps, from which any threshold's follow."""
    ask = asking(members)
    predictions, unsure, alone, labels = [], [], [], []
    for images_BxHxWxC, labels_B, positions_B in split.evaluation_batches(batch_size, Host()):
        is_real_B = positions_B >= 0
        said = ask(images_BxHxWxC)
        alone.append(said.alone_KxBxY.argmax(axis=-1)[:, is_real_B])
        predictions.append(said.means_KxBxY.argmax(axis=-1)[:, is_real_B])
        unsure.append(said.unsure_KxB[:, is_real_B])
        labels.append(labels_B[is_real_B])
    predictions_KxN, unsure_KxN, alone_KxN = (np.concatenate(each, axis=1) for each in (predictions, unsure, alone))
    return Answers(predictions_KxN, unsure_KxN, alone_KxN, np.concatenate(labels))


def decided(unsure_KxB: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Before each step but the first how unsure the answer is, and whether the step is taken: [B, K - 1] of both.

    `unsure_KxB` is of the answers after the first step, after two, and so on, float32.
    """
    v, asked = [unsure_KxB[0]], [unsure_KxB[0] >= np.float32(threshold)]
    for unsure_B in unsure_KxB[1:-1]:
        # An image that is not asked of keeps its answer, and is as sure of it as before.
        v.append(np.where(asked[-1], unsure_B, v[-1]))
        asked.append(asked[-1] & (v[-1] >= np.float32(threshold)))
    return np.stack(v, axis=-1), np.stack(asked, axis=-1)


def point(found: Answers, spec: NetworkSpec, threshold: float) -> Point:
    """What a threshold makes of the cascade; K counts the steps after the first."""
    _, asked_Nxn = decided(found.unsure_KxN, threshold)
    predictions_N = np.take_along_axis(found.predictions_KxN, asked_Nxn.sum(axis=-1)[None], 0)[0]
    macs = spec.fixed_macs + float(asked_Nxn.mean(axis=0) @ np.asarray(spec.blocks_macs))
    top1 = float(np.mean(predictions_N == found.labels_N))
    return Point(threshold, macs / spec.static_macs, top1, float(asked_Nxn.sum(axis=-1).mean()))
