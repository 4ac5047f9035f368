"""Draws what a finished run's routes say: `python -m codinet_jax.analyze --workdir=runs/digits_r14`.

Reads what evaluation recorded and writes WORKDIR/analysis/: numbers.json and numbers.md, every figure as PNG and PDF
and its data as CSV, and report.html, a page that needs no network, with a map of the routes to hover over. For a
journal: --width=single --format=pdf. Needs no accelerator and no data set. Another split, operating point or cost goes
into a directory of its own, as WORKDIR/analysis/test_NAME/, and must have been evaluated first: codinet_jax.evaluate
--operating_point=NAME, or --cost=0.5. With --against=WORKDIR the run is held, image by image, against what another was
evaluated to on the same split.
"""

import pathlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from absl import flags

from codinet_jax.analysis import check_drawing, options
from codinet_jax.runtime import command, console, plugins
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.files import OutputDirectory
from codinet_jax.workdir import Workdir, name_of_point

if TYPE_CHECKING:
    from codinet_jax.analysis.run import Run

WORKDIR = flags.DEFINE_string('workdir', None, 'The directory of a finished run, as runs/digits_r14.')
plugins.define_import()
SPLIT = flags.DEFINE_enum(
    'split', None, ['train', 'validation', 'test'], 'Evaluated images; if not given, those that training ended with.'
)
OPERATING_POINT, COST = command.define_operating_point()
AGAINST = flags.DEFINE_string('against', None, 'The workdir of another run, to be held against image by image.')
DRAWING = options.define()


def main(argv: Sequence[str]) -> None:
    del argv
    workdir, started, wanted = Workdir.named(WORKDIR.value), time.monotonic(), DRAWING.read()
    check_drawing()
    jax.config.update('jax_platforms', 'cpu')

    from codinet_jax.analysis.run import read_run
    from codinet_jax.analysis.study import study
    from codinet_jax.analysis.tables import text

    run = read_run(workdir, SPLIT.value, name_of_point(OPERATING_POINT.value, COST.value))
    other = None if AGAINST.value is None else _other(AGAINST.value, run)
    output = OutputDirectory(workdir.analysis if run.is_own else workdir.analysis / run.recorded)
    found = study([run], console.log, wanted, [other] if other else [])
    output.write(found.files)
    print('\n'.join([*(f'note: {remark}' for remark in found.remarks), text(found.numbers)]))
    print(f'{len(found.files)} files in {time.monotonic() - started:.0f} s; open {output.path / "report.html"}')


def _other(path: str, run: 'Run') -> 'Run':
    """Another run, evaluated as it was trained on the same images.

    Raises:
      InputError: it was evaluated on others, or not at all.
    """
    from codinet_jax.analysis.run import read_run

    found = read_run(Workdir(path), run.split, label=path if pathlib.Path(path).name == run.name else None)
    if not np.array_equal(found.record.labels_N, run.record.labels_N):
        raise InputError(f'{path} was evaluated on other images than {run.name}: no image of the two can be paired.')
    return found


if __name__ == '__main__':
    command.run(main)
