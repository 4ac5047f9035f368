"""What tests of real training processes share: waiting for them, what they said, and whether two left the same."""

import importlib.util
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from experiments.measure.sameness import OF_THE_CLOCK, differences, rows

__all__ = ['rows']

Process = subprocess.Popen[str]

# Read by Python as it starts, as sitecustomize.py.
_NO_TENSORFLOW = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
hidden = ('tensorflow', 'tensorboard')
PathFinder.find_spec = lambda name, *rest: None if name.partition('.')[0] in hidden else find_spec(name, *rest)
"""


def without_tensorflow(directory: Path) -> dict[str, str]:
    """Variables under which an interpreter has no TensorFlow, by a file in this directory if there is one to hide."""
    if importlib.util.find_spec('tensorflow') is None:
        return {}
    (directory / 'sitecustomize.py').write_text(_NO_TENSORFLOW)
    return {'PYTHONPATH': str(directory)}


def ended(process: Process, returncode: int, seconds: float = 300) -> tuple[str, str]:
    """What a process said on stdout and on stderr, once it has ended."""
    stdout, stderr = process.communicate(timeout=seconds)
    assert process.returncode == returncode, stdout + stderr
    return stdout, stderr


def wait_for(processes: tuple[Process, ...], is_reached: Callable[[], bool]) -> None:
    while not is_reached():
        assert all(process.poll() is None for process in processes), [each.communicate() for each in processes]
        time.sleep(0.01)


def newest_step(workdir: Path) -> int:
    # Read from behind: a run that goes on after a kill first cuts off what it will do again.
    return rows(workdir)[-1]['step'] if rows(workdir) else 0


def assert_same_run(workdir: Path, expected: Path) -> None:
    """Weights, routes, metrics and results to the bit, where the clock has no say."""
    assert differences(workdir, expected) == []
    results = [json.loads((path / 'results.json').read_text()) for path in (workdir, expected)]
    assert all(result[name] > 0 for result in results for name in OF_THE_CLOCK)
