"""Cascades of any number of networks, the first of which may answer twice: accuracy and cost from answers given once.

`python -m experiments.real_accuracy.longer_cascades --cache=DIR --output=DIR --name=NAME \
--cascades='resnet20>resnet56,resnet56_after_resnet20_8epochs_s0>resnet44'`: each cascade names what `cascade` has asked
(given networks, in --cache) or `run` has trained (in --output), and its first may be what `two_depths` has trained
(there too), whose deep answer is in place of its first. What follows joins the mean of all that were asked, and an
image goes on while the answer's largest probability is too small. All steps share one threshold; it meets the cost on
one half of test and is used on the other, both ways. Writes NAME.json: `alone`, every network's own answers, and
`cascades`.
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from codinet_jax.evaluation import controls
from codinet_jax.inference.cascade import joined
from codinet_jax.inference.cascade_answers import decided
from codinet_jax.runtime import files
from codinet_jax.runtime.errors import InputError
from experiments.real_accuracy import cascade

FLAGS = flags.FLAGS
NUM_HALVINGS = 40


class Steps(NamedTuple):
    """Of a cascade's K steps on N images whether the answer after each is right, and how unsure it is; MACs of each."""

    right_KxN: np.ndarray
    unsure_KxN: np.ndarray
    macs_K: np.ndarray


def read(names: Sequence[str], cache: pathlib.Path, output: pathlib.Path) -> Steps:
    """The steps of a cascade.

    Raises:
      InputError: one of its networks has not been asked, or of other images.
    """
    parts = [_of_one(name, cache, output) for name in names]
    labels_N = parts[0][0].labels
    if not all(np.array_equal(each.labels, labels_N) for part in parts for each in part):
        raise InputError(f'{" > ".join(names)}: these were asked about different images; ask them again.')
    found = [cascade.probabilities(each.logits) for each in parts[0]]
    for k, (network,) in enumerate(parts[1:], start=1):
        found.append(joined(found[-1], cascade.probabilities(network.logits), k))
    answers_KxNxY = np.stack(found)
    unsure_KxN = (1 - answers_KxNxY.max(axis=-1)).astype(np.float32)
    macs_K = np.array([each.macs for part in parts for each in part])
    return Steps(answers_KxNxY.argmax(axis=-1) == labels_N, unsure_KxN, macs_K)


def _of_one(name: str, cache: pathlib.Path, output: pathlib.Path) -> list[cascade.Answerer]:
    of_both = [output / f'{name}_{kind}_routes.npz' for kind in ('shallow', 'deep')]
    for paths in ([cache / f'given_{name}.npz'], [output / f'{name}_routes.npz'], of_both):
        if all(path.exists() for path in paths):
            return [cascade.read(path) for path in paths]
    raise InputError(f'Nothing has asked {name}: run experiments.real_accuracy.cascade, run or two_depths first.')


def taken_N(steps: Steps, threshold: float, rows: Any = slice(None)) -> np.ndarray:
    """The last step that each image takes."""
    return decided(steps.unsure_KxN[:, rows], threshold)[1].sum(axis=-1)


def threshold_of(steps: Steps, target_macs: float, rows: Any) -> float:
    """The smallest, by halving, at which these images cost no more than asked."""
    low, high = 0.0, 1.0
    spent_K = np.cumsum(steps.macs_K)
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        if spent_K[taken_N(steps, middle, rows)].mean() > target_macs:
            low = middle
        else:
            high = middle
    return high


def point(steps: Steps, target_macs: float, times: int) -> dict[str, Any]:
    """Accuracy at a cost, and what the routes are worth over those of other images."""
    num_images = steps.right_KxN.shape[1]
    halves = slice(0, None, 2), slice(1, None, 2)
    last_N = np.zeros(num_images, int)
    for set_on, used_on in (halves, halves[::-1]):
        last_N[used_on] = taken_N(steps, threshold_of(steps, target_macs, set_on), used_on)
    right_N = steps.right_KxN[last_N, np.arange(num_images)]
    rng = np.random.default_rng(0)
    shuffled_N = np.mean(
        [steps.right_KxN[rng.permutation(last_N), np.arange(num_images)] for _ in range(times)], axis=0
    )
    difference = controls.paired_difference(right_N, shuffled_N)
    return {
        'target_macs': target_macs,
        'accuracy': 100 * float(right_N.mean()),
        'mean_macs': float(np.cumsum(steps.macs_K)[last_N].mean()),
        'share_of_images_by_last_step': (np.bincount(last_N, minlength=len(steps.macs_K)) / num_images).tolist(),
        'own_less_shuffled': {key: 100 * value for key, value in difference.items()},
    }


def main(argv: Sequence[str]) -> None:
    del argv
    cache, output = pathlib.Path(FLAGS.cache), pathlib.Path(FLAGS.output)
    alone = [
        each for name in dict.fromkeys('>'.join(FLAGS.cascades).split('>')) for each in _of_one(name, cache, output)
    ]
    found = {}
    for names in FLAGS.cascades:
        steps = read(names.split('>'), cache, output)
        found[names] = [point(steps, target, FLAGS.shuffles) for target in cascade.TARGETS if target > steps.macs_K[0]]
        print(
            names,
            *(f'{each["accuracy"]:.2f} % at {each["mean_macs"] / 1e6:.1f}' for each in found[names]),
            sep='  ',
        )
    numbers = {
        'alone': {each.name: {'accuracy': each.accuracy, 'macs': each.macs} for each in alone},
        'cascades': found,
    }
    files.write(output / f'{FLAGS.name}.json', lambda file: file.write(files.json_bytes(numbers)))


if __name__ == '__main__':
    from experiments.real_accuracy import settings

    del settings  # imported for its flags
    flags.DEFINE_list('cascades', None, 'Networks, > between them.', required=True)
    flags.DEFINE_string('output', 'runs/real_accuracy', 'Where results of two_depths are, and this goes.')
    flags.DEFINE_string('name', 'longer_cascades', 'Of the file of numbers.')
    flags.DEFINE_integer('shuffles', 20, 'Times that routes are shuffled.')
    app.run(main)
