"""Evaluation is exact: each image once, in order, and the same whatever the batch and the devices."""

import functools
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
from codinet_jax.data import datasets
from codinet_jax.data.augmentations import AUGMENTATIONS
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.evaluation import evaluate
from codinet_jax.evaluation.evaluate import Answers
from codinet_jax.evaluation.record import AugmentedRecord, Record
from codinet_jax.evaluation.statistics import summarise
from codinet_jax.methods import CoDiNet
from codinet_jax.routing import relaxation
from codinet_jax.runtime import sharding

NUM_IMAGES = 355
BATCH_SIZES = [1, 7, 64, 355, 1000]
MESH_SIZES = [1, 2, 8]


@pytest.fixture(scope='module', autouse=True)
def compiled_with_little_care() -> Iterator[None]:
    """All that evaluates a split here, which runs once or twice."""
    with mock.patch.object(jax, 'jit', helpers.quick_jit):
        yield


def numbered_images() -> ImageSet:
    """Images that hold their own number in their first two pixels."""
    images_NxHxWxC = np.zeros((NUM_IMAGES, 8, 8, 1), np.uint8)
    numbers_N = np.arange(NUM_IMAGES)
    images_NxHxWxC[:, 0, 0, 0], images_NxHxWxC[:, 0, 1, 0] = numbers_N // 256, numbers_N % 256
    return ImageSet(images_NxHxWxC, (numbers_N % 10).astype(np.int32))


@helpers.quick_jit
def read_numbers(variables: Any, images_BxHxWxC: jax.Array, *_: Any) -> Answers:
    """Stands in for the network: predicts an image's number, and runs the blocks whose bits are set in it.

    The brighter a pixel of its first row, the likelier the class.
    """
    del variables
    row_BxW = images_BxHxWxC[:, 0, :, 0].astype(jnp.int32)
    numbers_B = 256 * row_BxW[:, 0] + row_BxW[:, 1]
    u_Bxn = (numbers_B[:, None] >> jnp.arange(9)[None, :]) % 2 == 1
    return Answers(numbers_B, u_Bxn * 0.5, u_Bxn, jax.nn.log_softmax(row_BxW / 50))


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
    forward = evaluate.make_forward(stage.step.model, datasets.find('digits').spec, mesh)
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
    model, spec = helpers.tiny_network(), datasets.find('digits').spec
    images = helpers.noise_images(NUM_IMAGES)
    rates, gates = [], []
    for threshold in (0.0, 0.3, 0.7, 1.1):
        forward = evaluate.make_forward(model, spec, mesh, threshold)
        record = evaluate.evaluate(forward, variables, images, 500, mesh)
        np.testing.assert_array_equal(record.decisions_Nxn, record.run_probability_Nxn >= threshold)
        rates.append(float(record.decisions_Nxn.mean()))
        gates.append(record.run_probability_Nxn)
    np.testing.assert_allclose(gates[0][:, 0], gates[-1][:, 0], rtol=1e-4)
    assert np.abs(gates[0] - gates[-1])[:, 1:].max() > 1e-3, 'later gates have seen the same'
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
    summary = summarise(Record(labels_N, predictions_N, decisions_Nxn * 0.9, decisions_Nxn), costs)
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


# --- Under augmentation (section 4.4.1). ---

FEW_IMAGES = 45


@functools.cache
def few_images() -> ImageSet:
    """Noise in every pixel, so that each augmentation of each image has a number of its own."""
    pixels_NxHxWxC = np.random.default_rng(3).integers(1, 256, (FEW_IMAGES, 8, 8, 1), np.uint8)
    return ImageSet(pixels_NxHxWxC, np.arange(FEW_IMAGES, dtype=np.int32))


@functools.cache
def augmented_by_hand() -> tuple[np.ndarray, np.ndarray]:
    """For every augmentation the number and the divergence of every image, made one by one and read with numpy."""

    def row_of(image_HxWxC: np.ndarray) -> np.ndarray:
        return image_HxWxC[0, :, 0].astype(np.int64)

    def probabilities(row_W: np.ndarray) -> np.ndarray:
        return np.exp(row_W / 50) / np.exp(row_W / 50).sum()

    numbers_AxN, divergences_AxN = np.zeros((4, FEW_IMAGES)), np.zeros((4, FEW_IMAGES))
    for a, function in enumerate(map(jax.jit, AUGMENTATIONS.values())):
        for i, image_HxWxC in enumerate(few_images().images_NxHxWxC):
            row_W = row_of(np.asarray(function(image_HxWxC[None], np.array([i], np.int32)))[0])
            p_W, q_W = probabilities(row_of(image_HxWxC)), probabilities(row_W)
            numbers_AxN[a, i] = 256 * row_W[0] + row_W[1]
            divergences_AxN[a, i] = np.sum(p_W * np.log(p_W / q_W))
    return numbers_AxN, divergences_AxN


@pytest.mark.parametrize('num_devices', MESH_SIZES)
@pytest.mark.parametrize('batch_size', [1, 7, FEW_IMAGES, 64])
def test_every_augmentation_of_every_image_is_met_once(batch_size: int, num_devices: int) -> None:
    mesh = sharding.data_mesh(num_devices)
    record, augmented = evaluate.evaluate_augmented(read_numbers, None, few_images(), batch_size, mesh)
    alone = evaluate.evaluate(read_numbers, None, few_images(), batch_size, mesh)
    jax.tree.map(np.testing.assert_array_equal, record, alone)
    numbers_AxN, divergences_AxN = augmented_by_hand()
    assert augmented.augmentations_A.tolist() == ['crop', 'horizontal flip', 'vertical flip', 'rotation']
    np.testing.assert_array_equal(augmented.augmented_predictions_AxN, numbers_AxN)
    bits_AxNxn = (numbers_AxN.astype(int)[..., None] >> np.arange(9)) % 2 == 1
    np.testing.assert_array_equal(augmented.augmented_decisions_AxNxn, bits_AxNxn)
    np.testing.assert_array_equal(augmented.augmented_run_probability_AxNxn, bits_AxNxn * 0.5)
    np.testing.assert_allclose(augmented.divergences_AxN, divergences_AxN, rtol=1e-4, atol=1e-6)
    assert len(np.unique(numbers_AxN)) > 3 * FEW_IMAGES and np.median(divergences_AxN) > 0.1


def test_flips_under_evaluation_are_read_from_the_other_side() -> None:
    """The numbers of flipped images, from the pixels of the originals."""
    _, augmented = evaluate.evaluate_augmented(read_numbers, None, few_images(), 16, sharding.data_mesh(8))
    pixels_NxHxW = few_images().images_NxHxWxC[..., 0].astype(int)
    _, mirrored_N, upside_down_N, _ = augmented.augmented_predictions_AxN
    np.testing.assert_array_equal(mirrored_N, 256 * pixels_NxHxW[:, 0, -1] + pixels_NxHxW[:, 0, -2])
    np.testing.assert_array_equal(upside_down_N, 256 * pixels_NxHxW[:, -1, 0] + pixels_NxHxW[:, -1, 1])


@functools.cache
def augmented_record_of(batch_size: int, num_devices: int) -> AugmentedRecord:
    forward, variables, mesh = forward_and_variables(num_devices)
    return evaluate.evaluate_augmented(forward, variables, helpers.noise_images(NUM_IMAGES), batch_size, mesh)[1]


@pytest.mark.parametrize('name', AUGMENTATIONS)
def test_an_augmentation_is_recorded_as_its_images_are_evaluated(name: str) -> None:
    forward, variables, mesh = forward_and_variables(8)
    images = helpers.noise_images(NUM_IMAGES)
    changed_NxHxWxC = np.asarray(jax.jit(AUGMENTATIONS[name])(images.images_NxHxWxC, np.arange(NUM_IMAGES)))
    changed = evaluate.evaluate(forward, variables, images._replace(images_NxHxWxC=changed_NxHxWxC), 64, mesh)
    augmented = augmented_record_of(64, 8)
    a = augmented.augmentations_A.tolist().index(name)
    np.testing.assert_array_equal(augmented.augmented_predictions_AxN[a], changed.predictions_N)
    np.testing.assert_array_equal(augmented.augmented_decisions_AxNxn[a], changed.decisions_Nxn)
    np.testing.assert_array_equal(augmented.augmented_run_probability_AxNxn[a], changed.run_probability_Nxn)
    assert (changed.decisions_Nxn != reference().decisions_Nxn).any(), 'it changes no route'
    logs = [
        np.asarray(forward(variables, jnp.asarray(pixels[:352]), jnp.arange(352), 0).log_probabilities_BxY, np.float64)
        for pixels in (images.images_NxHxWxC, changed_NxHxWxC)
    ]
    expected_N = np.sum(np.exp(logs[0]) * (logs[0] - logs[1]), axis=1)
    np.testing.assert_allclose(augmented.divergences_AxN[a, :352], expected_N, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(('batch_size', 'num_devices'), [(100, 1), (1000, 2), (7, 8)])
def test_augmented_routes_do_not_depend_on_the_batch_or_the_devices(batch_size: int, num_devices: int) -> None:
    expected, found = augmented_record_of(64, 8), augmented_record_of(batch_size, num_devices)
    np.testing.assert_array_equal(found.augmented_decisions_AxNxn, expected.augmented_decisions_AxNxn)
    np.testing.assert_array_equal(found.augmented_predictions_AxN, expected.augmented_predictions_AxN)
    np.testing.assert_allclose(found.divergences_AxN, expected.divergences_AxN, rtol=1e-3, atol=1e-5)


def test_the_network_says_how_likely_it_finds_every_class() -> None:
    forward, variables, _ = forward_and_variables(8)
    answers = forward(variables, jnp.asarray(helpers.noise_images(64).images_NxHxWxC), jnp.arange(64), 0)
    probabilities_BxY = np.exp(np.asarray(answers.log_probabilities_BxY))
    assert probabilities_BxY.shape == (64, 10) and answers.log_probabilities_BxY.dtype == jnp.float32
    np.testing.assert_allclose(probabilities_BxY.sum(axis=1), np.ones(64), rtol=1e-5)
    np.testing.assert_array_equal(probabilities_BxY.argmax(axis=1), answers.predictions_B)


def test_sampled_decisions_are_drawn_once_for_an_image_at_the_rate_of_its_gates() -> None:
    model, images = helpers.tiny_network(), helpers.noise_images(400)
    variables, spec = helpers.random_variables(model), datasets.find('digits').spec
    first, _, summary = evaluate.evaluate_weights(model, spec, variables, images, batch_size=64, is_sampled=True)
    other = evaluate.evaluate_weights(model, spec, variables, images, batch_size=80, is_sampled=True).record
    hard = evaluate.evaluate_weights(model, spec, variables, images, batch_size=64).record
    np.testing.assert_array_equal(first.decisions_Nxn, other.decisions_Nxn)
    assert np.any(first.decisions_Nxn != (first.run_probability_Nxn >= 0.5))
    # The first block's gates do not depend on what is drawn.
    v_N = first.run_probability_Nxn[:, 0]
    np.testing.assert_allclose(v_N, hard.run_probability_Nxn[:, 0], atol=1e-5)
    spread = np.sqrt(np.sum(v_N * (1 - v_N))) / len(v_N)
    assert spread > 0.01 and first.decisions_Nxn[:, 0].mean() == pytest.approx(v_N.mean(), abs=float(4 * spread))
    assert summary['run_rate_per_block'][0] == pytest.approx(first.decisions_Nxn[:, 0].mean())


def test_only_the_sampling_row_of_table_9_samples_in_evaluation() -> None:
    for name in relaxation.RELAXATIONS:
        assert CoDiNet(relaxation=name, noise_free=True).samples_in_evaluation == (name == 'sampling')
