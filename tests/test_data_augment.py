"""Views are windows of the padded image, mirrored half the time, each drawn on its own, on any number of devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from codinet_jax.data.augment import make_views, normalise

KEY = jax.random.key(0)
L, M, PADDING = 48, 4, 2
CORNERS = 2 * PADDING + 1


@pytest.fixture(scope='module')
def images_LxHxWxC() -> np.ndarray:
    # Rectangles, so that height and width cannot be exchanged; no zeros, so that the padding is told from the image.
    return np.random.default_rng(0).integers(1, 256, (L, 6, 9, 3), np.uint8)


def find_window(view_HxWxC: np.ndarray, image_HxWxC: np.ndarray, padding: int) -> list[tuple[int, int, bool]]:
    height, width, _ = image_HxWxC.shape
    padded = np.pad(image_HxWxC, ((padding, padding), (padding, padding), (0, 0)))
    corners = [(y, x) for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
    windows = {(y, x): padded[y : y + height, x : x + width] for y, x in corners}
    return [
        (y, x, mirrored)
        for (y, x), window in windows.items()
        for mirrored in (False, True)
        if np.array_equal(window[:, ::-1] if mirrored else window, view_HxWxC)
    ]


def find_windows(views_LxMxHxWxC: jax.Array, images_LxHxWxC: np.ndarray) -> np.ndarray:
    views = np.asarray(views_LxMxHxWxC)
    found = [
        find_window(view, image, PADDING) for row, image in zip(views, images_LxHxWxC, strict=True) for view in row
    ]
    assert all(len(places) == 1 for places in found), 'a view that is no window of its image'
    return np.array(found).reshape(*views.shape[:2], 3)


def test_every_view_is_a_window_of_its_own_padded_image(images_LxHxWxC: np.ndarray) -> None:
    views_LxMxHxWxC = make_views(jnp.asarray(images_LxHxWxC), KEY, M, PADDING, flip=True)
    assert views_LxMxHxWxC.shape == (L, M, 6, 9, 3) and views_LxMxHxWxC.dtype == jnp.uint8
    y_x_mirrored = find_windows(views_LxMxHxWxC, images_LxHxWxC).reshape(-1, 3)
    expected = L * M / CORNERS**2
    places = np.zeros((CORNERS, CORNERS))
    np.add.at(places, (y_x_mirrored[:, 0], y_x_mirrored[:, 1]), 1)
    chi_squared = ((places - expected) ** 2 / expected).sum()
    assert chi_squared < 52, 'corners are not uniform'  # 24 degrees of freedom: exceeded once in a thousand keys
    assert abs(y_x_mirrored[:, 2].mean() - 0.5) < 3.3 * 0.5 / np.sqrt(L * M)


def test_views_of_one_image_and_the_same_view_of_two_are_drawn_apart(images_LxHxWxC: np.ndarray) -> None:
    y_x_mirrored = find_windows(make_views(jnp.asarray(images_LxHxWxC), KEY, M, PADDING, flip=True), images_LxHxWxC)
    number = (y_x_mirrored * np.array([2 * CORNERS, 2, 1])).sum(axis=-1)
    by_chance = 1 / (2 * CORNERS**2)
    for one, other in [(number[:, 0], number[:, 1]), (number[:, 1], number[:, 3]), (number[1:], number[:-1])]:
        assert (one == other).mean() < by_chance + 0.1
    y, x, mirrored = y_x_mirrored.reshape(-1, 3).T
    assert np.abs(np.corrcoef([y, x, mirrored]) - np.eye(3)).max() < 0.25, 'rows, columns and mirrors are tied together'


def test_without_flip_nothing_is_mirrored(images_LxHxWxC: np.ndarray) -> None:
    views_LxMxHxWxC = make_views(jnp.asarray(images_LxHxWxC), KEY, M, PADDING, flip=False)
    assert not find_windows(views_LxMxHxWxC, images_LxHxWxC)[..., 2].any()


def test_without_padding_a_view_is_the_image_or_its_mirror(images_LxHxWxC: np.ndarray) -> None:
    same = make_views(jnp.asarray(images_LxHxWxC), KEY, M, 0, flip=False)
    np.testing.assert_array_equal(same, np.repeat(images_LxHxWxC[:, None], M, axis=1))
    mirrored_or_not = np.asarray(make_views(jnp.asarray(images_LxHxWxC), KEY, M, 0, flip=True))
    is_same = (mirrored_or_not == images_LxHxWxC[:, None]).all(axis=(2, 3, 4))
    is_mirrored = (mirrored_or_not == images_LxHxWxC[:, None, :, ::-1]).all(axis=(2, 3, 4))
    assert (is_same ^ is_mirrored).all() and 0.3 < is_mirrored.mean() < 0.7


def test_the_key_decides(images_LxHxWxC: np.ndarray) -> None:
    images = jnp.asarray(images_LxHxWxC)
    views = make_views(images, KEY, M, PADDING, flip=True)
    np.testing.assert_array_equal(views, make_views(images, KEY, M, PADDING, flip=True))
    other = make_views(images, jax.random.fold_in(KEY, 1), M, PADDING, flip=True)
    assert (np.asarray(views) != np.asarray(other)).any(axis=(2, 3, 4)).mean() > 0.8


def test_devices_change_no_view_and_exchange_no_image(images_LxHxWxC: np.ndarray) -> None:
    devices = jax.devices()[: max(count for count in (1, 2, 4, 8) if count <= jax.device_count())]
    mesh = jax.make_mesh((len(devices),), ('images',), axis_types=(AxisType.Auto,), devices=devices)
    by_image, everywhere = NamedSharding(mesh, PartitionSpec('images')), NamedSharding(mesh, PartitionSpec())
    views = jax.jit(make_views, static_argnums=(2, 3, 4), out_shardings=by_image)
    arguments = (jax.device_put(images_LxHxWxC, by_image), jax.device_put(KEY, everywhere))
    compiled = views.lower(*arguments, M, PADDING, True).compile()
    program = compiled.as_text()
    assert program and not re.search('all-gather|all-to-all|all-reduce|collective', program)
    expected = make_views(jnp.asarray(images_LxHxWxC), KEY, M, PADDING, flip=True)
    np.testing.assert_array_equal(compiled(*arguments), expected)


@pytest.mark.parametrize(('num_views', 'crop_padding'), [(0, 2), (2, -1)])
def test_nonsense_is_refused(num_views: int, crop_padding: int, images_LxHxWxC: np.ndarray) -> None:
    with pytest.raises(ValueError, match='num_views'):
        make_views(jnp.asarray(images_LxHxWxC), KEY, num_views, crop_padding, flip=True)


@pytest.mark.parametrize('leading', [(), (5,), (2, 3, 4)])
def test_normalise_is_per_channel(leading: tuple[int, ...]) -> None:
    images = np.random.default_rng(1).integers(0, 256, (*leading, 3), np.uint8)
    mean, std = (0.5, 0.25, 0.125), (0.5, 0.25, 2.0)
    normalised = normalise(jnp.asarray(images), mean, std)
    assert normalised.dtype == jnp.float32
    expected = (images.astype(np.float64) / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(normalised, expected, rtol=1e-5, atol=1e-6)


def test_normalise_takes_one_number_for_all_channels() -> None:
    images = jnp.asarray(np.random.default_rng(1).integers(0, 256, (2, 5, 3), np.uint8))
    np.testing.assert_array_equal(normalise(images, (0.5,), (0.25,)), normalise(images, (0.5,) * 3, (0.25,) * 3))


def test_normalise_refuses_the_statistics_of_other_channels() -> None:
    with pytest.raises(ValueError, match='3 channels'):
        normalise(jnp.zeros((2, 2, 3), jnp.uint8), (0.5, 0.5), (0.5, 0.5))


def test_half_of_the_views_are_mirrored() -> None:
    images_LxHxWxC = jnp.arange(4, dtype=jnp.uint8).reshape(1, 2, 2, 1).repeat(5000, axis=0)
    views = np.asarray(make_views(images_LxHxWxC, jax.random.key(3), 4, 0, True))
    is_mirrored = views[..., 0, 0, 0] == 1
    assert is_mirrored.mean() == pytest.approx(0.5, abs=0.02)  # four standard errors of 20,000 draws are 0.014


def test_windows_and_mirrors_come_from_keys_of_their_own_and_rows_are_rows() -> None:
    images_LxHxWxC, padding = np.arange(1, 1 + 40 * 6 * 6, dtype=np.uint8).reshape(40, 6, 6, 1), 2
    key = jax.random.key(7)
    views = np.asarray(make_views(jnp.asarray(images_LxHxWxC), key, 3, padding, True))
    crop_key, flip_key = jax.random.split(key)
    corners_LxMx2 = np.asarray(jax.random.randint(crop_key, (40, 3, 2), 0, 2 * padding + 1))
    is_mirrored_LxM = np.asarray(jax.random.bernoulli(flip_key, 0.5, (40, 3)))
    padded = np.pad(images_LxHxWxC, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    for image, view in np.ndindex(40, 3):
        down, right = corners_LxMx2[image, view]
        window = padded[image, down : down + 6, right : right + 6]
        expected = window[:, ::-1] if is_mirrored_LxM[image, view] else window
        np.testing.assert_array_equal(views[image, view], expected)
