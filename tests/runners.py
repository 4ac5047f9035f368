"""One of several runners of a plan, as a process: apart from the tests, which import much that it need not wait for."""

import pathlib
import time
from typing import Any

from experiments.reproduce import queue


def finish(job: queue.Job) -> bool:
    """What a training leaves, without the training."""
    job.workdir.write_results({'macs_share': 0.5})
    return True


def work(directory: pathlib.Path, name: str, all_are_here: Any) -> None:
    """Works off a table with the others, once all are here, and writes down who trained what."""

    def train(job: queue.Job) -> bool:
        with open(directory / 'trained', 'a') as file:
            file.write(f'{job.run} {name}\n')
        time.sleep(0.05)
        return finish(job)

    all_are_here.wait(120)
    assert queue.work_off(queue.planned(['table6'], directory, ['0']), train) == []
