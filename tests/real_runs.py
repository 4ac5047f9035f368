"""What tests of real training processes share: waiting for them, what they said, and whether two left the same."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Process = subprocess.Popen[str]

OF_THE_CLOCK = ('seconds_train', 'images_per_second')

# Read by Python as it starts, as sitecustomize.py: this interpreter then has no TensorFlow, whatever is installed.
NO_TENSORFLOW = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
hidden = ('tensorflow', 'tensorboard')
PathFinder.find_spec = lambda name, *rest: None if name.partition('.')[0] in hidden else find_spec(name, *rest)
"""


def ended(process: Process, returncode: int, seconds: float = 300) -> tuple[str, str]:
    """What a process said on stdout and on stderr, once it has ended."""
    stdout, stderr = process.communicate(timeout=seconds)
    assert process.returncode == returncode, stdout + stderr
    return stdout, stderr


def wait_for(processes: tuple[Process, ...], is_reached: Callable[[], bool]) -> None:
    while not is_reached():
        assert all(process.poll() is None for process in processes), [each.communicate() for each in processes]
        time.sleep(0.01)


def rows(workdir: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, without what the clock says."""
    text = (workdir / 'metrics.jsonl').read_text() if (workdir / 'metrics.jsonl').exists() else ''
    whole = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith('\n')]
    return [{name: value for name, value in row.items() if name not in OF_THE_CLOCK} for row in whole]


def newest_step(workdir: Path) -> int:
    # Read from behind: a run that goes on after a kill first cuts off what it will do again.
    return rows(workdir)[-1]['step'] if rows(workdir) else 0


def assert_same_run(workdir: Path, expected: Path) -> None:
    """Weights, routes, metrics and results to the bit, where the clock has no say."""
    for name in ('weights.npz', 'routes/test.npz'):
        with np.load(expected / name) as ours, np.load(workdir / name) as theirs:
            assert sorted(theirs.files) == sorted(ours.files) and ours.files
            for key in ours.files:
                assert theirs[key].dtype == ours[key].dtype
                np.testing.assert_array_equal(theirs[key], ours[key], err_msg=key)
    assert rows(workdir) == rows(expected)
    results = [json.loads((path / 'results.json').read_text()) for path in (workdir, expected)]
    assert all(result.pop(name) > 0 for result in results for name in OF_THE_CLOCK)
    assert results[0] == results[1]
