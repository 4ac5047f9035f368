"""Sets what was reproduced beside what the paper reports: `python -m experiments.summarize --output=reproduced`.

Reads the runs that experiments.run trained and writes, in OUTPUT/SCALE or the directory of --to, for every table and
figure of which there is a run: NAME.md and NAME.json, with mean and spread over seeds, the paper's number and the
difference, and pictures. Runs that are not there are shown as missing.
"""

import pathlib
from collections.abc import Sequence

import jax
from absl import flags

from codinet_jax.runtime import command, files
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.files import OutputDirectory
from experiments.reproduce import readme
from experiments.reproduce.definitions import DEFINITIONS
from experiments.reproduce.scales import SCALES

OUTPUT = flags.DEFINE_string('output', 'reproduced', 'What experiments.run wrote to.')
SCALE = flags.DEFINE_enum('scale', None, list(SCALES), 'One scale; all that were run if not given.')
README = flags.DEFINE_bool(
    'readme', False, 'Only write the tables of experiments/README.md anew from experiments/results.'
)
TO = flags.DEFINE_string('to', None, 'Where to write; beside the runs if not given.')


def main(argv: Sequence[str]) -> None:
    wanted = argv[1:] or list(DEFINITIONS)
    if unknown := [name for name in wanted if name not in DEFINITIONS]:
        raise InputError(f'{unknown[0]!r} is no table or figure here: name some of {", ".join(DEFINITIONS)}.')
    jax.config.update('jax_platforms', 'cpu')
    if README.value:
        here = pathlib.Path(__file__).parent
        path = here / 'README.md'
        path.write_text(readme.filled(path.read_text(), here / 'results'))
        return

    from experiments.reproduce.summary import runs_of, summary

    root = files.expanded(OUTPUT.value)
    scales = [SCALE.value] if SCALE.value else [name for name in SCALES if (root / name).is_dir()]
    if not scales:
        raise InputError(f'{root} holds no run: train some with experiments.run.')
    for scale in scales:
        output = OutputDirectory(files.expanded(TO.value) if TO.value else root / scale)
        for name in wanted:
            definition = DEFINITIONS[name]
            found = runs_of(definition.rows, root / scale)
            if any(found.values()):
                written = summary(f'{name}_{scale}', definition, scale, found)
                output.write(written)
                print(written[f'{name}_{scale}.md'].decode())


if __name__ == '__main__':
    command.run(main, takes_arguments=True)
