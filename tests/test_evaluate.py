"""Evaluation is exact: each image once, in order, and the same whatever the batch and the devices."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from codinet_jax import sharding
from codinet_jax.data import datasets
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.training import evaluate
from codinet_jax.training.evaluate import Record

NUM_IMAGES = 355
BATCH_SIZES = [1, 7, 64, 355, 1000]
MESH_SIZES = [1, 2, 8]


def numbered_images() -> ImageSet:
    """Images that hold their own number in their first two pixels."""
    images_NxHxWxC = np.zeros((NUM_IMAGES, 8, 8, 1), np.uint8)
    numbers_N = np.arange(NUM_IMAGES)
    images_NxHxWxC[:, 0, 0, 0], images_NxHxWxC[:, 0, 1, 0] = numbers_N // 256, numbers_N % 256
    return ImageSet(images_NxHxWxC, (numbers_N % 10).astype(np.int32))


def read_numbers(variables: Any, images_BxHxWxC: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Stands in for the network: predicts an image's number, and runs the blocks whose bits are set in it."""
    del variables
    pixels_Bx2 = images_BxHxWxC[:, 0, :2, 0].astype(jnp.int32)
    numbers_B = 256 * pixels_Bx2[:, 0] + pixels_Bx2[:, 1]
    u_Bxn = (numbers_B[:, None] >> jnp.arange(9)[None, :]) % 2 == 1
    return numbers_B, u_Bxn * 0.5, u_Bxn


@pytest.mark.parametrize('num_devices', MESH_SIZES)
@pytest.mark.parametrize('batch_size', BATCH_SIZES)
def test_every_image_is_met_once_in_the_order_of_the_split(batch_size: int, num_devices: int) -> None:
    images, mesh = numbered_images(), sharding.data_mesh(num_devices)
    record = evaluate.evaluate(read_numbers, None, images, batch_size, mesh)
    np.testing.assert_array_equal(record.predictions_N, np.arange(NUM_IMAGES))
    np.testing.assert_array_equal(record.labels_N, images.labels_N)
    np.testing.assert_array_equal(record.decisions_Nxn @ (1 << np.arange(9)), np.arange(NUM_IMAGES))
    np.testing.assert_array_equal(record.run_probability_Nxn, record.decisions_Nxn * 0.5)


@functools.cache
def forward_and_variables(num_devices: int) -> tuple[Any, Any, Any]:
    mesh, stage = sharding.data_mesh(num_devices), helpers.tiny_stages(helpers.tiny_config())[1]
    state = helpers.scattered_state(stage, mesh)
    forward = evaluate.make_forward(stage.step.model, datasets.dataset_spec('digits'), mesh)
    return forward, state.variables, mesh


def record_of(batch_size: int, num_devices: int) -> Record:
    forward, variables, mesh = forward_and_variables(num_devices)
    return evaluate.evaluate(forward, variables, helpers.noise_images(NUM_IMAGES), batch_size, mesh)


@functools.cache
def reference() -> Record:
    return record_of(355, 1)


def test_decisions_are_taken_at_the_threshold() -> None:
    """A block runs where v reaches it, and what runs changes what later blocks see."""
    _, variables, mesh = forward_and_variables(8)
    model, dataset = helpers.tiny_network(), datasets.dataset_spec('digits')
    images = helpers.noise_images(NUM_IMAGES)
    rates = []
    for threshold in (0.0, 0.3, 0.7, 1.1):
        forward = evaluate.make_forward(model, dataset, mesh, threshold)
        record = evaluate.evaluate(forward, variables, images, 500, mesh)
        np.testing.assert_array_equal(record.decisions_Nxn, record.run_probability_Nxn >= threshold)
        rates.append(float(record.decisions_Nxn.mean()))
    assert rates[0] == 1 and rates[-1] == 0 and rates[1] > rates[2]


def test_twice_gives_the_same_bits() -> None:
    for first, second in zip(record_of(64, 8), record_of(64, 8), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(('batch_size', 'num_devices'), [(7, 1), (1000, 1), (64, 2), (7, 8), (355, 8)])
def test_routes_do_not_depend_on_the_batch_or_the_devices(batch_size: int, num_devices: int) -> None:
    record = record_of(batch_size, num_devices)
    assert len(np.unique(reference().decisions_Nxn, axis=0)) > 2, 'too few routes to show anything'
    np.testing.assert_array_equal(record.decisions_Nxn, reference().decisions_Nxn)
    np.testing.assert_array_equal(record.predictions_N, reference().predictions_N)
    np.testing.assert_allclose(record.run_probability_Nxn, reference().run_probability_Nxn, rtol=1e-4, atol=1e-6)


def test_the_summary_is_what_numpy_counts() -> None:
    decisions_Nxn = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 0, 1]], bool)
    labels_N, predictions_N = np.array([0, 1, 2, 3, 4]), np.array([0, 1, 2, 0, 0])
    costs = helpers.tiny_costs()
    summary = evaluate.summarise(Record(labels_N, predictions_N, decisions_Nxn * 0.9, decisions_Nxn), costs)
    macs = [costs.fixed_macs + sum(np.array(costs.blocks_n)[decisions_n]) for decisions_n in decisions_Nxn]
    assert summary == {
        'top1': pytest.approx(3 / 5),
        'mean_path_length': pytest.approx((3 + 2 + 3 + 1 + 3) / 5),
        'num_blocks': 4,
        'num_paths': 3,
        'route_entropy': pytest.approx(-(0.6 * np.log2(0.6) + 2 * 0.2 * np.log2(0.2))),
        'mean_macs': pytest.approx(np.mean(macs)),
        'mean_flops': pytest.approx(2 * np.mean(macs)),
        'static_macs': costs.static_macs,
        'macs_share': pytest.approx(np.mean(macs) / costs.static_macs),
        'num_test_images': 5,
        'run_rate_per_block': pytest.approx([1.0, 0.6, 0.0, 0.8]),
    }
