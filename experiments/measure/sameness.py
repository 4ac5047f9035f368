"""Whether two finished runs are the same to the bit, the clock aside."""

import json
import pathlib
from typing import Any

import numpy as np

OF_THE_CLOCK = ('seconds_train', 'images_per_second')


def differences(workdir: pathlib.Path, expected: pathlib.Path) -> list[str]:
    """What two finished runs do not share to the bit, the clock's doings aside: weights, routes, metrics, results."""
    found = []
    for name in ('weights.npz', 'routes/test.npz', 'thumbnails/test.npz'):
        with np.load(expected / name) as ours, np.load(workdir / name) as theirs:
            if sorted(ours.files) != sorted(theirs.files):
                found.append(f'{name}: other arrays')
                continue
            found += [f'{name}: {key}' for key in ours.files if not _is_same(ours[key], theirs[key])]
    found += ['metrics.jsonl'] if rows(workdir) != rows(expected) else []
    return found + (['results.json'] if _results(workdir) != _results(expected) else [])


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, without the clock's doings."""
    path = workdir / 'metrics.jsonl'
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    complete = [json.loads(line) for line in lines if line.endswith('\n')]
    return [_without_clock(row) for row in complete]


def _results(workdir: pathlib.Path) -> dict[str, Any]:
    return _without_clock(json.loads((workdir / 'results.json').read_text()))


def _without_clock(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if name not in OF_THE_CLOCK}


def _is_same(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()
