"""The augmentations of evaluation are the flips, shifts and small turns they say, and always the same of an image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from codinet_jax.data import augmentations
from codinet_jax.data.augmentations import AUGMENTATIONS, MOST_DEGREES

Shape = tuple[int, int, int]

SHAPES: list[Shape] = [(8, 8, 1), (32, 32, 3), (16, 24, 3)]
NUM_IMAGES = 24


def noise(shape: Shape, count: int = NUM_IMAGES) -> np.ndarray:
    """No zeros, so that what is filled in is told from the image."""
    return np.random.default_rng(0).integers(1, 256, (count, *shape), np.uint8)


@functools.cache
def compiled(name: str) -> augmentations.Augmentation:
    return jax.jit(AUGMENTATIONS[name])


def augmented(name: str, images_BxHxWxC: np.ndarray, positions_B: np.ndarray) -> np.ndarray:
    positions = jnp.asarray(positions_B, jnp.int32)
    return np.asarray(compiled(name)(jnp.asarray(images_BxHxWxC), positions))


def shift_of(crop_HxWxC: np.ndarray, image_HxWxC: np.ndarray) -> tuple[int, int]:
    """By how much the image was moved down and right, zeros coming in: found among all moves there are."""
    H, W, _ = image_HxWxC.shape
    found = []
    for down in range(-H + 1, H):
        for right in range(-W + 1, W):
            moved_HxWxC = np.zeros_like(image_HxWxC)
            to_rows, to_columns = slice(max(down, 0), H + min(down, 0)), slice(max(right, 0), W + min(right, 0))
            rows, columns = slice(max(-down, 0), H + min(-down, 0)), slice(max(-right, 0), W + min(-right, 0))
            moved_HxWxC[to_rows, to_columns] = image_HxWxC[rows, columns]
            if np.array_equal(moved_HxWxC, crop_HxWxC):
                found.append((down, right))
    assert len(found) == 1, f'{len(found)} shifts explain the crop'
    return found[0]


def test_these_are_the_augmentations_of_section_4_4_1() -> None:
    assert list(AUGMENTATIONS) == ['crop', 'horizontal flip', 'vertical flip', 'rotation']


@pytest.mark.parametrize('shape', SHAPES)
def test_flips_are_those_of_numpy(shape: Shape) -> None:
    images_NxHxWxC, positions_N = noise(shape), np.arange(NUM_IMAGES)
    for name, flip in (('horizontal flip', np.fliplr), ('vertical flip', np.flipud)):
        expected_NxHxWxC = np.stack([flip(image_HxWxC) for image_HxWxC in images_NxHxWxC])
        np.testing.assert_array_equal(augmented(name, images_NxHxWxC, positions_N), expected_NxHxWxC)


@pytest.mark.parametrize('shape', [(8, 8, 1), (16, 16, 3)])
def test_a_crop_is_its_image_moved_by_at_most_an_eighth_of_its_side(shape: Shape) -> None:
    count, most = 200, shape[0] // 8
    images_NxHxWxC = noise(shape, count)
    crops_NxHxWxC = augmented('crop', images_NxHxWxC, np.arange(count))
    shifts = [shift_of(crop, image) for crop, image in zip(crops_NxHxWxC, images_NxHxWxC, strict=True)]
    # Of so few places each is met, none but these, and none far more often than another.
    downs, rights = (np.bincount(np.array(moves) + most, minlength=2 * most + 1) for moves in zip(*shifts, strict=True))
    for counts in (downs, rights):
        expected = count / (2 * most + 1)
        assert len(counts) == 2 * most + 1 and counts.min() > expected / 2 and counts.max() < 2 * expected
    assert len(set(shifts)) == (2 * most + 1) ** 2


def test_a_crop_of_32_pixels_is_that_of_training() -> None:
    images_NxHxWxC = noise((32, 32, 3), 60)
    crops_NxHxWxC = augmented('crop', images_NxHxWxC, np.arange(60))
    shifts = np.array([shift_of(crop, image) for crop, image in zip(crops_NxHxWxC, images_NxHxWxC, strict=True)])
    assert np.abs(shifts).max(axis=0).tolist() == [4, 4]


def test_an_image_too_small_to_be_cropped_is_left_alone() -> None:
    images_NxHxWxC = noise((7, 7, 1))
    np.testing.assert_array_equal(augmented('crop', images_NxHxWxC, np.arange(NUM_IMAGES)), images_NxHxWxC)


turned = jax.jit(augmentations.rotated)


@pytest.mark.parametrize('shape', [(8, 8, 1), (9, 9, 3), (32, 32, 3)])
@pytest.mark.parametrize('quarters', [-2, -1, 1, 2, 3])
def test_quarters_are_turned_counter_clockwise_as_by_numpy(shape: Shape, quarters: int) -> None:
    image_HxWxC = noise(shape)[0]
    np.testing.assert_array_equal(turned(image_HxWxC, 90.0 * quarters), np.rot90(image_HxWxC, quarters))


@pytest.mark.parametrize('shape', [(1, 1, 1), *SHAPES])
def test_no_degrees_leave_the_image_alone(shape: Shape) -> None:
    image_HxWxC = noise(shape)[0]
    np.testing.assert_array_equal(turned(image_HxWxC, 0.0), image_HxWxC)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('degrees', [-15.0, -3.7, 0.5, 10.0, 15.0, 45.0])
def test_angles_are_turned_as_by_scipy(shape: Shape, degrees: float) -> None:
    image_HxWxC = noise(shape)[0]
    expected_HxWxC = ndimage.rotate(
        image_HxWxC.astype(np.float64), degrees, order=1, reshape=False, mode='grid-constant', cval=0.0
    )
    rotated_HxWxC = np.asarray(turned(image_HxWxC, degrees))
    assert np.abs(rotated_HxWxC - expected_HxWxC).max() < 0.51, 'more than rounding'
    assert np.abs(rotated_HxWxC - image_HxWxC.astype(float)).mean() > 1


def test_what_comes_in_at_the_corners_is_zero_and_what_is_white_stays_white() -> None:
    white_HxWxC = np.full((33, 33, 1), 255, np.uint8)
    rotated_HxW = np.asarray(turned(white_HxWxC, 15.0))[..., 0]
    assert [rotated_HxW[row, column] for row in (0, -1) for column in (0, -1)] == [0] * 4
    assert (rotated_HxW[8:25, 8:25] == 255).all()


def beacons(count: int) -> np.ndarray:
    """A soft spot straight to the right of the centre of a black image."""
    rows, columns = np.mgrid[-16:17, -16:17]
    spot_HxW = 255 * np.exp(-((columns - 10) ** 2 + rows**2) / 4)
    return np.tile(spot_HxW.round().astype(np.uint8)[None, :, :, None], (count, 1, 1, 1))


def angles_of(images_NxHxWxC: np.ndarray) -> np.ndarray:
    """Degrees counter-clockwise at which the spot is seen."""
    rows, columns = np.mgrid[-16:17, -16:17]
    weights_NxHxW = images_NxHxWxC[..., 0].astype(np.float64)
    down_N, right_N = (np.sum(weights_NxHxW * each, axis=(1, 2)) for each in (rows, columns))
    return np.degrees(np.arctan2(-down_N, right_N))


def test_the_angle_of_a_spot_is_read_off_right() -> None:
    angles = [-15.0, -4.0, 0.0, 7.0, 15.0]
    images = np.stack([np.asarray(turned(beacons(1)[0], degrees)) for degrees in angles])
    np.testing.assert_allclose(angles_of(images), angles, atol=0.1)


def test_rotations_are_spread_evenly_over_15_degrees_either_way() -> None:
    assert MOST_DEGREES == 15
    angles_N = angles_of(augmented('rotation', beacons(400), np.arange(400)))
    assert np.abs(angles_N).max() < 15.1
    counts, _ = np.histogram(angles_N, bins=6, range=(-15.1, 15.1))
    assert counts.min() > 400 / 6 / 2 and counts.max() < 2 * 400 / 6
    assert len(np.unique(angles_N.round(2))) > 100


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('name', AUGMENTATIONS)
def test_shape_and_type_stay(name: str, shape: Shape) -> None:
    images_NxHxWxC = augmented(name, noise(shape), np.arange(NUM_IMAGES))
    assert images_NxHxWxC.shape == (NUM_IMAGES, *shape) and images_NxHxWxC.dtype == np.uint8


@pytest.mark.parametrize('shape', [(8, 8, 1), (32, 32, 3)])
@pytest.mark.parametrize('name', AUGMENTATIONS)
def test_an_image_is_augmented_alike_in_any_batch(name: str, shape: Shape) -> None:
    images_NxHxWxC, positions_N = noise(shape), 1000 + np.arange(NUM_IMAGES)
    whole_NxHxWxC = augmented(name, images_NxHxWxC, positions_N)
    np.testing.assert_array_equal(augmented(name, images_NxHxWxC, positions_N), whole_NxHxWxC)
    shuffled_N = np.random.default_rng(1).permutation(NUM_IMAGES)
    np.testing.assert_array_equal(
        augmented(name, images_NxHxWxC[shuffled_N], positions_N[shuffled_N]), whole_NxHxWxC[shuffled_N]
    )
    for size in (1, 5):
        for start in range(0, NUM_IMAGES - size + 1, size):
            rows = slice(start, start + size)
            np.testing.assert_array_equal(augmented(name, images_NxHxWxC[rows], positions_N[rows]), whole_NxHxWxC[rows])


@pytest.mark.parametrize('name', AUGMENTATIONS)
def test_padding_changes_nothing(name: str) -> None:
    images_NxHxWxC, positions_N = noise((8, 8, 1)), np.arange(NUM_IMAGES)
    padded_N = np.where(positions_N < 20, positions_N, -1)
    np.testing.assert_array_equal(
        augmented(name, images_NxHxWxC, padded_N)[:20], augmented(name, images_NxHxWxC[:20], positions_N[:20])
    )


@pytest.mark.parametrize('name', ['crop', 'rotation'])
def test_copies_of_an_image_are_augmented_each_in_its_own_way(name: str) -> None:
    copies_NxHxWxC = np.tile(noise((32, 32, 3), 1), (NUM_IMAGES, 1, 1, 1))
    by_position = augmented(name, copies_NxHxWxC, np.arange(NUM_IMAGES))
    assert len({image.tobytes() for image in by_position}) > NUM_IMAGES // 2
    at_one_place = augmented(name, copies_NxHxWxC, np.full(NUM_IMAGES, 5))
    np.testing.assert_array_equal(at_one_place, np.tile(by_position[5:6], (NUM_IMAGES, 1, 1, 1)))


def test_what_is_drawn_does_not_look_at_the_image() -> None:
    images_NxHxWxC = noise((16, 16, 1))
    crops_NxHxWxC = augmented('crop', images_NxHxWxC, np.full(NUM_IMAGES, 5))
    assert len({shift_of(crop, image) for crop, image in zip(crops_NxHxWxC, images_NxHxWxC, strict=True)}) == 1
    # The same turn of two halves of a spot's light shows the spot at one angle.
    spots_NxHxWxC = beacons(2) // np.array([1, 2], np.uint8)[:, None, None, None]
    one, other = angles_of(augmented('rotation', spots_NxHxWxC, np.full(2, 5)))
    assert abs(one) > 0.5 and other == pytest.approx(one, abs=0.2)


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('name', AUGMENTATIONS)
def test_channels_are_moved_together(name: str, channels: int) -> None:
    grey_NxHxWx1 = noise((16, 16, 1))
    images_NxHxWxC = np.repeat(grey_NxHxWx1, channels, axis=-1)
    expected_NxHxWx1 = augmented(name, grey_NxHxWx1, np.arange(NUM_IMAGES))
    np.testing.assert_array_equal(
        augmented(name, images_NxHxWxC, np.arange(NUM_IMAGES)), np.repeat(expected_NxHxWx1, channels, axis=-1)
    )
