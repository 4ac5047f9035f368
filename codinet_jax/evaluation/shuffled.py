"""What routes are worth: the same weights on the routes of other images, so that rates and costs stay as they are."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from codinet_jax.data import augment
from codinet_jax.data.spec import DataSpec
from codinet_jax.data.split import Split
from codinet_jax.evaluation import controls
from codinet_jax.evaluation.evaluate import of_every_image
from codinet_jax.evaluation.record import Record, ShuffledRecord
from codinet_jax.models import execution
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError


def shuffle_routes(
    model: RoutedResNet,
    spec: DataSpec,
    variables: Any,
    split: Split,
    record: Record,
    *,
    times: int,
    batch_size: int = 500,
    seed: int = 0,
) -> ShuffledRecord:
    """Runs every image on routes that others took, on all devices.

    Args:
      model: a routed network.
      spec: of the images.
      variables: as the network's `apply` takes them.
      split: a data set.
      record: what evaluation recorded of it.
      times: how often routes are shuffled, among all images and again within each class.
      batch_size: images at a time, over all devices.
      seed: of the shuffles.

    Raises:
      InputError: there is one image alone.
    """
    if len(record.labels_N) < 2:
        raise InputError('One image alone has no other route to take: shuffle those of a split of more.')
    mesh, rng = sharding.data_mesh(), np.random.default_rng(seed)
    everywhere = sharding.replicated(mesh)
    placed = jax.device_put(variables, everywhere)
    routes = [
        jax.device_put(record.decisions_Nxn[controls.order_N(rng, record.labels_N, within_class=kind)], everywhere)
        for kind in (False, True)
        for _ in range(times)
    ]
    forward = _make_forward(model, spec, mesh)

    def of_batch(images_BxHxWxC: jax.Array, labels_B: jax.Array, positions_B: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(forward(placed, images_BxHxWxC, positions_B, told_Nxn) == labels_B for told_Nxn in routes)

    columns = of_every_image(of_batch, split, batch_size, mesh)
    right_TxN = np.stack(columns).astype(np.float32)
    right_N, within_N = right_TxN[:times].mean(axis=0), right_TxN[times:].mean(axis=0)
    return ShuffledRecord(record.predictions_N, right_N, within_N)


def _make_forward(model: RoutedResNet, spec: DataSpec, mesh: Mesh) -> Any:
    """The jitted classes of a batch, each image on the route that is told for its position in the split."""
    rolled, hard = model.clone(unroll=1), execution.with_noise(execution.masked())

    def forward(
        variables: Any, images_BxHxWxC: jax.Array, positions_B: jax.Array, decisions_Nxn: jax.Array
    ) -> jax.Array:
        noise_Bxnx2 = execution.dictated(decisions_Nxn[positions_B])
        normalised_BxHxWxC = augment.normalise(images_BxHxWxC, *spec.normalisation)
        output: Any = rolled.apply(variables, normalised_BxHxWxC, hard, noise_Bxnx2, train=False)
        return jnp.argmax(output.logits_BxY, axis=-1)

    everywhere, rows = sharding.replicated(mesh), sharding.by_rows(mesh)
    return jax.jit(forward, in_shardings=(everywhere, rows, rows, everywhere), out_shardings=rows)
