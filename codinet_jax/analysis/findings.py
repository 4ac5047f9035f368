"""What a run's routes come to, in sentences that name blocks and classes: what a reader is to take away."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from codinet_jax.analysis.run import Run
from codinet_jax.analysis.style import listed
from codinet_jax.evaluation.statistics import class_run_rates

LEAST_DIFFERENCE = 0.1  # of run rates, for a block to be said to tell classes apart


def findings(run: Run, found: Mapping[str, Any]) -> list[str]:
    """Sentences on blocks, classes, mistakes and augmentations; none of a network or a record without routes."""
    if run.is_static or found['num_paths'] == 1:
        return []
    return [sentence for sentence in (_blocks(run), _classes(run), _mistakes(run), _steadiness(found)) if sentence]


def _blocks(run: Run) -> str:
    """The block that tells classes apart most."""
    of_label = class_run_rates(run.record)
    labels, rates_Yxn = list(of_label), np.array(list(of_label.values()))
    widest = int(np.argmax(np.ptp(rates_Yxn, axis=0)))
    rates_Y = rates_Yxn[:, widest]
    if np.ptp(rates_Y) < LEAST_DIFFERENCE:
        return f'No {run.part} tells classes apart: each is run about as often by the images of every class.'
    least, most = (run.class_names[labels[int(choose(rates_Y))]] for choose in (np.argmin, np.argmax))
    return (
        f'{run.part.capitalize()} {widest + 1} tells classes apart most: {rates_Y.max():.0%} of the images of class '
        f'{most} run it, {rates_Y.min():.0%} of those of class {least}.'
    )


def _classes(run: Run) -> str:
    """The classes whose images run the fewest blocks and the most."""
    lengths = {
        label: run.path_lengths_N[run.record.labels_N == label].mean() for label in np.unique(run.record.labels_N)
    }
    least, most = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
    if least == most:
        return ''
    return (
        f'Class {run.class_names[least]} runs the fewest {run.part}s ({lengths[least]:.1f} in the mean), class '
        f'{run.class_names[most]} the most ({lengths[most]:.1f}).'
    )


def _mistakes(run: Run) -> str:
    right_N = run.is_correct_N
    if right_N.all() or not right_N.any():
        return ''
    right, wrong = run.path_lengths_N[right_N].mean(), run.path_lengths_N[~right_N].mean()
    num_wrong = int((~right_N).sum())
    those = (
        'The one image classified wrong runs' if num_wrong == 1 else f'The {num_wrong:,} images classified wrong run'
    )
    return f'{those} {wrong:.1f} {run.part}s in the mean, those classified right {right:.1f}.'


def _steadiness(found: Mapping[str, Any]) -> str:
    """What share keeps its route, by augmentation, and which augmentations are not this set's."""
    kept, names = found['augmentations'], found['averaged_augmentations']
    shares = listed([f'{kept[name]["same_route"]:.0%} ({name})' for name in names])
    others = [name for name in kept if name not in (*names, 'mean')]
    apart = f' Not counted: {listed(others)}, which this data set is not trained with.' if others else ''
    return f'Of images that are augmented, so many keep their route: {shares}.{apart}'
