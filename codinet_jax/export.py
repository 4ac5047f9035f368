"""Exports a finished run as files that run without this package's models, Flax or the checkpoint:

    python -m codinet_jax.export --workdir=runs/digits_r14 --output=digits.exported

One StableHLO program for cpu, cuda and tpu and any batch size, the folded weights, and a manifest. It skips blocks as
`codinet_jax.predict` does. Read it with `codinet_jax.load_exported('digits.exported')`, which answers uint8 images. The
operating points that codinet_jax.calibrate found and the curve for any --cost go with it.
"""

from collections.abc import Sequence

from absl import flags

from codinet_jax.runtime import command, plugins
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir

WORKDIR = flags.DEFINE_string('workdir', None, 'The directory of a finished run, as runs/digits_r14.')
plugins.define_import()
OUTPUT = flags.DEFINE_string('output', None, 'A new directory to export into.')
OPERATING_POINT, COST = command.define_operating_point()


def main(argv: Sequence[str]) -> None:
    del argv
    workdir = Workdir.named(WORKDIR.value)
    if OUTPUT.value is None:
        raise InputError('Say where to: --output=DIRECTORY.')

    from codinet_jax.inference import exported, load

    exported.check_new(OUTPUT.value)
    predictor = load.from_workdir(
        workdir.path, operating_point=OPERATING_POINT.value, cost=COST.value, strategy='compacted'
    )
    predictor.export(OUTPUT.value)
    size, platforms = f'{exported.size(OUTPUT.value) / 1e6:.1f} MB', ', '.join(exported.PLATFORMS)
    print(f'{OUTPUT.value}: {size}, gates held to {predictor.threshold:g}, for {platforms}')


if __name__ == '__main__':
    command.run(main)
