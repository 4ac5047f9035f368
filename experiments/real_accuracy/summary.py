"""A table of all runs in a directory, and the paired tests between those of equal start, cost and seed.

`python -m experiments.real_accuracy.summary --output=DIR` prints it and writes summary.md.
"""

import collections
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags

from experiments.real_accuracy.evaluation import difference

HEADER = (
    '| start | variant | target M | seeds | accuracy | MACs M | missed by | #path | entropy | off most common | open '
    'blocks | agreement | own − shuffled | within class | corr. with ResNet-20 error |'
)


def read(directory: pathlib.Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(directory.glob('*_s[0-9]*.json'))]
    return [run for run in found if 'accuracy' in run]


def table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """A row for runs that differ in their seed alone: means, and the range of accuracy."""
    groups = collections.defaultdict(list)
    for run in runs:
        groups[run['name'].rpartition('_s')[0]].append(run)
    rows = [HEADER, '|' + '---|' * (HEADER.count('|') - 1)]
    for group in sorted(groups.values(), key=lambda group: (group[0]['target_macs'] or 0, group[0]['start'])):
        first = group[0]

        def mean(*path: str, group: Sequence[dict[str, Any]] = group) -> float | None:
            values: list[Any] = list(group)
            for key in path:
                values = [value and value.get(key) for value in values]
            return None if None in values else float(np.mean(values))

        accuracies = [run['accuracy'] for run in group]
        spread = f' ({min(accuracies):.2f}–{max(accuracies):.2f})' if len(group) > 1 else ''
        target = first['target_macs']
        macs = mean('mean_macs') or 0.0
        miss = '' if not target else f'{100 * (macs / target - 1):+.1f} %'
        gaps = []
        for kind in ('all', 'within_class'):
            points, error = mean('shuffled', kind, 'points'), mean('shuffled', kind, 'standard_error')
            # Seeds are tested on the same images, so more of them make this error no smaller.
            gaps.append('' if points is None or error is None else f'{points:.2f} ± {error:.2f}')
        tag = f' {first["settings"]["tag"]}' if first['settings'].get('tag') else ''
        cells = [
            first['start'],
            first['variant'] + tag + (' (holdout)' if first['settings'].get('holdout') else ''),
            f'{target / 1e6:.1f}' if target else '',
            ' '.join(str(run['seed']) for run in group),
            f'{np.mean(accuracies):.2f}{spread}',
            f'{macs / 1e6:.2f}',
            miss,
            _shown(mean('num_paths'), '.0f'),
            _shown(mean('route_entropy'), '.2f'),
            _shown(mean('share_off_most_common'), '.2f'),
            f'{mean("num_open_blocks"):.0f} of {first["num_free_blocks"]}',
            _shown(mean('agreement', 'routes'), '.2f'),
            *gaps,
            _shown(mean('correlation_with_cheap_error'), '.2f'),
        ]
        rows.append('| ' + ' | '.join(cells) + ' |')
    return rows


def tests(directory: pathlib.Path, runs: Sequence[dict[str, Any]], near: float = 0.03) -> list[str]:
    """Paired over test images: gated runs less each other run of the same seed whose cost is as near as that share."""
    right = {}
    for run in runs:
        with np.load(directory / f'{run["name"]}_routes.npz') as arrays:
            right[run['name']] = arrays['predictions'] == arrays['labels']
    lines = ['| run | less | points | standard error |', '|---|---|---|---|']
    for run in runs:
        for other in runs:
            is_pair = run['seed'] == other['seed'] and run['name'] != other['name']
            is_near = abs(run['mean_macs'] / other['mean_macs'] - 1) <= near
            same_test = run['settings'].get('holdout') == other['settings'].get('holdout')
            if run['variant'] in ('static', 'pruned', 'random') or not (is_pair and is_near and same_test):
                continue
            gap = difference(right[run['name']], right[other['name']])
            lines.append(f'| {run["name"]} | {other["name"]} | {gap["points"]:+.2f} | {gap["standard_error"]:.2f} |')
    return lines


def dials(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Accuracy at cost of single networks, as thresholds move together."""
    lines = []
    for run in runs:
        if run.get('dial'):
            points = [*run['dial'], {'mean_macs': run['mean_macs'], 'accuracy': run['accuracy']}]
            points.sort(key=lambda point: point['mean_macs'])
            shown = ', '.join(f'{point["accuracy"]:.2f} at {point["mean_macs"] / 1e6:.1f}' for point in points)
            lines.append(f'{run["name"]}: {shown}')
    return lines


def _shown(value: float | None, form: str) -> str:
    return '' if value is None else format(value, form)


def main(argv: Sequence[str]) -> None:
    del argv
    directory = pathlib.Path(flags.FLAGS.output)
    runs = read(directory)
    text = '\n'.join([*table(runs), '', *tests(directory, runs), '', *dials(runs)])
    (directory / 'summary.md').write_text(text + '\n')
    print(text)


if __name__ == '__main__':
    flags.DEFINE_string('output', 'runs/real_accuracy', 'Where results are.')
    app.run(main)
