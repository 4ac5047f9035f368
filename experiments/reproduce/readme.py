"""The tables of results in experiments/README.md, written from the JSON that is kept of them, so that the two agree."""

import json
import pathlib
import re
import statistics as stdlib
from collections.abc import Iterable
from typing import Any

from codinet_jax.runtime.errors import InputError
from experiments.reproduce.definitions import COLUMNS

PLACE = re.compile(r'(<!-- results (\w+) -->\n).*?(<!-- end of results -->)', re.DOTALL)


def filled(text: str, directory: pathlib.Path) -> str:
    """The text with every table between <!-- results STEM --> and <!-- end of results --> made of STEM.json.

    Raises:
      InputError: such a file is not in the directory, or holds what is no result.
    """

    def table(place: re.Match[str]) -> str:
        path = directory / f'{place[2]}.json'
        if not path.exists():
            raise InputError(f'{path} does not exist: write it with experiments.summarize --to={directory}.')
        return f'{place[1]}{compact(json.loads(path.read_text()))}{place[3]}'

    return PLACE.sub(table, text)


def compact(summary: dict[str, Any]) -> str:
    """A summary as one table, of each column our mean and spread and in brackets the paper's; and how it was had."""
    if not summary['is_result']:
        raise InputError(
            f'{summary["title"]} at scale {summary["scale"]} is no result, and is not to stand among them.'
        )
    runs = [run for row in summary['rows'] for run in row['seeds']]
    columns = list(runs[0]['numbers'])
    lines = [
        f'| | {" | ".join(COLUMNS[name].heading for name in columns)} |',
        f'|---|{"---:|" * len(columns)}',
        *(f'| {row["label"]} | {" | ".join(_cell(row, name) for name in columns)} |' for row in summary['rows']),
    ]
    seeds = {tuple(run['seed'] for run in row['seeds']) for row in summary['rows'] if row['seeds']}
    numbers = ', '.join(str(seed) for seed in max(seeds, key=len))
    how = {key: _listed(run['how'][key] for run in runs) for key in ('commit', 'device', 'num_devices')}
    devices = 'device' if how['num_devices'] == '1' else 'devices'
    made = (
        f'Seeds {numbers}{"" if len(seeds) == 1 else " at most"}; commit {how["commit"]}; {how["device"]}, '
        f'{how["num_devices"]} {devices}; jax {_listed(run["how"]["versions"]["jax"] for run in runs)}.'
    )
    return '\n'.join(lines) + f'\n\n{summary["says"]} {made}\n'


def _cell(row: dict[str, Any], name: str) -> str:
    decimals, values = COLUMNS[name].decimals, [run['numbers'][name] for run in row['seeds']]
    if not values:
        return 'missing'
    spread = f' ± {stdlib.stdev(values):.{decimals}f}' if len(values) > 1 else ''
    theirs = f' ({row["paper"][name]:.{decimals}f})' if name in row['paper'] else ''
    return f'{stdlib.mean(values):.{decimals}f}{spread}{theirs}'


def _listed(values: Iterable[Any]) -> str:
    return ', '.join(sorted({str(value) for value in values}))
