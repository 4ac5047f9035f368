"""Whether memory stays flat: a long training, then many predictions, the process's memory against what it has done.

    python -m experiments.measure.soak --output=soaked

A small network on digits; the first fifth of each, where programs are compiled and pools fill, is left out of the line.
"""

import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from codinet_jax.runtime import command, provenance
from experiments.measure import report
from experiments.measure.sameness import rows

STEPS = flags.DEFINE_integer('steps', 10_000, 'To train, about.', lower_bound=1000)
PREDICTIONS = flags.DEFINE_integer('predictions', 100_000, 'Images to predict.', lower_bound=1000)
OUTPUT = flags.DEFINE_string('output', 'soaked', 'Where the run goes; what lies there is removed.')
RESULTS = flags.DEFINE_string('results', None, 'A JSON file to keep what came of it.')

STEPS_AN_EPOCH, BATCH_SIZES = 90, (1, 8, 64)
CONFIG = (
    *('--config=configs/digits_r14.py', '--config.model.depth=8', '--config.batch_size=16', '--config.num_views=2'),
    *('--config.stage1.decay_epochs=()', '--config.stage2.decay_epochs=()', '--config.log_every_steps=20'),
)


def main(argv: Sequence[str]) -> None:
    del argv
    command.output_file(RESULTS)  # refused before anything is measured
    root = report.empty_directory(OUTPUT.value)
    training = _line(_trained(root), 'step')
    prediction = _line(_predicted(root / 'run'), 'image')
    report.show({'training': training, 'prediction': prediction} | provenance.machine(), RESULTS.value)


def _trained(root: pathlib.Path) -> list[tuple[int, int]]:
    """Steps done and bytes resident, once a second, in stage 1 of a run; stage 2 compiles again, and is short."""
    command = [sys.executable, '-m', 'codinet_jax.main', *CONFIG, f'--workdir={root / "run"}']
    points = []
    with open(root / 'run.log', 'w') as log:
        lengths = [f'--config.stage1.epochs={STEPS.value / STEPS_AN_EPOCH}', '--config.stage2.epochs=1.0']
        process = subprocess.Popen([*command, *lengths], stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(1)
            done = [row['step'] for row in rows(root / 'run')[-1:] if row['stage'] == 1]
            if done and process.poll() is None:
                points.append((done[0], _resident_bytes(process.pid)))
    if process.returncode:
        raise SystemExit(f'the run failed: see {root / "run.log"}')
    return points


def _predicted(workdir: pathlib.Path) -> list[tuple[int, int]]:
    from codinet_jax.inference import load

    predictor, rng, done = load.from_workdir(workdir), np.random.default_rng(0), 0
    points = []
    while done < PREDICTIONS.value:
        size = int(rng.choice(BATCH_SIZES))
        predictor(rng.integers(0, 256, (size, *predictor.spec.image_shape), np.uint8))
        done += size
        points.append((done, _resident_bytes(os.getpid())))
    return points


def _line(points: Sequence[tuple[int, int]], unit: str) -> dict[str, Any]:
    """The straight line through what was seen after the first fifth."""
    done, resident = np.array(points, np.float64).T
    settled = done > done[-1] / 5
    slope, start = np.polyfit(done[settled], resident[settled], 1)
    around = resident[settled] - (slope * done[settled] + start)
    return {
        f'{unit}s': int(done[-1]),
        'megabytes_then': round(float(resident[settled][0]) / 1e6, 1),
        'megabytes_at_the_end': round(float(resident[-1]) / 1e6, 1),
        f'bytes_per_{unit}': round(float(slope), 2),
        'megabytes_around_the_line': round(float(around.std()) / 1e6, 2),
    }


def _resident_bytes(process_id: int) -> int:
    pages = int(pathlib.Path(f'/proc/{process_id}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')


if __name__ == '__main__':
    command.run(main)
