"""What is to be said of a run before its numbers and figures are read: where there is little or nothing to see."""

import numpy as np

from codinet_jax.analysis.run import Run
from codinet_jax.evaluation.statistics import fixed_in_words


def remarks(run: Run) -> list[str]:
    """One sentence for each way in which the run is degenerate; none for a run whose routing is alive."""
    rates_n, num_classes = run.record.decisions_Nxn.mean(axis=0), len(np.unique(run.record.labels_N))
    is_same = run.num_images > 1 and len(np.unique(run.record.decisions_Nxn, axis=0)) == 1
    found = []
    if run.is_static:
        found.append('This is a static network: it has no routers, and every image runs every block.')
    elif is_same and run.cascade:
        found.append(
            'Every image is sent to the same networks: with another --target_cost of codinet_jax.cascade some images '
            'are sent further than others.'
        )
    elif is_same:
        found.append(
            'Routing has collapsed: every image takes one and the same route, so this is a static sub-network of '
            f'{int(rates_n.sum())} of {run.num_blocks} blocks; loss.beta and loss.diversity_margin keep routes apart.'
        )
    elif run.num_images > 1 and (fixed := int(np.sum((rates_n == 0) | (rates_n == 1)))):
        words = fixed_in_words(rates_n.tolist(), part=run.part)
        are = 'is' if fixed == 1 else 'are'
        found.append(
            f'{words[0].upper()}{words[1:]}: {fixed} of {run.num_blocks} {run.part}s {are} fixed for all images.'
        )
    if num_classes == 1:
        found.append('All images are of one class, so there is no distance between classes.')
    if run.num_images < 100:
        found.append(f'The number of images is only {run.num_images}: read shares and distances with care.')
    return found
