"""Classifies image files, or a split of the run's data set, with a finished run or another network:

    python -m codinet_jax.predict --pretrained=cifar10 cat.jpg
    python -m codinet_jax.predict --workdir=runs/cifar10_r110 cat.jpg photos/ 'more/**/*.png' --top=5 --csv=answers.csv
    python -m codinet_jax.predict --workdir=runs/digits_r14 --split=test

A directory stands for all image files in it and below; a glob in quotes may be longer than a command line; /dev/stdin
is an image that is piped in. Of each image: its class and the probability of it, the route as a row of blocks (stages
are set apart), and the MACs spent against the static network's; of a split the accuracy, and each image with --each.
An image that cannot be read is reported on its own line, the others are answered, and the exit status is 1.
"""

import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from absl import flags

from codinet_jax.runtime import command, files, plugins
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir

if TYPE_CHECKING:
    from codinet_jax.inference.answers import Named, Refusal
    from codinet_jax.inference.answers_report import Form
    from codinet_jax.inference.inputs import Item

NETWORK = command.define_network()
plugins.define_import()
SPLIT = flags.DEFINE_enum('split', None, ['train', 'validation', 'test'], "A split of the run's data set, for files.")
DATA_DIR = flags.DEFINE_string('data_dir', None, "Where the data lie, if not where the run's config says.")
OPERATING_POINT, COST = command.define_operating_point()
STRATEGY = flags.DEFINE_string('strategy', None, 'masked, conditional, compacted or fused; the best here if not given.')
BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Images at a time, at most.', lower_bound=1)
TOP = flags.DEFINE_integer(
    'top', 0, 'So many of the likeliest classes of each image, with probabilities.', lower_bound=0
)
JSON = flags.DEFINE_bool(
    'json', False, 'One JSON object a line: file, label, class, probability, route, macs and more.'
)
CSV = flags.DEFINE_string('csv', None, 'A new file for a table of all answers; they are then not printed as well.')
EACH = flags.DEFINE_bool('each', False, 'Print a line for each image of a split too, or beside --csv.')

# By whether it goes to a terminal.
SECONDS_TO_COMPILING = {True: 2.0, False: 60.0}
SECONDS_TO_PROGRESS = {True: 5.0, False: 60.0}


def main(argv: Sequence[str]) -> int:
    named = argv[1:]
    network = NETWORK.given('which network')
    if bool(named) == bool(SPLIT.value):
        raise InputError('Say what to classify, image files or a split: IMAGE... or --split=test.')
    if not network.workdir and (SPLIT.value or STRATEGY.value):
        raise InputError('--split and --strategy are of a run: give its --workdir, or image files alone.')
    if DATA_DIR.value and not SPLIT.value:
        raise InputError('--data_dir is where a --split lies: leave it out for image files.')
    csv_file = _new_file()
    command.start_devices()

    from codinet_jax.inference import answers, answers_report, inputs, source

    predictor = source.predictor(
        network, operating_point=OPERATING_POINT.value, cost=COST.value, strategy=STRATEGY.value
    )
    form = answers_report.Form(predictor.spec, TOP.value, answers_report.marks_for(sys.stdout.encoding))
    if SPLIT.value:
        items, num_items = _of_split(Workdir.named(network.workdir), SPLIT.value)
    else:
        paths = inputs.find(named)
        items, num_items = inputs.read(paths, predictor.spec, 2 * BATCH_SIZE.value), len(paths)
    tally = answers_report.Tally(num_items)
    is_each = JSON.value or EACH.value or not (SPLIT.value or csv_file)
    if is_each and not JSON.value:
        print(form.legend, file=sys.stderr, flush=True)

    def progress(line: str) -> None:
        if not (is_each and sys.stdout.isatty()):  # where lines on the same terminal show it
            print(line, file=sys.stderr, flush=True)

    with answers_report.table(csv_file, form) as write:
        quiet = SECONDS_TO_COMPILING[sys.stderr.isatty()]
        answered = answers.answered(predictor, items, min(BATCH_SIZE.value, num_items), quiet)
        for found in answers_report.counted(answered, tally, SECONDS_TO_PROGRESS[sys.stderr.isatty()], progress):
            write(found)
            _report(found, form, is_each)
    # Where every image has its line, what is said of them all keeps out of the way.
    for line in ([tally.accuracy(SPLIT.value)] if SPLIT.value else []) + [tally.closing(predictor.spec)]:
        print(line, file=sys.stderr if is_each else sys.stdout, flush=True)
    return 1 if tally.num_failed else 0


def _new_file() -> pathlib.Path | None:
    path = command.output_file(CSV)
    if path is not None and path.exists():
        raise InputError(f'{path} is there already: give --csv a new file.')
    return path


def _of_split(workdir: Workdir, split: str) -> tuple[Iterator['Item'], int]:
    from codinet_jax.config import setup
    from codinet_jax.inference.inputs import Item
    from codinet_jax.runtime.hosts import Host

    config = workdir.read_config()
    config.data_dir = DATA_DIR.value or config.data_dir
    images = setup.read(config).data.open(split)
    batches = images.evaluation_batches(BATCH_SIZE.value, Host())
    rows = (row for batch in batches for row in zip(*batch, strict=True))
    return (Item(f'{split}[{i}]', image, int(label)) for image, label, i in rows if i >= 0), images.num_images


def _report(found: 'Named | Refusal', form: 'Form', is_each: bool) -> None:
    from codinet_jax.inference.answers import Refusal

    if JSON.value:
        print(json.dumps(form.as_json(found)), flush=True)
    elif isinstance(found, Refusal):
        print(f'error: {files.printable(str(found.error))}', file=sys.stderr, flush=True)
    elif is_each:
        print(form.line(found), flush=True)


if __name__ == '__main__':
    command.run(main, takes_arguments=True)
