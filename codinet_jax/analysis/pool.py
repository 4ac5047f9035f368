"""Several runs as one: seeds of the same thing."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from codinet_jax.analysis.run import Run
from codinet_jax.evaluation.record import AugmentedRecord, Record
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import NOT_COMPARED

OF_A_SEED = ('seed', *NOT_COMPARED)  # settings in which seeds of one thing may differ


def by_name(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that share a name, in the order in which names come up.

    Raises:
      InputError: two runs of a name differ in more than their seed.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    for name, (first, *others) in groups.items():
        for other in others:
            if fields := _differing(first, other):
                raise InputError(
                    f'Runs called {name!r} differ in {", ".join(fields)}: only seeds of one thing are pooled, '
                    'so give the others another label.'
                )
    return groups


def pooled(runs: Sequence[Run]) -> Run:
    """The images of all, one run's after the other's, as if one network had seen them; the rest is the first's."""
    first = runs[0]
    if len(runs) == 1:
        return first
    of_images = (np.concatenate([run.record[i] for run in runs]) for i in range(len(Record._fields)))
    of_augmentations = (
        np.concatenate([run.augmented[i] for run in runs], axis=1) for i in range(1, len(AugmentedRecord._fields))
    )
    return dataclasses.replace(
        first,
        is_pooled=True,
        shuffled=None,
        record=Record(*of_images),
        augmented=AugmentedRecord(first.augmented.augmentations_A, *of_augmentations),
    )


def _differing(one: Run, other: Run) -> list[str]:
    """Settings and ways of evaluating in which two runs differ, beside their seeds."""
    left, right = ({**run.setup.record, 'split': run.split} for run in (one, other))
    names = [name for name in {**left, **right} if left.get(name) != right.get(name) and name not in OF_A_SEED]
    return sorted(names)
