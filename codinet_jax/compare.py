"""Draws several finished runs side by side: their numbers in one table, their figures over each other.

    python -m codinet_jax.compare --output=compared CoDiNet=runs/cifar10_r20 vanilla=runs/vanilla runs/other
    python -m codinet_jax.compare --output=compared --group runs/codinet/seed_* runs/vanilla/seed_*

A run may be given a label; without one it is called what its directory is. With --group, runs of one label are seeds of
one thing: numbers are their mean and standard deviation, figures hold the images of all; a directory seed_N is called
what the directory around it is. Reads what each run's evaluation recorded and writes numbers.json, numbers.md, every
figure as PNG and PDF and its data as CSV, and report.html.
"""

import pathlib
import re
from collections.abc import Sequence

import jax
from absl import flags

from codinet_jax.analysis import check_drawing, options
from codinet_jax.runtime import command, console, files, plugins
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.files import OutputDirectory
from codinet_jax.workdir import Workdir, name_of_point

OUTPUT = flags.DEFINE_string('output', None, 'The directory to write into; made if it is not there.')
plugins.define_import()
SPLIT = flags.DEFINE_enum(
    'split', None, ['train', 'validation', 'test'], 'Evaluated images; if not given, those that trainings ended with.'
)
OPERATING_POINT, COST = command.define_operating_point()  # that all of the runs were evaluated at
GROUP = flags.DEFINE_bool(
    'group', False, 'Whether runs of one label are seeds of one thing, of which mean and spread are given.'
)
DRAWING = options.define()


def main(argv: Sequence[str]) -> None:
    named, wanted = _labelled(argv[1:], GROUP.value), DRAWING.read()
    if OUTPUT.value is None:
        raise InputError('Say where to write: --output=DIRECTORY.')
    path = files.expanded(OUTPUT.value)
    check_drawing()
    jax.config.update('jax_platforms', 'cpu')

    from codinet_jax.analysis.run import read_run
    from codinet_jax.analysis.study import study
    from codinet_jax.analysis.tables import text

    point = name_of_point(OPERATING_POINT.value, COST.value)
    runs = [read_run(workdir, SPLIT.value, point, label) for label, workdir in named]
    if len({run.dataset for run in runs}) > 1:
        sets = ', '.join(f'{run.name} on {run.dataset}' for run in runs)
        raise InputError(f'Runs of different data sets cannot be held against each other: {sets}.')
    if len({run.split for run in runs}) > 1:
        splits = ', '.join(f'{run.name} on {run.split}' for run in runs)
        raise InputError(f'Runs were evaluated on different splits: {splits}. Name one with --split.')
    output = OutputDirectory(path)
    found = study(runs, console.log, wanted)
    output.write(found.files)
    print('\n'.join([*(f'note: {remark}' for remark in found.remarks), text(found.numbers)]))
    print(f'{len(found.files)} files; open {output.path / "report.html"}')


def _labelled(arguments: Sequence[str], is_grouped: bool) -> list[tuple[str, Workdir]]:
    """Labels and workdirs.

    Raises:
      InputError: there are fewer than two, or two of them share a label and are not grouped.
    """
    named: list[tuple[str, Workdir]] = []
    for argument in arguments:
        label, is_labelled, path = argument.partition('=')
        if not is_labelled or pathlib.Path(argument).is_dir():
            directory, path = pathlib.Path(argument).resolve(), argument
            is_seed = is_grouped and re.fullmatch(r'seed_\d+', directory.name)
            label = directory.parent.name if is_seed else directory.name
        if not is_grouped and label in dict(named):
            raise InputError(
                f'Two runs are called {label!r}: give them labels, as codinet={path}, or pool them by --group.'
            )
        named.append((label, Workdir(path)))
    if len(named) < 2:
        raise InputError('Name the runs to compare, two or more: LABEL=WORKDIR or WORKDIR.')
    return named


if __name__ == '__main__':
    command.run(main, takes_arguments=True)
