"""A run that no one trained, small, which was evaluated and calibrated all the same: for tests of the demo."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import helpers
from codinet_jax.data import datasets
from codinet_jax.evaluation.record import AugmentedRecord, Record, write_routes, write_thumbnails
from codinet_jax.inference import calibration, load
from codinet_jax.inference.predictor import Predictor
from codinet_jax.workdir import Workdir

NUM_IMAGES, NUM_PICTURES = 60, 50
POINT, POINT_THRESHOLD = 'careful', 0.3


class DemoRun(NamedTuple):
    """The run, its network, and the images that it was evaluated on, with what was recorded of them."""

    workdir: Workdir
    predictor: Predictor
    images_NxHxWxC: np.ndarray
    record: Record


def demo_run(directory: Path) -> DemoRun:
    workdir = helpers.write_workdir(directory / 'drawn', helpers.tiny_config())
    images = datasets.source('digits', directory / 'tfds').open('test').sample(NUM_IMAGES, seed=3)
    predictor = load.from_workdir(workdir.path)
    found = predictor.in_batches(images.images_NxHxWxC, NUM_IMAGES)
    record = Record(images.labels_N, found.labels_B, found.run_probability_Bxn, found.decisions_Bxn)
    one: Any = (record.predictions_N[None], record.run_probability_Nxn[None], record.decisions_Nxn[None])
    write_routes(workdir, 'test', record, AugmentedRecord(np.array(['crop']), *one, np.zeros((1, NUM_IMAGES))))
    write_thumbnails(workdir, 'test', images.images_NxHxWxC[:NUM_PICTURES])
    points = [
        calibration.measured(predictor, images, NUM_IMAGES, threshold)
        for threshold in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.999999)
    ]
    workdir.write_cost_curve([point._asdict() for point in points], 'train', NUM_IMAGES)
    workdir.write_operating_point(POINT, {'threshold': POINT_THRESHOLD})
    return DemoRun(workdir, load.from_workdir(workdir.path), images.images_NxHxWxC, record)
