"""The rival: a small network answers, and images of little confidence go on to a larger one; the mean of both counts.

`python -m experiments.real_accuracy.cascade --given=resnet20.npz,resnet56.npz --data_dir=DIR --cache=DIR --output=DIR`
asks the given networks once, then pairs them, and the static and pruned runs in the output, for accuracy at given
costs; only networks that answered the same images are paired.
Confidence is the largest class probability. The threshold is the quantile that meets the cost: of one half of test,
read on the other, both ways; and of the training views that gates are calibrated on.
"""

import itertools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from codinet_jax.evaluation import controls
from codinet_jax.models.execution import masked
from codinet_jax.runtime import command
from experiments.real_accuracy import images, kept, networks

TARGETS = (40.6e6, 50e6, 55e6, 60e6, 65e6, 68.9e6, 80e6, 90e6, 100e6, 110e6)


class Answerer(NamedTuple):
    """A network's logits of test and of calibration views, with their classes; what it costs an image it is asked."""

    name: str
    macs: float
    logits: np.ndarray
    labels: np.ndarray
    calibration_logits: np.ndarray
    calibration_labels: np.ndarray

    @property
    def accuracy(self) -> float:
        """Of its own answers to all images of test, in per cent."""
        return 100 * float(np.mean(np.argmax(self.logits, axis=-1) == self.labels))


def read(path: pathlib.Path) -> Answerer:
    with np.load(path) as arrays:
        fields = {name: arrays[name] for name in Answerer._fields if name in arrays}
    fields['macs'] = float(fields['macs'])
    return Answerer(name=path.stem.removesuffix('_routes'), **fields)


def ask(
    answer: Callable[[jax.Array], Sequence[jax.Array]],
    macs: Sequence[float],
    test: images.Images,
    calibration: images.Images,
    batch: int,
) -> list[dict[str, Any]]:
    """Answers as `read` reads them, of every network whose logits `answer` gives of normalised images.

    `macs` is what each costs an image that it is asked about.
    """
    forward = jax.jit(lambda images_BxHxWxC: answer(images.normalise(images_BxHxWxC)))

    def logits(images_NxHxWxC: np.ndarray) -> list[np.ndarray]:
        rows = (slice(i, i + batch) for i in range(0, len(images_NxHxWxC), batch))
        parts = [jax.device_get(forward(images_NxHxWxC[part])) for part in rows]
        return [np.concatenate(of_one) for of_one in zip(*parts, strict=True)]

    calibration = images.calibration(calibration)
    labels = {'labels': test.labels_N.astype(np.uint8), 'calibration_labels': calibration.labels_N.astype(np.uint8)}
    return [
        labels | {'macs': np.float64(cost), 'logits': logits_NxY, 'calibration_logits': calibration_logits_NxY}
        for cost, logits_NxY, calibration_logits_NxY in zip(
            macs, logits(test.images_NxHxWxC), logits(calibration.images_NxHxWxC), strict=True
        )
    ]


def ask_static(start: networks.Start, test: images.Images, calibration: images.Images, batch: int) -> dict[str, Any]:
    """A given network's answers."""
    model = networks.static(start, np.float32)

    def answer(inputs: jax.Array) -> list[jax.Array]:
        output: Any = model.apply(start.variables, inputs, masked(), train=False)
        return [output.logits_BxY]

    macs = networks.costs(start, has_routers=False).static_macs
    return ask(answer, [macs], test, calibration, batch)[0]


def probabilities(logits_NxY: np.ndarray) -> np.ndarray:
    """Of the classes, in float64."""
    logits_NxY = np.asarray(logits_NxY, np.float64)
    odds_NxY = np.exp(logits_NxY - np.max(logits_NxY, axis=-1, keepdims=True))
    return odds_NxY / np.sum(odds_NxY, axis=-1, keepdims=True)


def confidence(logits_NxY: np.ndarray) -> np.ndarray:
    """The largest class probability."""
    return np.max(probabilities(logits_NxY), axis=-1)


def together(small: Answerer, large: Answerer) -> np.ndarray:
    """The classes [N] of the mean of both answers."""
    return np.argmax(probabilities(small.logits) + probabilities(large.logits), axis=-1)


def of_large(small: Answerer, large: Answerer) -> np.ndarray:
    """The classes [N] of the large one's answer alone."""
    del small
    return np.argmax(large.logits, axis=-1)


def pair(
    small: Answerer, large: Answerer, target_macs: float, answer: Callable[..., np.ndarray] = together
) -> dict[str, Any] | None:
    """Accuracy and cost of the two at that cost; None where they cannot cost that.

    `answer` gives the classes of images that go on.
    """
    share = (target_macs - small.macs) / large.macs
    if not 0 <= share <= 1:
        return None
    confidence_N, together_N = confidence(small.logits), answer(small, large)

    def right(threshold: float, rows: Any) -> tuple[float, float]:
        goes_on = confidence_N[rows] < threshold
        predictions = np.where(goes_on, together_N[rows], np.argmax(small.logits[rows], -1))
        macs = small.macs + large.macs * np.mean(goes_on)
        return 100 * float(np.mean(predictions == small.labels[rows])), float(macs)

    halves = slice(0, None, 2), slice(1, None, 2)
    crossed = [
        right(float(np.quantile(confidence_N[set_on], share)), read_on) for set_on, read_on in (halves, halves[::-1])
    ]
    of_train = right(float(np.quantile(confidence(small.calibration_logits), share)), slice(None))
    return {
        'small': small.name,
        'large': large.name,
        'target_macs': target_macs,
        'num_images': len(small.labels),
        'accuracy': float(np.mean([accuracy for accuracy, _ in crossed])),
        'mean_macs': float(np.mean([macs for _, macs in crossed])),
        'accuracy_threshold_of_train': of_train[0],
        'mean_macs_threshold_of_train': of_train[1],
    }


def worth(
    small: Answerer, large: Answerer, target_macs: float, times: int, answer: Callable[..., np.ndarray] = together
) -> dict[str, dict[str, float]]:
    """In points, by how much images are right more often than if others went on, as many of all or of each class.

    The threshold is the quantile of these images that meets the cost.
    """
    share = (target_macs - small.macs) / large.macs
    confidence_N = confidence(small.logits)
    goes_on_N = confidence_N < np.quantile(confidence_N, share)
    small_N, large_N = np.argmax(small.logits, -1) == small.labels, answer(small, large) == small.labels
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, float]] = {}
    for kind in ('all', 'within_class'):
        orders = [controls.order_N(rng, small.labels, within_class=kind == 'within_class') for _ in range(times)]
        shuffled_N = np.mean([np.where(goes_on_N[order_N], large_N, small_N) for order_N in orders], axis=0)
        difference = controls.paired_difference(np.where(goes_on_N, large_N, small_N), shuffled_N)
        found[kind] = {key: 100 * value for key, value in difference.items()}
    return found


def table(answerers: Sequence[Answerer]) -> list[dict[str, Any]]:
    """All pairs that answered the same images, small before large, at all costs that they can have."""
    rows = []
    for small, large in itertools.permutations(answerers, 2):
        if small.macs < large.macs and np.array_equal(small.labels, large.labels):
            rows += [pair(small, large, target) for target in TARGETS]
    return [row for row in rows if row]


def answers(cache: pathlib.Path, output: pathlib.Path) -> list[pathlib.Path]:
    """What given networks answered, and runs whose every image takes the same blocks."""
    runs = [path for kind in ('static', 'pruned') for path in output.glob(f'*_{kind}_*_routes.npz')]
    return [*sorted(cache.glob('given_*.npz')), *sorted(runs)]


def ask_all(
    given: Sequence[str], data_dir: str, cache: pathlib.Path, num_test: int, num_calibration: int, batch: int
) -> None:
    """Puts the answers of given networks into the cache, those that are not there of so many images."""
    missing = [path for path in given if not _is_asked(answers_of(path, cache), num_test, num_calibration)]
    if not missing:
        return
    test = images.read('test', data_dir, cache).part(slice(num_test))
    calibration = images.read('train', data_dir, cache).part(slice(num_calibration))
    for weights in missing:
        found = ask_static(networks.read(weights), test, calibration, batch)
        np.savez_compressed(answers_of(weights, cache), **found)
        answerer = read(answers_of(weights, cache))
        print(f'{pathlib.Path(weights).stem}: {answerer.accuracy:.2f} % at {answerer.macs / 1e6:.2f} MMACs', flush=True)


def _is_asked(path: pathlib.Path, num_test: int, num_calibration: int) -> bool:
    if not path.exists():
        return False
    found = read(path)
    return (len(found.labels), len(found.calibration_labels)) == (num_test, num_calibration)


def answers_of(weights: str, cache: pathlib.Path) -> pathlib.Path:
    """The file of a given network's answers."""
    return cache / f'given_{pathlib.Path(weights).stem}.npz'


def main(argv: Sequence[str]) -> None:
    del argv
    cache, output = pathlib.Path(flags.FLAGS.cache), pathlib.Path(flags.FLAGS.output)
    given = flags.FLAGS.given
    kept.check_weights(cache, given)
    num_test, num_calibration = flags.FLAGS.test_images, flags.FLAGS.calibration
    ask_all(given, flags.FLAGS.data_dir, cache, num_test, num_calibration, flags.FLAGS.eval_batch)
    rows = table([read(path) for path in answers(cache, output)])
    output.mkdir(parents=True, exist_ok=True)
    (output / 'cascades.json').write_text(json.dumps(rows, indent=1) + '\n')
    for row in sorted(rows, key=lambda row: (row['target_macs'], -row['accuracy'])):
        print(
            f'{row["target_macs"] / 1e6:5.1f} M  {row["accuracy"]:6.2f} %   (threshold of train: '
            f'{row["accuracy_threshold_of_train"]:6.2f} % at {row["mean_macs_threshold_of_train"] / 1e6:5.1f} M)  '
            f'{row["small"]} > {row["large"]}'
        )


if __name__ == '__main__':
    from experiments.real_accuracy import settings

    del settings  # imported for its flags
    flags.DEFINE_list('given', [], 'Weights of static networks.')
    flags.DEFINE_string('output', 'runs/real_accuracy', 'Where results are, and go.')
    flags.DEFINE_integer('test_images', 10_000, 'Images of test, from the first.')
    flags.DEFINE_integer('calibration', 10_000, 'Training images that thresholds are also set on.')
    flags.DEFINE_integer('eval_batch', 10_000, 'Images at a time.')
    command.run(main)
