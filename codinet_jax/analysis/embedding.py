"""Where images lie in the space of routes: t-SNE of relaxed routes, as in Figs. 6, 9 and 11."""

import os
import time
from collections.abc import Callable, Sequence

import numpy as np

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # or its threads spin away what cores other programs are using

import openTSNE

from codinet_jax.analysis.run import Run

MOST_POINTS = 10_000
PERPLEXITY = 30.0
FEWEST_POINTS = 4
SECONDS_BETWEEN_LINES = 5.0
ITERATIONS_A_CALL = 10
ITERATIONS = (250, 500)  # with clusters drawn tighter than they are, then as they are


def lay_out(runs: Sequence[Run], log: Callable[[str], None]) -> list[np.ndarray | None]:
    """Positions of each run's first images; of networks with as many blocks in one map, so that spreads compare.

    None for a run without routes: t-SNE would blow up its one point to a disc.
    """
    v_of_each = {
        run.name: run.record.run_probability_Nxn[: MOST_POINTS // len(runs)] for run in runs if not run.is_static
    }
    if len({v_Pxn.shape[1] for v_Pxn in v_of_each.values()}) != 1:
        found = {name: embed(v_Pxn, log) for name, v_Pxn in v_of_each.items()}
    elif (points := embed(np.concatenate(list(v_of_each.values())), log)) is None:
        found = {}
    else:
        ends = np.cumsum([len(v_Pxn) for v_Pxn in v_of_each.values()])
        found = dict(zip(v_of_each, np.split(points, ends[:-1]), strict=True))
    return [found.get(run.name) for run in runs]


def embed(v_Nxn: np.ndarray, log: Callable[[str], None]) -> np.ndarray | None:
    """Lays out the first P images, at most 10,000, so that those of like gates v are neighbours.

    The perplexity is 30, or a third of the other images if those are fewer than 90. The same gates give the same map.

    Args:
      v_Nxn: relaxed routes, in [0, 1].
      log: is given a line now and then of how far it is.

    Returns:
      float64 [P, 2] in no unit; None if fewer than four images, three different relaxed routes or two gates leave
      nothing to lay out.
    """
    v_Pxn = v_Nxn[:MOST_POINTS]
    P = len(v_Pxn)
    if P < FEWEST_POINTS or v_Pxn.shape[1] < 2 or len(np.unique(v_Pxn, axis=0)) < 3:
        return None
    done, logged_at = 0, time.monotonic()

    def report(*_: object) -> None:
        nonlocal done, logged_at
        done += ITERATIONS_A_CALL
        if time.monotonic() - logged_at > SECONDS_BETWEEN_LINES:
            logged_at = time.monotonic()
            log(f'laying out {P} routes: {done / sum(ITERATIONS):.0%}')

    tsne = openTSNE.TSNE(
        perplexity=min(PERPLEXITY, (P - 1) / 3),
        early_exaggeration_iter=ITERATIONS[0],
        n_iter=ITERATIONS[1],
        random_state=0,
        n_jobs=len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1,
        callbacks=report,
        callbacks_every_iters=ITERATIONS_A_CALL,
    )
    return np.asarray(tsne.fit(v_Pxn.astype(np.float64)), np.float64)
