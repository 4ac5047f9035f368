"""Times a network's executions side by side: static, masked, conditional and compacted.

    python -m codinet_jax.benchmark --workdir=runs/digits_r14
    python -m codinet_jax.benchmark --config=cifar10_r110 --run_rate=0.25,0.5,1.0 --batch_sizes=1,128

With a workdir the decisions are its routers' on its test images; with a config, or a run rate, they are random, and
every image runs that share of the blocks. Static is the same backbone without routers, arranged as is fastest here.
"""

from collections.abc import Sequence
from typing import TypeVar

from absl import flags

from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import command, files, plugins
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir

CONFIG = config_flag.define_config('What to time, untrained: cifar10_r110[:variant], another name, or a file.')
plugins.define_import()
WORKDIR = flags.DEFINE_string('workdir', None, 'Where a finished run is kept, to be timed instead.')
RUN_RATE = flags.DEFINE_list(
    'run_rate', None, 'Shares of blocks run at random; for a config 0.25,0.5,1.0 if not given.'
)
BATCH_SIZES = flags.DEFINE_list('batch_sizes', ['1', '128'], 'Images at a time.')
REPEATS = flags.DEFINE_integer('repeats', 15, 'Turns that are timed, of every program.', lower_bound=1)
OPERATING_POINT, COST = command.define_operating_point()  # of a workdir
TILE = flags.DEFINE_integer(
    'tile', None, "Rows that compacted runs at a time; the platform's best if not given.", lower_bound=1
)
DATA_DIR = flags.DEFINE_string('data_dir', None, "Where the data lie, if not where the run's config says.")
OUTPUT = flags.DEFINE_string('output', None, 'A JSON file to write the numbers to.')

MOST_IMAGES = 2_000  # of a test set, held in memory to be drawn from

N = TypeVar('N', int, float)


def main(argv: Sequence[str]) -> None:
    del argv
    batch_sizes = _numbers('batch_sizes', BATCH_SIZES.value, int, 1, 1_000_000)
    run_rates = _numbers('run_rate', RUN_RATE.value or [], float, 0.0, 1.0)
    output = command.output_file(OUTPUT)
    if WORKDIR.value is not None and CONFIG.value is not None:
        raise InputError('--workdir and --config are two networks to time: give one.')
    of_run = {'operating_point': OPERATING_POINT.value, 'cost': COST.value, 'data_dir': DATA_DIR.value}
    given = next((name for name, value in of_run.items() if value is not None), None)
    if given and WORKDIR.value is None:
        raise InputError(f'--{given} is of a run, and none is given: give its --workdir, or leave it out.')
    if given and run_rates:
        raise InputError(f'--run_rate draws pixels and decisions at random, and --{given} is of real ones: give one.')
    command.start_devices()

    from codinet_jax.config import left_open, setup
    from codinet_jax.inference import load, timing, timing_report
    from codinet_jax.models.network import drawn
    from codinet_jax.runtime import provenance

    threshold, images = 0.5, None
    if WORKDIR.value is not None:
        workdir = Workdir.named(WORKDIR.value)
        config = workdir.read_config()
        config.data_dir = DATA_DIR.value or config.data_dir
        named = setup.read(config)
        variables = workdir.read_weights()
        threshold = load.operating_points(workdir).threshold(OPERATING_POINT.value, COST.value)
        if not run_rates:
            images = named.data.open(named.test_split).sample(MOST_IMAGES, named.recipe.seed).images_NxHxWxC
    else:
        named = left_open.read(config_flag.read(CONFIG, 'what to time: --workdir=DIRECTORY, or '))
        variables, run_rates = drawn(named.model, named.recipe.seed), run_rates or [0.25, 0.5, 1.0]
    model, seed = named.model, named.recipe.seed
    contests = []
    for batch_size in batch_sizes:
        num_draws = min(REPEATS.value, 16)
        draws = (
            [timing.random_draws(model, batch_size, rate, num_draws, seed) for rate in run_rates]
            if images is None
            else [timing.real_draws(images, batch_size, num_draws, seed)]
        )
        contests.append(
            timing.contest(
                model,
                named.data.spec,
                variables,
                draws,
                repeats=REPEATS.value,
                threshold=threshold,
                tile=TILE.value,
                report=lambda line: print(line, flush=True),
            )
        )
        print(timing_report.readable(contests[-1].rows), flush=True)
    rows = [row for contest in contests for row in contest.rows]
    print(timing_report.COLUMNS)
    print('\n'.join(filter(None, (timing_report.explained(rows), timing_report.recommendation(rows)))), flush=True)
    if output:
        network = {'dataset': named.record['dataset'], **named.record['model']}
        numbers = {'machine': provenance.machine(), 'repeats': REPEATS.value} | timing_report.as_json(network, contests)
        files.write(output, lambda file: file.write(files.json_bytes(numbers)))
        print(f'written to {output}; draw it with: python -m experiments.measure.plot_timing {output} FIGURE.png')


def _numbers(name: str, texts: Sequence[str], kind: type[N], low: N, high: N) -> list[N]:
    try:
        numbers = [kind(text) for text in texts]
        if not all(low <= number <= high for number in numbers):
            raise ValueError
    except ValueError as error:
        what = 'whole numbers' if kind is int else 'numbers'
        raise InputError(
            f'--{name} is {",".join(texts)}: give {what} from {low} to {high}, split by commas.'
        ) from error
    return numbers


if __name__ == '__main__':
    command.run(main)
