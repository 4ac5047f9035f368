"""Measures where the time of a training step goes:

    python -m codinet_jax.profile --config=imagenet_r50 --config.data_dir=DIR
    python -m codinet_jax.profile --config=cifar10_r110 --trace=DIRECTORY

Steps are taken as training takes them, on its data; with --random_pixels on one batch of them, and no data is needed.
The trace opens in https://ui.perfetto.dev (perfetto_trace.json.gz) and in TensorBoard's profiler. Nothing else is kept.
"""

from collections.abc import Sequence

from absl import flags

from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import command, files, plugins
from codinet_jax.runtime.errors import InputError

CONFIG = config_flag.define_config('Whose step: cifar10_r110[:variant], another name, or a file.')
plugins.define_import()
STAGE = flags.DEFINE_integer('stage', 1, 'The stage whose step is taken.', lower_bound=1, upper_bound=2)
STEPS = flags.DEFINE_integer('steps', 20, 'Steps that are timed.', lower_bound=1)
PEAK_TFLOPS = flags.DEFINE_float(
    'peak_tflops', None, "A device's peak in the network's precision, if it is not known here.", lower_bound=1e-3
)
TRACE = flags.DEFINE_string('trace', None, 'A directory to write a trace of three steps to.')
RANDOM_PIXELS = flags.DEFINE_bool('random_pixels', False, 'Take steps on one batch of random pixels, without data.')
OUTPUT = flags.DEFINE_string('output', None, 'A JSON file to write the numbers to.')


def main(argv: Sequence[str]) -> None:
    del argv
    config = config_flag.read(CONFIG, 'what to profile: ')
    output, trace = command.output_file(OUTPUT), None if TRACE.value is None else files.expanded(TRACE.value)
    if trace and trace.exists() and not trace.is_dir():
        raise InputError(f'{trace} is a file: give --trace a directory.')
    if trace:
        files.OutputDirectory(trace)
    command.start_devices(config.batch_size // max(1, config.accumulate_steps), trains=True)

    from codinet_jax.config import left_open
    from codinet_jax.runtime import provenance
    from codinet_jax.training import profiling

    found = profiling.profile(
        left_open.read(config),
        STAGE.value,
        STEPS.value,
        trace,
        PEAK_TFLOPS.value,
        lambda line: print(line, flush=True),
        with_data=not RANDOM_PIXELS.value,
    )
    print(profiling.readable(found))
    if trace:
        print(f'trace in {trace}')
    if output:
        everything = {'machine': provenance.machine()} | found
        files.write(output, lambda file: file.write(files.json_bytes(everything)))
        print(f'written to {output}')


if __name__ == '__main__':
    command.run(main)
