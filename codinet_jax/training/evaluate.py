"""Exact evaluation, and the record of every route taken: each image counted once, whatever batch and devices are."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from codinet_jax import hosts, settings, sharding
from codinet_jax.data import augment
from codinet_jax.data.ahead import ahead
from codinet_jax.data.datasets import DatasetSpec
from codinet_jax.data.split import Split
from codinet_jax.models import execution
from codinet_jax.models.codinet import CoDiNet
from codinet_jax.models.cost import CostTable
from codinet_jax.routing import paths, relaxation


class Record(NamedTuple):
    """What the network did with every image of a split, in the split's order; saved as `routes/<split>.npz`.

    `run_probability_Nxn` is the noise-free v of Eq. 6, `decisions_Nxn` the u of Eq. 13.
    """

    labels_N: np.ndarray
    predictions_N: np.ndarray
    run_probability_Nxn: np.ndarray
    decisions_Nxn: np.ndarray


Forward = Callable[[Any, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]


def make_forward(model: CoDiNet, dataset: DatasetSpec, mesh: Mesh, threshold: float = 0.5) -> Forward:
    """The jitted inference of one batch: variables and uint8 images to predictions, run probabilities and decisions."""
    rolled, hard = model.clone(unroll=1), execution.masked(threshold)

    def forward(variables: Any, images_BxHxWxC: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        normalised_BxHxWxC = augment.normalise(images_BxHxWxC, dataset.mean, dataset.std)
        output: Any = rolled.apply(variables, normalised_BxHxWxC, hard, train=False)
        v_Bxn = output.run_probability_Bxn
        return jnp.argmax(output.logits_BxY, axis=-1), v_Bxn, relaxation.hard_decision(v_Bxn, threshold)

    everywhere, rows = sharding.replicated(mesh), sharding.by_rows(mesh)
    # The answers are small and every host records them all.
    return jax.jit(forward, in_shardings=(everywhere, rows), out_shardings=everywhere)


def evaluate(forward: Forward, variables: Any, split: Split, batch_size: int, mesh: Mesh) -> Record:
    """Runs every image once; the batch is rounded up to a multiple of the devices, its padding never counted."""
    batch_size = -(-batch_size // mesh.size) * mesh.size
    to_all_hosts = jax.jit(lambda *arrays: arrays, out_shardings=sharding.replicated(mesh))
    batches = (sharding.put(mesh, *batch) for batch in split.evaluation_batches(batch_size, hosts.this()))
    parts = []
    with contextlib.closing(ahead(batches)) as ready:
        for images_BxHxWxC, *of_each_image in ready:
            parts.append(jax.device_get((*to_all_hosts(*of_each_image), *forward(variables, images_BxHxWxC))))
    labels, positions, *answers = map(np.concatenate, zip(*parts, strict=True))
    in_order = np.argsort(positions, kind='stable')[np.sum(positions < 0) :]
    return Record(*(array[in_order] for array in (labels, *answers)))


def summarise(record: Record, costs: CostTable) -> dict[str, Any]:
    """The numbers of a record: accuracy in [0, 1], K, #paths, MACs and FLOPs of the mean image."""
    decisions_Nxn = jnp.asarray(record.decisions_Nxn)
    run_rates_n = np.mean(record.decisions_Nxn, axis=0)
    mean_macs = costs.mean_macs(run_rates_n)
    return {
        'top1': float(np.mean(record.predictions_N == record.labels_N)),
        'mean_path_length': float(np.sum(run_rates_n)),
        'num_blocks': record.decisions_Nxn.shape[1],
        'num_paths': int(paths.num_paths(decisions_Nxn)),
        'route_entropy': float(paths.route_entropy(decisions_Nxn)),
        'mean_macs': mean_macs,
        'mean_flops': 2 * mean_macs,
        'static_macs': costs.static_macs,
        'macs_share': mean_macs / costs.static_macs,
        'num_test_images': len(record.labels_N),
        'run_rate_per_block': run_rates_n.tolist(),
    }


def evaluate_weights(
    config: ConfigDict, variables: Any, split: str, threshold: float = 0.5
) -> tuple[Record, dict[str, Any]]:
    """Evaluates a config's network with the given variables on a split, noise-free.

    Raises:
      InputError: the split cannot be read, or is the validation split of a run that held none out.
    """
    mesh = sharding.data_mesh()
    forward = make_forward(settings.network(config), settings.dataset(config), mesh, threshold)
    images = settings.split(config, split)
    variables = jax.device_put(variables, sharding.replicated(mesh))
    record = evaluate(forward, variables, images, config.eval_batch_size, mesh)
    return record, summarise(record, settings.costs(config))
