"""A finished run as analysis sees it: what evaluation recorded, and what the workdir says of it."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from codinet_jax.config import setup
from codinet_jax.config.setup import Setup
from codinet_jax.evaluation import controls
from codinet_jax.evaluation.record import (
    AugmentedRecord,
    Record,
    ShuffledRecord,
    read_routes,
    read_shuffled,
    read_thumbnails,
)
from codinet_jax.evaluation.statistics import statistics
from codinet_jax.inference import load
from codinet_jax.inference.operating_points import Point
from codinet_jax.models.cost import CostTable
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir

AS_TRAINED = 'as trained'


class Curve(NamedTuple):
    """What `calibrate` measured of thresholds, and on which split."""

    split: str
    points: tuple[Point, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """One evaluation of a finished run, on N images by n gated blocks.

    It is `recorded` under a name, its split's and its operating point's; `is_own` says whether training ended with it.
    `thumbnails_SxhxwxC` show the first S images. `results` are the run's own, `metrics` the rows of its training,
    `evaluations` are the summaries there are of the same split: as trained under `AS_TRAINED`, and those at operating
    points and costs as `workdir.name_of_point` calls them, which `operating_point` is too. `curve` is what calibration
    measured, if it did. `shuffled` is what came of other images' routes, if that was asked for. `cascade` has the
    networks and costs of a cascade, whose blocks are all its networks but the first; its setup is the last one's.
    `is_pooled` says that the record holds the images of several seeds.
    """

    name: str
    recorded: str
    is_own: bool
    split: str
    operating_point: str | None
    setup: Setup
    record: Record
    augmented: AugmentedRecord
    thumbnails_SxhxwxC: np.ndarray
    results: dict[str, Any]
    metrics: list[dict[str, Any]]
    evaluations: dict[str, dict[str, Any]]
    curve: Curve | None = None
    shuffled: ShuffledRecord | None = None
    cascade: dict[str, Any] | None = None
    is_pooled: bool = False

    @property
    def num_images(self) -> int:
        return self.record.decisions_Nxn.shape[0]

    @property
    def part(self) -> str:
        """What its routes run or skip, one of them: what `num_blocks` counts."""
        return 'further network' if self.cascade else 'block'

    @property
    def num_blocks(self) -> int:
        return self.record.decisions_Nxn.shape[1]

    @property
    def costs(self) -> CostTable:
        return CostTable(*self.cascade['costs']) if self.cascade else self.setup.costs

    @property
    def is_static(self) -> bool:
        """Whether there is nothing to decide: a network without routers."""
        return self.setup.model.router is None and self.cascade is None

    @property
    def dataset(self) -> str:
        """What its data set is called."""
        return self.setup.data.name

    @property
    def backbone(self) -> str:
        """As the paper writes it: ResNet-110."""
        if self.cascade:
            return ', '.join(self.cascade['networks'])
        return f'ResNet-{self.setup.record["model"]["depth"]}'

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.setup.data.spec.class_names

    @property
    def is_correct_N(self) -> np.ndarray:
        return self.record.predictions_N == self.record.labels_N

    @property
    def path_lengths_N(self) -> np.ndarray:
        """Blocks that each image runs."""
        return self.record.decisions_Nxn.sum(axis=1)

    @property
    def expected_lengths_N(self) -> np.ndarray:
        """Blocks that each image is expected to run, the sum of its gates v: the colour of Fig. 11."""
        return self.record.run_probability_Nxn.sum(axis=1, dtype=np.float64)

    @property
    def macs_N(self) -> np.ndarray:
        """MACs that each image costs."""
        return controls.macs_of_images(self.record, self.costs)

    def numbers(self) -> dict[str, Any]:
        """What numbers.json holds: all that is counted, and of what."""
        found = statistics(self.record, self.augmented, self.costs, self.class_names, self.setup.data.spec.flip)
        worth = controls.worth_of_routes(self.record, self.shuffled) if self.shuffled else None
        about: dict[str, Any] = {'split': self.split, 'operating_point': self.operating_point}
        about |= {'is_static': self.is_static, 'part': self.part}
        return about | found | {'worth_of_routes': worth}


def read_run(
    workdir: Workdir, split: str | None = None, operating_point: str | None = None, label: str | None = None
) -> Run:
    """Reads one evaluation of a finished run: if not said, that with which its training ended.

    The run is called what its directory is, if it is given no label.

    Raises:
      InputError: the run is unfinished, or was not evaluated so, or by an older version.
    """
    config, results = workdir.read_config(), workdir.read_results()
    if results is None:
        raise InputError(f'{workdir} holds an unfinished run: go on with codinet_jax.main.')
    named = setup.read(config)
    own_split = str(results.get('split', 'test'))
    split = split or own_split
    as_trained = results if split == own_split else workdir.read_results(f'evaluation_{split}')
    recorded = '_'.join(filter(None, (split, operating_point)))
    record, augmented = read_routes(workdir, recorded)
    classes = np.concatenate([record.labels_N, record.predictions_N, augmented.augmented_predictions_AxN.ravel()])
    cascade = results.get('cascade')
    num_blocks = len(cascade['networks']) - 1 if cascade else named.costs.num_blocks
    num_classes = named.data.spec.num_classes
    if record.decisions_Nxn.shape[1] != num_blocks or not np.isin(classes, range(num_classes)).all():
        raise InputError(f'{workdir} holds a record of another network: evaluate it again with codinet_jax.evaluate.')
    return Run(
        name=label or workdir.path.name,
        recorded=recorded,
        is_own=recorded == own_split,
        split=split,
        operating_point=operating_point,
        setup=named,
        record=record,
        augmented=augmented,
        thumbnails_SxhxwxC=read_thumbnails(workdir, split),
        results=results,
        metrics=[] if cascade else workdir.read_metrics(),
        shuffled=read_shuffled(workdir, recorded, record),
        cascade=cascade,
        evaluations=({AS_TRAINED: as_trained} if as_trained else {}) | workdir.read_evaluations(split),
        curve=_read_curve(workdir),
    )


def _read_curve(workdir: Workdir) -> Curve | None:
    points = tuple(point for point in load.operating_points(workdir).curve if math.isfinite(point.top1))
    return Curve(str(workdir.read_cost_curve()['split']), points) if points else None


def point_in_words(name: str) -> str:
    """What a sentence calls an operating point or a cost that `workdir.name_of_point` named."""
    return f'a cost of {name.removeprefix("cost=")}' if name.startswith('cost=') else f'operating point {name}'
