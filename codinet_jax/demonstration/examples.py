"""Images that the page has at hand: those of a run's evaluation, grouped by the routes that they took."""

from typing import Any, NamedTuple

import numpy as np

from codinet_jax.evaluation.record import Record, read_routes, read_thumbnails
from codinet_jax.inference.predictor import NetworkSpec
from codinet_jax.runtime.console import plural
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir

MOST_ROUTES, MOST_IMAGES = 12, 16


class Examples(NamedTuple):
    """The commonest routes of an evaluation, cheapest first, as the page is told of them; and the pictures."""

    thumbnails_SxhxwxC: np.ndarray
    groups: list[dict[str, Any]]
    sentence: str


def read_examples(workdir: Workdir, spec: NetworkSpec) -> Examples:
    """What training ended with, or what was evaluated last in its place.

    Raises:
      InputError: nothing is kept, or of another network.
    """
    split = str((workdir.read_results() or {}).get('split', 'test'))
    record, _ = read_routes(workdir, split)
    thumbnails_SxhxwxC = read_thumbnails(workdir, split)
    classes = np.concatenate([record.labels_N, record.predictions_N])
    if record.decisions_Nxn.shape[1] != len(spec.blocks_macs) or not np.isin(classes, range(len(spec.classes))).all():
        raise InputError(f'{workdir} holds a record of another network: evaluate it again with codinet_jax.evaluate.')
    routes, found = grouped(record, spec, len(thumbnails_SxhxwxC))
    shown = sum(group['share'] for group in found)
    by = 'by the route that all of them took' if routes == 1 else f'by the {routes} routes that they took'
    if routes > len(found):
        by = f'by the {len(found)} commonest of {routes} routes, which {shown:.0%} of them took'
    sentence = f'{plural(len(record.labels_N), "image")} of the {split} split, evaluated when training ended, {by}.'
    if thumbnails_SxhxwxC.shape[1:] != spec.image_shape:
        sentence += ' Only small copies were kept, of which the network may say something else.'
    return Examples(
        thumbnails_SxhxwxC, found, f'{sentence} The cheapest route is first. Press an image. Framed: wrong.'
    )


def grouped(record: Record, spec: NetworkSpec, num_pictures: int) -> tuple[int, list[dict[str, Any]]]:
    """How many routes there are; and of each of the commonest, cheapest first, what it costs and who took it.

    Args:
      record: of N images by n blocks.
      spec: of the network.
      num_pictures: the first so many images can be shown.
    """
    routes_Rxn, group_N, counts_R = np.unique(record.decisions_Nxn, axis=0, return_inverse=True, return_counts=True)
    macs_R = spec.fixed_macs + routes_Rxn @ np.asarray(spec.blocks_macs, np.int64)
    is_right_N = record.predictions_N == record.labels_N
    commonest = np.argsort(-counts_R, kind='stable')[:MOST_ROUTES]
    found = []
    for r in sorted(commonest, key=lambda r: macs_R[r]):
        images = np.flatnonzero(group_N.ravel() == r)
        found.append(
            {
                'route': routes_Rxn[r].astype(int).tolist(),
                'macs': int(macs_R[r]),
                'share': float(counts_R[r] / len(is_right_N)),
                'top1': float(is_right_N[images].mean()),
                'images': [_image(record, i) for i in images[images < num_pictures][:MOST_IMAGES].tolist()],
            }
        )
    return len(routes_Rxn), found


def _image(record: Record, i: int) -> dict[str, int]:
    return {'number': i, 'label': int(record.labels_N[i]), 'prediction': int(record.predictions_N[i])}
