"""A finished run as analysis sees it: what evaluation recorded, and what the workdir says of it."""

import dataclasses
from typing import Any

import numpy as np

from codinet_jax import settings
from codinet_jax.data.datasets import DatasetSpec
from codinet_jax.errors import InputError
from codinet_jax.models.cost import CostTable
from codinet_jax.record import AugmentedRecord, Record
from codinet_jax.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Run:
    """One evaluation of a finished run, on N images by n gated blocks.

    It is `recorded` under a name, its split's and its budget's; `is_own` says whether training ended with it.
    `thumbnails_SxhxwxC` show the first S images. `results` are the run's own, `metrics` the rows of its training,
    `budgets` what `calibrate` found. `evaluations` are the summaries there are of the same split: the run's own under
    'as trained', if it was on that split, and those at budgets under their names.
    """

    name: str
    recorded: str
    is_own: bool
    split: str
    budget: str | None
    config: Any
    dataset: DatasetSpec
    costs: CostTable
    record: Record
    augmented: AugmentedRecord
    thumbnails_SxhxwxC: np.ndarray
    results: dict[str, Any]
    metrics: list[dict[str, Any]]
    budgets: dict[str, Any]
    evaluations: dict[str, dict[str, Any]]

    @property
    def num_images(self) -> int:
        return self.record.decisions_Nxn.shape[0]

    @property
    def num_blocks(self) -> int:
        return self.record.decisions_Nxn.shape[1]

    @property
    def is_static(self) -> bool:
        """Whether there is nothing to decide: a network without routers."""
        return bool(self.config.model.router == settings.STATIC)

    @property
    def classes(self) -> tuple[str, ...]:
        """A name for every class; its number where the data set has too many to be named."""
        return self.dataset.classes or tuple(map(str, range(self.dataset.num_classes)))

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
        return self.costs.fixed_macs + self.record.decisions_Nxn @ np.array(self.costs.blocks_n)


def read_run(workdir: Workdir, split: str | None = None, budget: str | None = None, label: str | None = None) -> Run:
    """Reads one evaluation of a finished run: if not said, that with which its training ended.

    The run is called what its directory is, if it is given no label.

    Raises:
      InputError: the run is unfinished, or was not evaluated so, or by an older version.
    """
    config, results = workdir.read_config(), workdir.read_results()
    if results is None:
        raise InputError(f'{workdir} holds an unfinished run: go on with codinet_jax.main.')
    settings.check(config)
    own_split = str(results.get('split', 'test'))
    split, budgets = split or own_split, workdir.read_budgets()
    own = {'as trained': results} if split == own_split else {}
    at_budgets = {name: workdir.read_results(f'evaluation_{split}_{name}') for name in budgets}
    recorded = '_'.join(filter(None, (split, budget)))
    record, augmented = workdir.read_routes(recorded)
    dataset, costs = settings.dataset(config), settings.costs(config)
    classes = np.concatenate([record.labels_N, record.predictions_N, augmented.augmented_predictions_AxN.ravel()])
    if record.decisions_Nxn.shape[1] != costs.num_blocks or not np.isin(classes, range(dataset.num_classes)).all():
        raise InputError(f'{workdir} holds a record of another network: evaluate it again with codinet_jax.evaluate.')
    return Run(
        name=label or workdir.path.name,
        recorded=recorded,
        is_own=recorded == own_split,
        split=split,
        budget=budget,
        config=config,
        dataset=dataset,
        costs=costs,
        record=record,
        augmented=augmented,
        thumbnails_SxhxwxC=workdir.read_thumbnails(split),
        results=results,
        metrics=workdir.read_metrics(),
        budgets=budgets,
        evaluations=own | {name: summary for name, summary in at_budgets.items() if summary is not None},
    )
