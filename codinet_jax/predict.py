"""Classifies image files, or a split of the run's data set, with a finished run:

    python -m codinet_jax.predict --workdir=runs/cifar10_r110 cat.jpg dog.png
    python -m codinet_jax.predict --workdir=runs/digits_r14 --split=test --json

Of each image: the class and its probability, the route as a row of blocks (full ones run, dots are skipped; stages are
set apart), and the MACs spent against the static network's. An image that cannot be read is reported on its own line,
the others are answered, and the exit status is 1.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import command
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir

if TYPE_CHECKING:
    import numpy as np

    from codinet_jax.inference.predictor import NetworkSpec, Predictor

WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run is kept.')
config_flag.define_import()
SPLIT = flags.DEFINE_enum('split', None, ['train', 'validation', 'test'], "A split of the run's data set, for files.")
DATA_DIR = flags.DEFINE_string('data_dir', None, "Where TFDS keeps its sets, if not where the run's config says.")
OPERATING_POINT = flags.DEFINE_string(
    'operating_point', None, 'A threshold that codinet_jax.calibrate found, by its name.'
)
flags.DEFINE_alias('budget', 'operating_point')  # its name in older versions
STRATEGY = flags.DEFINE_string('strategy', None, 'masked, conditional, compacted or fused; the best here if not given.')
BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Images at a time, at most.', lower_bound=1)
JSON = flags.DEFINE_bool('json', False, 'One JSON object a line: file, label, probability, route, macs, static_macs.')

Item = tuple[str, 'np.ndarray | InputError']
Answer = dict[str, Any] | InputError


def main(argv: Sequence[str]) -> int:
    files = argv[1:]
    workdir = Workdir.named(WORKDIR.value)
    if bool(files) == bool(SPLIT.value):
        raise InputError('Say what to classify, image files or a split: IMAGE... or --split=test.')
    command.start_devices()

    from codinet_jax.inference import load

    predictor = load.from_workdir(workdir.path, operating_point=OPERATING_POINT.value, strategy=STRATEGY.value)
    items, num_items = (
        _of_split(workdir, SPLIT.value) if SPLIT.value else (_of_files(files, predictor.spec), len(files))
    )
    is_whole = True
    for name, answer in _answered(predictor, items, min(BATCH_SIZE.value, num_items)):
        is_whole &= not isinstance(answer, InputError)
        _report(name, answer, predictor.spec)
    return 0 if is_whole else 1


def _of_files(files: Sequence[str], spec: 'NetworkSpec') -> Iterator[Item]:
    from codinet_jax.data.image_files import read_image

    for file in files:
        try:
            yield file, read_image(file, spec.image_size, spec.num_channels, spec.center_crop)
        except InputError as error:
            yield file, error


def _of_split(workdir: Workdir, split: str) -> tuple[Iterator[Item], int]:
    from codinet_jax.config import setup
    from codinet_jax.runtime.hosts import Host

    config = workdir.read_config()
    config.data_dir = DATA_DIR.value or config.data_dir
    images = setup.read(config).data.open(split)
    batches = images.evaluation_batches(BATCH_SIZE.value, Host())
    rows = (row for batch, _, positions in batches for row in zip(batch, positions, strict=True))
    return ((f'{split}[{i}]', image) for image, i in rows if i >= 0), images.num_images


def _answered(predictor: 'Predictor', items: Iterable[Item], batch_size: int) -> Iterator[tuple[str, Answer]]:
    """Every item's answer, in order; images are answered in batches of one size, for each size is compiled once."""
    waiting: list[Item] = []
    for item in items:
        waiting.append(item)
        if sum(not isinstance(image, InputError) for _, image in waiting) == batch_size:
            yield from _answer(predictor, waiting, batch_size)
            waiting = []
    yield from _answer(predictor, waiting, batch_size)


def _answer(predictor: 'Predictor', items: Sequence[Item], batch_size: int) -> Iterator[tuple[str, Answer]]:
    images = [image for _, image in items if not isinstance(image, InputError)]
    rows = zip(*predictor.in_batches(images, batch_size), strict=True) if images else iter(())
    for name, image in items:
        if isinstance(image, InputError):
            yield name, image
            continue
        label, probabilities_Y, _, decisions_n, macs = next(rows)
        yield (
            name,
            {
                'label': int(label),
                'probability': float(probabilities_Y[label]),
                'route': decisions_n.astype(int).tolist(),
                'macs': int(macs),
                'static_macs': predictor.spec.static_macs,
            },
        )


def _report(name: str, answer: Answer, spec: 'NetworkSpec') -> None:
    if JSON.value:
        found = {'error': str(answer)} if isinstance(answer, InputError) else answer
        print(json.dumps({'file': name} | found), flush=True)
    elif isinstance(answer, InputError):
        print(f'error: {answer}', file=sys.stderr, flush=True)
    else:
        label, probability, route, macs, static_macs = answer.values()
        print(
            f'{name}  {spec.classes[label]}  {probability:.1%}  {spec.draw(route)}  '
            f'{macs / 1e6:.2f} of {static_macs / 1e6:.2f} MMACs, {macs / static_macs:.0%}',
            flush=True,
        )


if __name__ == '__main__':
    command.run(main, takes_arguments=True)
