"""Exports a finished run as files that run without this package's models, Flax or the checkpoint:

    python -m codinet_jax.export --workdir=runs/digits_r14 --output=digits.exported

One StableHLO program for cpu, cuda and tpu and any batch size, the folded weights, and a manifest. It skips blocks as
`codinet_jax.predict` does. Read it with `codinet_jax.load_exported('digits.exported')`, which answers uint8 images.
"""

from collections.abc import Sequence

from absl import flags

from codinet_jax import doors
from codinet_jax.errors import InputError

WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run is kept.')
OUTPUT = flags.DEFINE_string('output', None, 'A new directory to export into.')
BUDGET = flags.DEFINE_string('budget', None, 'A threshold that codinet_jax.calibrate found, by its name.')


def main(argv: Sequence[str]) -> None:
    del argv
    workdir = doors.named_workdir(WORKDIR)
    if OUTPUT.value is None:
        raise InputError('Say where to: --output=DIRECTORY.')

    from codinet_jax.inference import artefact, program

    config, weights = workdir.read_config(), workdir.read_weights()
    threshold = workdir.read_budget(BUDGET.value)
    program.export(OUTPUT.value, config, weights, threshold)
    megabytes = artefact.size(OUTPUT.value) / 1e6
    print(f'{OUTPUT.value}: {megabytes:.1f} MB, gates held to {threshold:g}, for {", ".join(artefact.PLATFORMS)}')


if __name__ == '__main__':
    doors.open_door(main)
