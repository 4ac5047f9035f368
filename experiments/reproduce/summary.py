"""What was reproduced, set beside what the paper reports: a table in markdown, its numbers as JSON, and pictures."""

import json
import pathlib
import statistics as stdlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from codinet_jax.analysis import paper
from codinet_jax.analysis.run import Run, read_run
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir
from experiments.reproduce import pictures
from experiments.reproduce.definitions import COLUMNS, Figure, Row, Table
from experiments.reproduce.scales import SCALES


class Finished(NamedTuple):
    """A run, and what experiments.run noted of how it was started."""

    run: Run
    started: dict[str, Any]


Found = dict[str, dict[int, Finished]]  # by the run's name and its seed

HOW = (
    *('commit', 'num_steps', 'seconds_train', 'images_per_second'),
    *('num_devices', 'device', 'platform', 'python', 'versions'),
)


def runs_of(rows: Sequence[Row], directory: pathlib.Path) -> Found:
    """The finished runs of each row, by seed.

    Raises:
      InputError: a run records too little of how its numbers were had.
    """
    return {
        row.run: {
            int(path.name.removeprefix('seed_')): _finished(path, row.label)
            for path in sorted((directory / row.run).glob('seed_*'))
            if (path / 'results.json').exists()
        }
        for row in rows
    }


def _finished(path: pathlib.Path, label: str) -> Finished:
    run = read_run(Workdir(path), label=label)
    if missing := [name for name in HOW if name not in run.results]:
        raise InputError(
            f'{path}/results.json does not record {missing[0]!r}, as another version wrote it: '
            'take the run away and train it again with experiments.run.'
        )
    return Finished(run, json.loads(path.with_suffix('.json').read_text()))


def summary(stem: str, definition: Table | Figure, scale: str, found: Found) -> dict[str, bytes]:
    """The files of one table or figure."""
    description = f'Scale {scale}: {SCALES[scale].description}.'
    rows = [about(row, definition, found[row.run]) for row in definition.rows]
    numbers = {
        'title': definition.title,
        'scale': scale,
        'says': description,
        'is_result': SCALES[scale].is_result,
        'rows': rows,
    }
    if isinstance(definition, Table):
        drawn = {f'{stem}.png': pictures.dots(definition, rows, description)}
    else:
        numbers['others'] = [each._asdict() for each in definition.others]
        first = [next(iter(runs.values())).run for runs in found.values() if runs]
        drawn = {f'{stem}_{kind}.png': png for kind, png in pictures.of_runs(definition, first, description).items()}
    text = markdown(definition, rows, description, list(drawn))
    return {f'{stem}.json': (json.dumps(numbers, indent=1) + '\n').encode(), f'{stem}.md': text.encode()} | drawn


def about(row: Row, definition: Table | Figure, runs: dict[int, Finished]) -> dict[str, Any]:
    """A row: what the paper reports, and of every seed its numbers, its curve, and how it was had."""
    columns = definition.columns if isinstance(definition, Table) else ('accuracy', 'K', 'cost')
    return {
        'label': row.label,
        'run': row.run,
        'paper': dict(row.paper),
        'seeds': [{'seed': seed} | _of_run(*each, columns) for seed, each in runs.items()],
    }


def _of_run(run: Run, started: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    results = run.results
    numbers = run.numbers() | {
        'gflops': paper.gflops(run.dataset, results['mean_macs']),
        'num_params': results['num_params'],
        'views': results['num_steps'] * run.setup.recipe.batch_size * run.setup.recipe.num_views,
        'router_share': run.costs.router_macs / sum(run.costs.blocks_n),
    }
    kept = ('step', 'stage', 'top1', 'mean_path_length', 'num_paths', 'macs_share')
    return {
        'numbers': {name: COLUMNS[name].value(numbers) for name in columns},
        'curve': [{key: row[key] for key in kept} for row in run.metrics if row['kind'] == 'evaluation'],
        'how': {'command': started['command']} | {name: results[name] for name in HOW},
    }


def markdown(definition: Table | Figure, rows: Sequence[dict[str, Any]], description: str, drawn: Sequence[str]) -> str:
    """The table, of each column ours, the paper's and the difference; then the pictures."""
    lines = [f'# {definition.title}', '', description, '']
    if isinstance(definition, Table):
        compared = {name for row in rows for name in row['paper']}
        heads = [head for name in definition.columns for head in _heads(name, compared)]
        lines += [f'| | seeds | {" | ".join(heads)} |', f'|---|---{"|---:" * len(heads)}|']
        lines += [_line(definition, row, compared) for row in rows]
    elif definition.others:
        lines += ['| other methods | backbone | GFLOPs | top-1 (%) | source |', '|---|---|---:|---:|---|']
        lines += [
            f'| {each.method} | {each.backbone} | {each.gflops:g} | {each.top1:.2f} | {each.source} |'
            for each in definition.others
        ]
    lines += ['', *(f'![{definition.title}]({name})' for name in drawn), '']
    return '\n'.join(lines)


def _heads(name: str, compared: set[str]) -> tuple[str, ...]:
    return (COLUMNS[name].heading, 'paper', 'difference') if name in compared else (COLUMNS[name].heading,)


def _line(definition: Table, row: dict[str, Any], compared: set[str]) -> str:
    seeds = [each['seed'] for each in row['seeds']]
    cells = [cell for name in definition.columns for cell in _cells(name, row)[: len(_heads(name, compared))]]
    return f'| {row["label"]} | {", ".join(map(str, seeds)) or "missing"} | {" | ".join(cells)} |'


def _cells(name: str, row: dict[str, Any]) -> tuple[str, str, str]:
    values, theirs, decimals = (
        [each['numbers'][name] for each in row['seeds']],
        row['paper'].get(name),
        COLUMNS[name].decimals,
    )
    paper_cell = '' if theirs is None else f'{theirs:g}'
    if not values:
        return 'missing', paper_cell, ''
    mean = stdlib.mean(values)
    spread = f' ± {stdlib.stdev(values):.{decimals}f}' if len(values) > 1 else ''
    return f'{mean:.{decimals}f}{spread}', paper_cell, '' if theirs is None else f'{mean - theirs:+.{decimals}f}'
