"""Given networks, asked at any route: what they answer, and what a router would read in front of every block."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.models import execution
from codinet_jax.models.execution import Execution
from codinet_jax.models.network import RoutedResNet
from experiments.real_accuracy import images, networks

NORM_MOMENTUM = 0.9  # of the network's batch norms


def _decide(logits_Bx64: jax.Array, noise_Bx2: jax.Array | None) -> jax.Array:
    """A block runs for a row whose noise is 1, not where it is 0; for ProbeRouter, which decides nothing."""
    del logits_Bx64
    assert noise_Bx2 is not None
    return noise_Bx2[:, 0]


told = Execution(_decide, execution.masked().combine)


class Answers(NamedTuple):
    """Logits [N, Y], and the pooled inputs of n blocks [N, n, 64], padded with zeros to the widest."""

    logits_NxY: np.ndarray
    features_Nxnx64: np.ndarray

    @property
    def predictions_N(self) -> np.ndarray:
        return np.argmax(self.logits_NxY, axis=-1)


class Probe:
    """A given network that takes the routes it is told; `variables` may be replaced."""

    def __init__(self, start: networks.Start, batch: int):
        self.start, self.batch = start, batch
        model, self.variables = networks.gated(start, 'probe', 0)
        self.costs = networks.costs(start, has_routers=False)
        self.num_blocks = start.architecture.num_blocks
        self._forward = jax.jit(_forward(model))
        self._statistics = jax.jit(_statistics(model))

    def answers(
        self, images_NxHxWxC: np.ndarray, decisions: np.ndarray | None = None, variables: Any = None
    ) -> Answers:
        """Of uint8 images under decisions, [N, n] or [n] for all of them; without any, all blocks run."""
        num_images, variables = len(images_NxHxWxC), variables or self.variables
        whole = np.ones(self.num_blocks) if decisions is None else np.asarray(decisions, float)
        decisions_Nxn = np.broadcast_to(whole, (num_images, self.num_blocks))
        parts = []
        for i in range(0, num_images, self.batch):
            rows = np.minimum(np.arange(i, i + self.batch), num_images - 1)  # filled up with the last image
            answer = jax.device_get(self._forward(variables, images_NxHxWxC[rows], decisions_Nxn[rows]))
            parts.append([x[: num_images - i] for x in answer])
        return Answers(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def re_estimated(self, images_BxHxWxC: np.ndarray, decisions_n: np.ndarray) -> Any:
        """Variables whose norms' statistics are those of these images on one route."""
        decisions_Bxn = np.broadcast_to(np.asarray(decisions_n, float), (len(images_BxHxWxC), self.num_blocks))
        return self.variables | {'batch_stats': self._statistics(self.variables, images_BxHxWxC, decisions_Bxn)}


def _forward(model: RoutedResNet) -> Any:
    def forward(variables: Any, images_BxHxWxC: jax.Array, decisions_Bxn: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = _told(model, variables, images_BxHxWxC, decisions_Bxn, train=False)
        return output.logits_BxY, output.router_logits_Bxnx2

    return forward


def _statistics(model: RoutedResNet) -> Any:
    def statistics(variables: Any, images_BxHxWxC: jax.Array, decisions_Bxn: jax.Array) -> Any:
        _, changed = _told(model, variables, images_BxHxWxC, decisions_Bxn, train=True, mutable=['batch_stats'])
        # A norm keeps a running mean: what it took from this batch is read back from how far it moved.
        return jax.tree.map(
            lambda old, new: (new - NORM_MOMENTUM * old) / (1 - NORM_MOMENTUM),
            variables['batch_stats'],
            changed['batch_stats'],
        )

    return statistics


def _told(model: RoutedResNet, variables: Any, images_BxHxWxC: Any, decisions_Bxn: Any, **settings: Any) -> Any:
    noise_Bxnx2 = jnp.stack([decisions_Bxn, decisions_Bxn], axis=-1)
    return model.apply(variables, images.normalise(images_BxHxWxC), told, noise_Bxnx2, **settings)


def views(data: images.Images, kind: str, num_views: int = 1, seed: int = 5) -> np.ndarray:
    """uint8 [N * num_views, H, W, C], the views of an image side by side, in one of `KINDS`."""
    padding, cut = KINDS[kind]
    if not padding:
        return np.repeat(data.images_NxHxWxC, num_views, axis=0)
    return images.drawn(data, num_views, seed, cut, padding).reshape(-1, *data.images_NxHxWxC.shape[1:])


# Pixels that an image may move by, mirrored or not, and those a side of the square cut out of it.
KINDS = {'plain': (0, 0), 'crop': (4, 0), 'crop and cut': (4, 12), 'strong': (8, 16)}
