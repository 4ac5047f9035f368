"""Classifies image files, or a split of the run's data set, with a finished run:

    python -m codinet_jax.predict --workdir=runs/cifar10_r110 cat.jpg dog.png
    python -m codinet_jax.predict --workdir=runs/digits_r14 --split=test --json

Of each image: the class and its probability, the route as a row of blocks (full ones run, dots are skipped; stages are
set apart), and the MACs spent against the static network's. An image that cannot be read is told of on its own line,
the others are answered, and the exit status is 1.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from codinet_jax import doors
from codinet_jax.errors import InputError
from codinet_jax.workdir import Workdir

if TYPE_CHECKING:
    import numpy as np

    from codinet_jax.inference.predictor import Card, Predictor

WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run is kept.')
SPLIT = flags.DEFINE_enum('split', None, ['train', 'validation', 'test'], "A split of the run's data set, for files.")
DATA_DIR = flags.DEFINE_string('data_dir', None, "Where TFDS keeps its sets, if not where the run's config says.")
BUDGET = flags.DEFINE_string('budget', None, 'A threshold that codinet_jax.calibrate found, by its name.')
STRATEGY = flags.DEFINE_string('strategy', None, 'masked, conditional, compacted or fused; the best here if not given.')
BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Images at a time, at most.', lower_bound=1)
JSON = flags.DEFINE_bool('json', False, 'One JSON object a line: file, label, probability, route, macs, static_macs.')

Item = tuple[str, 'np.ndarray | InputError']
Answer = dict[str, Any] | InputError


def main(argv: Sequence[str]) -> int:
    files = argv[1:]
    workdir = doors.named_workdir(WORKDIR)
    if bool(files) == bool(SPLIT.value):
        raise InputError('Say what to classify, image files or a split: IMAGE... or --split=test.')
    doors.start_devices()

    from codinet_jax.inference.predictor import Predictor

    predictor = Predictor.from_workdir(workdir.path, budget=BUDGET.value, strategy=STRATEGY.value)
    items, num_items = (
        _of_split(workdir, SPLIT.value) if SPLIT.value else (_of_files(files, predictor.card), len(files))
    )
    is_whole = True
    for name, answer in _answered(predictor, items, min(BATCH_SIZE.value, num_items)):
        is_whole &= not isinstance(answer, InputError)
        _tell(name, answer, predictor.card)
    return 0 if is_whole else 1


def _of_files(files: Sequence[str], card: 'Card') -> Iterator[Item]:
    from codinet_jax.data.image_files import read_image

    for file in files:
        try:
            yield file, read_image(file, card.image_size, card.num_channels, card.center_crop)
        except InputError as error:
            yield file, error


def _of_split(workdir: Workdir, split: str) -> tuple[Iterator[Item], int]:
    from codinet_jax import settings
    from codinet_jax.data.order import Host

    config = workdir.read_config()
    config.data_dir = DATA_DIR.value or config.data_dir
    images = settings.split(config, split)
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
                'static_macs': predictor.card.static_macs,
            },
        )


def _tell(name: str, answer: Answer, card: 'Card') -> None:
    if JSON.value:
        found = {'error': str(answer)} if isinstance(answer, InputError) else answer
        print(json.dumps({'file': name} | found), flush=True)
    elif isinstance(answer, InputError):
        print(f'error: {answer}', file=sys.stderr, flush=True)
    else:
        label, probability, route, macs, static_macs = answer.values()
        print(
            f'{name}  {card.classes[label]}  {probability:.1%}  {card.draw(route)}  '
            f'{macs / 1e6:.2f} of {static_macs / 1e6:.2f} MMACs, {macs / static_macs:.0%}',
            flush=True,
        )


if __name__ == '__main__':
    doors.open_door(main, takes_arguments=True)
