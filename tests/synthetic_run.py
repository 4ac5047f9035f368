"""A run that no one trained, small, and every image unlike the others: for tests of the report."""

import dataclasses
import types
from typing import Any

import numpy as np

import helpers
from codinet_jax.analysis.run import Run
from codinet_jax.config.setup import Setup
from codinet_jax.evaluation.record import AugmentedRecord, Record, ShuffledRecord
from codinet_jax.models.cost import CostTable

CLASSES = ('cat', 'dog', 'cow')


def setup_of(
    costs: CostTable, classes: tuple[str, ...] | int | None = None, router: str | None = 'linear', **changes: Any
) -> Setup:
    """A tiny config's, of a network that is only its costs, which can be any, and its router."""
    tiny = helpers.tiny_setup(**{'loss.target_cost': None} | changes)
    spec = tiny.data.spec if classes is None else dataclasses.replace(tiny.data.spec, classes=classes)
    network: Any = types.SimpleNamespace(costs=costs, router=router, initial_run_rate=None, norm_groups=1)
    return dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, spec=spec), model=network)


def synthetic_run(num_images: int = 70, num_thumbnails: int = 50, classes: tuple[str, ...] = CLASSES) -> Run:
    """Labels go round the classes, every fifth prediction is wrong; routes and thumbnails are drawn at random."""
    generator = np.random.default_rng(0)
    labels_N = (np.arange(num_images) % 3).astype(np.int32)
    probability_Nxn = generator.random((num_images, 11)).astype(np.float32)
    decisions_Nxn = probability_Nxn > 0.5
    record = Record(
        labels_N, np.where(np.arange(num_images) % 5, labels_N, (labels_N + 1) % 3), probability_Nxn, decisions_Nxn
    )
    augmented = AugmentedRecord(
        np.array(['crop']),
        record.predictions_N[None],
        probability_Nxn[None],
        decisions_Nxn[None],
        np.zeros((1, num_images)),
    )
    costs = CostTable(1_000_000, tuple(range(100_000, 1_200_000, 100_000)), (0,), (5_000,), 20_000)
    thumbnails_SxhxwxC = generator.integers(0, 256, (num_thumbnails, 8, 8, 3), np.uint8)
    return recorded_run('synthetic', setup_of(costs, classes), record, augmented, thumbnails_SxhxwxC)


def recorded_run(
    name: str, setup: Setup, record: Record, augmented: AugmentedRecord, thumbnails_SxhxwxC: np.ndarray
) -> Run:
    """A run on the test split of which nothing is known but its records."""
    return Run(
        name=name,
        recorded='test',
        is_own=True,
        split='test',
        operating_point=None,
        setup=setup,
        record=record,
        augmented=augmented,
        thumbnails_SxhxwxC=thumbnails_SxhxwxC,
        results={},
        metrics=[],
        evaluations={},
    )


def shuffled(record: Record) -> ShuffledRecord:
    """Right half the time on any image's route, and as often as on their own on one's of their class."""
    is_right_N = (record.predictions_N == record.labels_N).astype(np.float32)
    return ShuffledRecord(record.predictions_N, np.full(len(is_right_N), 0.5, np.float32), is_right_N)


def grid_positions(num_images: int = 60) -> np.ndarray:
    """Places far enough apart to be pointed at, in no order: [P, 2]."""
    places = np.random.default_rng(1).permutation(num_images)
    return np.stack([places % 10, places // 10], axis=1).astype(np.float64)
