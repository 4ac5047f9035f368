"""What a network answers, at hard decisions; its thresholds, set on training images; and what its routes are worth."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.evaluation import controls
from codinet_jax.models.cost import CostTable
from codinet_jax.models.network import RoutedResNet
from codinet_jax.routing import paths
from experiments.real_accuracy import gates, images


class Answers(NamedTuple):
    """Logits [N, Y], decisions [N, n] and margins [N, n] of images."""

    logits: np.ndarray
    decisions: np.ndarray
    margins: np.ndarray

    @property
    def predictions(self) -> np.ndarray:
        return np.argmax(self.logits, axis=-1)

    def accuracy(self, labels_N: np.ndarray) -> float:
        """In per cent."""
        return 100 * float(np.mean(self.predictions == labels_N))


Forward = Callable[[Any, Any, Any, gates.Knobs], tuple[jax.Array, jax.Array, jax.Array]]


def make_forward(model: RoutedResNet) -> Forward:
    """The jitted float32 forward of uint8 images with `gates.noise` under knobs."""
    model = model.clone(dtype=jnp.float32, unroll=1)

    @jax.jit
    def forward(variables: Any, images_BxHxWxC: jax.Array, noise_Bxnx2: jax.Array, knobs: gates.Knobs) -> Any:
        output: Any = model.apply(
            variables, images.normalise(images_BxHxWxC), gates.execution(knobs), noise_Bxnx2, train=False
        )
        margins_Bxn = output.router_logits_Bxnx2[..., 1] - output.router_logits_Bxnx2[..., 0]
        return output.logits_BxY, output.run_probability_Bxn >= 0.5, margins_Bxn

    return forward


class Judge:
    """A network at hand to be asked: variables, images in batches of one size, knobs for hard decisions."""

    def __init__(self, forward: Forward, costs: CostTable, rates_n: np.ndarray, batch: int, is_random: bool):
        self.forward, self.costs, self.batch = forward, costs, batch
        self.rates_n = np.asarray(rates_n, np.float32)
        self.is_random = is_random

    def knobs(self, **changes: float) -> gates.Knobs:
        values = {'heed': 1.0 - self.is_random, 'noise': 1.0 * self.is_random} | changes
        knobs = gates.Knobs(self.rates_n)._replace(**values)
        return gates.Knobs(*(np.asarray(knob, np.float32) for knob in knobs))

    def noise(self, num_images: int, seed: int = 0) -> np.ndarray:
        """Of chance only where the method is chance: then every image has its own fixed draw."""
        return np.asarray(gates.noise(jax.random.key(seed), num_images, jnp.asarray(self.rates_n)))

    def answers(
        self,
        variables: Any,
        images_NxHxWxC: np.ndarray,
        noise_Nxnx2: np.ndarray | None = None,
        knobs: gates.Knobs | None = None,
    ) -> Answers:
        num_images, knobs = len(images_NxHxWxC), knobs or self.knobs()
        noise_Nxnx2 = self.noise(num_images) if noise_Nxnx2 is None else noise_Nxnx2
        parts = []
        for i in range(0, num_images, self.batch):
            rows = np.minimum(np.arange(i, i + self.batch), num_images - 1)  # filled up with the last image
            answer = jax.device_get(self.forward(variables, images_NxHxWxC[rows], noise_Nxnx2[rows], knobs))
            parts.append([x[: num_images - i] for x in answer])
        return Answers(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def dictated(self, variables: Any, images_NxHxWxC: np.ndarray, decisions_Nxn: np.ndarray) -> Answers:
        noise_Nxnx2 = np.asarray(gates.dictated(jnp.asarray(decisions_Nxn)))
        return self.answers(variables, images_NxHxWxC, noise_Nxnx2, self.knobs(noise=1.0))

    def macs(self, answers: Answers) -> float:
        return self.costs.mean_macs(np.mean(answers.decisions, axis=0))

    def fix_thresholds(self, variables: Any, images_BxHxWxC: np.ndarray) -> Any:
        """Variables whose gates run their share of these images by a threshold, as rank gates do of a batch.

        The images are one batch, so each block's threshold is found under the decisions of those before it. Margins are
        made of unit deviation: ranks are blind to their size, which may be thousands, but a shift of all is not.
        """
        assert len(images_BxHxWxC) == self.batch
        margins_Bxn = self.answers(variables, images_BxHxWxC, knobs=self.knobs(rank=1.0)).margins
        found_n = np.asarray(gates.thresholds_n(jnp.asarray(margins_Bxn), jnp.asarray(self.rates_n)))
        is_free_n = (self.rates_n > 0) & (self.rates_n < 1)
        lowered = gates.lowered(variables, np.where(is_free_n, found_n, 0.0))
        deviations_n = np.std(margins_Bxn.astype(np.float64), axis=0)
        return gates.scaled(lowered, 1 / np.where(is_free_n & (deviations_n > 0), deviations_n, 1.0))

    def match_cost(self, variables: Any, images_NxHxWxC: np.ndarray, target_macs: float, turns: int = 20) -> float:
        """The shift of all margins at which these images cost `target_macs`, to a thousandth if it can be had.

        Strides double until the target lies between two costs, for nothing bounds how large margins may be.
        """
        shift, macs = 0.0, self.macs(self.answers(variables, images_NxHxWxC))
        best = (abs(macs - target_macs), 0.0)
        ends: dict[str, tuple[float, float]] = {}
        stride = 0.5
        for _ in range(turns):
            if best[0] < 1e-3 * target_macs:
                break
            ends['low' if macs < target_macs else 'high'] = (shift, macs)
            if len(ends) == 2:
                (a, at_a), (b, at_b) = ends['low'], ends['high']
                share = np.clip((target_macs - at_a) / max(at_b - at_a, 1.0), 0.05, 0.95)
                shift = float(a + share * (b - a))
            else:
                shift += stride if macs < target_macs else -stride
                stride *= 2
            macs = self.macs(self.answers(variables, images_NxHxWxC, knobs=self.knobs(shift=shift)))
            best = min(best, (abs(macs - target_macs), shift))
        return best[1]


def describe(answers: Answers, labels_N: np.ndarray, costs: CostTable, is_free_n: np.ndarray) -> dict[str, Any]:
    """Accuracy, cost and what kind of routes these are; blocks of `is_free_n` may be skipped by the architecture."""
    decisions_Nxn = jnp.asarray(answers.decisions)
    rates_n = np.mean(answers.decisions, axis=0)
    is_open_n = (rates_n > 0.05) & (rates_n < 0.95) & is_free_n
    return {
        'accuracy': answers.accuracy(labels_N),
        'mean_macs': costs.mean_macs(rates_n),
        'num_paths': int(paths.num_paths(decisions_Nxn)),
        'route_entropy': float(paths.route_entropy(decisions_Nxn)),
        'share_off_most_common': controls.share_off_most_common(answers.decisions),
        'run_rates': rates_n.tolist(),
        'num_open_blocks': int(np.sum(is_open_n)),
        'num_free_blocks': int(np.sum(is_free_n)),
    }


def difference(own_N: np.ndarray, other_N: np.ndarray) -> dict[str, float]:
    """Mean of own minus other in points, and its standard error, image by image."""
    found = controls.paired_difference(own_N, other_N)
    return {'points': 100 * found['difference'], 'standard_error': 100 * found['standard_error']}


def shuffled(
    judge: Judge, variables: Any, data: images.Images, answers: Answers, times: int, seed: int = 0
) -> dict[str, dict[str, float]]:
    """By how much own routes beat those of other images: of all, and of the same true class; weights and costs stay."""
    rng = np.random.default_rng(seed)
    own_N = answers.predictions == data.labels_N

    found = {}
    for name in ('all', 'within_class'):
        right_N = np.zeros(len(own_N))
        for _ in range(times):
            order_N = controls.order_N(rng, data.labels_N, within_class=name == 'within_class')
            other = judge.dictated(variables, data.images_NxHxWxC, answers.decisions[order_N])
            right_N += (other.predictions == data.labels_N) / times
        found[name] = difference(own_N, right_N) | {'accuracy': 100 * float(np.mean(right_N))}
    return found


def agreement(judge: Judge, variables: Any, data: images.Images, seed: int = 1) -> dict[str, float]:
    """Of two augmented views (crop and mirror, no cut): how often routes are the same, and how often a block's is."""
    views_NxMxHxWxC = images.drawn(data, 2, seed)
    first, second = (judge.answers(variables, views_NxMxHxWxC[:, view]).decisions for view in (0, 1))
    return {
        'routes': float(np.mean(np.all(first == second, axis=-1))),
        'hamming': float(np.mean(np.sum(first != second, axis=-1))),
    }


def dial(judge: Judge, variables: Any, data: images.Images, shifts: tuple[float, ...]) -> list[dict[str, float]]:
    """Accuracy and cost of one network as its margins are shifted."""
    curve = []
    for shift in shifts:
        answers = judge.answers(variables, data.images_NxHxWxC, knobs=judge.knobs(shift=shift))
        accuracy = answers.accuracy(data.labels_N)
        curve.append({'shift': shift, 'mean_macs': judge.macs(answers), 'accuracy': accuracy})
    return sorted(curve, key=lambda point: point['mean_macs'])
