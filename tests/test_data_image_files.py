"""An image file becomes the network's square: every mode, upright, on white, cut from the centre, or one sentence."""

import contextlib
import errno
import io
import os
import re
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from codinet_jax.data.image_files import read_image
from codinet_jax.runtime.errors import InputError

REPOSITORY = Path(__file__).parent.parent
SIZE = 16
ORIENTATION = 0x0112
# Where EXIF says that the stored row 0 and column 0 belong in the upright image.
SIDES = {
    1: ('top', 'left'),
    2: ('top', 'right'),
    3: ('bottom', 'right'),
    4: ('bottom', 'left'),
    5: ('left', 'top'),
    6: ('right', 'top'),
    7: ('right', 'bottom'),
    8: ('left', 'bottom'),
}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def save_as(name: str, image: Image.Image | np.ndarray, **options: Any) -> Path:
        image = image if isinstance(image, Image.Image) else Image.fromarray(image)
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save_as


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    row_0, column_0 = SIDES[orientation]
    rows_first = upright if row_0 in ('top', 'bottom') else upright.swapaxes(0, 1)
    rows_first = rows_first[::-1] if row_0 in ('bottom', 'right') else rows_first
    return np.ascontiguousarray(rows_first[:, ::-1] if column_0 in ('bottom', 'right') else rows_first)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def bicubic_weights(side: int, resized: int) -> np.ndarray:
    """[resized, side] weights of Keys' cubic with a = -1/2, stretched by the reduction so that it does not alias."""
    stretch = max(side / resized, 1.0)
    centres = (np.arange(resized) + 0.5) * side / resized
    x = np.abs(np.arange(side) + 0.5 - centres[:, None]) / stretch
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


def resized_then_cut(image: np.ndarray, image_size: int, crop_fraction: float) -> np.ndarray:
    shorter = round(image_size / crop_fraction)
    height, width = (round(side * shorter / min(image.shape[:2])) for side in image.shape[:2])
    rows, columns = bicubic_weights(image.shape[0], height), bicubic_weights(image.shape[1], width)
    top, left = (height - image_size) // 2, (width - image_size) // 2
    rows, columns = rows[top : top + image_size], columns[left : left + image_size]
    return np.einsum('yh,hwc,xw->yxc', rows, image.astype(float), columns)


@pytest.mark.parametrize(
    ('name', 'options'),
    [
        ('x.png', {}),
        ('x.bmp', {}),
        ('x.tif', {}),
        ('x.tif', {'compression': 'tiff_lzw'}),
        ('x.ppm', {}),
        ('x.webp', {'lossless': True}),
    ],
)
@pytest.mark.parametrize('seed', range(3))
def test_a_lossless_file_of_the_right_size_keeps_every_bit(
    save: Callable[..., Path], name: str, options: dict[str, Any], seed: int
) -> None:
    pixels = noise(SIZE, SIZE, 3, seed=seed)
    image = read_image(save(name, pixels, **options), SIZE, 3)
    assert image.dtype == np.uint8 and image.shape == (SIZE, SIZE, 3) and image.flags.writeable
    np.testing.assert_array_equal(image, pixels)


@pytest.mark.parametrize('name', ['x.png', 'x.bmp', 'x.tif', 'x.pgm'])
def test_a_grey_file_keeps_every_bit_in_one_channel_and_in_three(save: Callable[..., Path], name: str) -> None:
    pixels = noise(SIZE, SIZE)
    path = save(name, pixels)
    np.testing.assert_array_equal(read_image(path, SIZE, 1), pixels[..., None])
    np.testing.assert_array_equal(read_image(path, SIZE, 3), np.repeat(pixels[..., None], 3, axis=2))


def test_a_jpeg_comes_back_but_for_its_loss(save: Callable[..., Path]) -> None:
    pixels = np.kron(noise(2, 2, 3), np.ones((8, 8, 1), np.uint8))
    image = read_image(save('x.jpg', pixels, quality=100, subsampling=0), SIZE, 3)
    assert np.abs(image.astype(int) - pixels).max() <= 4


def test_colour_becomes_grey_by_the_weights_of_itu_r_601(save: Callable[..., Path]) -> None:
    pixels = noise(SIZE, SIZE, 3)
    expected = pixels @ [0.299, 0.587, 0.114]
    image = read_image(save('x.png', pixels), SIZE, 1)
    assert image.shape == (SIZE, SIZE, 1)
    assert np.abs(image[..., 0] - expected).max() <= 0.51


def test_the_path_may_be_a_string_and_its_name_need_not_say_the_format(save: Callable[..., Path]) -> None:
    pixels = noise(SIZE, SIZE, 3)
    path = save('x.png', pixels)
    for other in ('no_extension', 'a lie.jpg'):
        np.testing.assert_array_equal(read_image(str(path.rename(path.with_name(other))), SIZE, 3), pixels)
        path = path.with_name(other)


@pytest.mark.parametrize('name', ['x.png', 'x.jpg', 'x.gif', 'x.tif', 'x.webp'])
def test_an_image_may_come_as_bytes_or_as_an_open_file(save: Callable[..., Path], name: str) -> None:
    path = save(name, stored(noise(40, 24, 3), 6), exif=exif(6)) if name != 'x.gif' else save(name, noise(40, 24))
    content, expected = path.read_bytes(), read_image(path, SIZE, 3, 0.875)
    for each in (content, bytearray(content), memoryview(content), io.BytesIO(content)):
        np.testing.assert_array_equal(read_image(each, SIZE, 3, 0.875), expected)
    with open(path, 'rb') as file, open(path, 'rb', buffering=0) as raw:
        for each in (file, raw):
            np.testing.assert_array_equal(read_image(each, SIZE, 3, 0.875), expected)
            assert not each.closed
    reader, writer = os.pipe()  # which cannot be read twice
    with ThreadPoolExecutor(1) as thread, os.fdopen(reader, 'rb') as file, os.fdopen(writer, 'wb') as end:
        thread.submit(lambda: (end.write(content), end.close()))
        np.testing.assert_array_equal(read_image(file, SIZE, 3, 0.875), expected)


def test_an_open_file_is_read_from_where_it_is(save: Callable[..., Path]) -> None:
    pixels = noise(SIZE, SIZE, 3)
    file = io.BytesIO(b'header' + save('x.png', pixels).read_bytes())
    file.seek(6)
    np.testing.assert_array_equal(read_image(file, SIZE, 3), pixels)


def test_errors_name_a_file_by_its_path_and_what_has_none_the_image(tmp_path: Path) -> None:
    (tmp_path / 'x.png').write_bytes(b'no image')
    unreadable = 'is not an image that can be read here: save it as PNG or JPEG.'
    with open(tmp_path / 'x.png', 'rb') as file:
        assert refusal(file) == f'{tmp_path / "x.png"} {unreadable}'
    assert refusal(b'no image') == refusal(io.BytesIO(b'no image')) == f'The image {unreadable}'
    with tempfile.TemporaryFile() as unnamed:  # its name is a number
        assert refusal(unnamed) == 'The image is empty: fetch it or save it again.'
    assert refusal(b'') == 'The image is empty: fetch it or save it again.'


def refusal(source: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_image(source, SIZE, 3)
    return str(caught.value)


@pytest.mark.parametrize('orientation', SIDES)
@pytest.mark.parametrize(('name', 'options'), [('x.png', {}), ('x.tif', {}), ('x.webp', {'lossless': True})])
def test_the_exif_orientation_is_undone(
    save: Callable[..., Path], orientation: int, name: str, options: dict[str, Any]
) -> None:
    upright = noise(SIZE, SIZE, 3)
    path = save(name, stored(upright, orientation), exif=exif(orientation), **options)
    np.testing.assert_array_equal(read_image(path, SIZE, 3), upright)


@pytest.mark.parametrize('orientation', SIDES)
def test_the_exif_orientation_of_a_jpeg_is_undone(save: Callable[..., Path], orientation: int) -> None:
    upright = np.zeros((SIZE, SIZE), np.uint8)
    upright[:8, :8], upright[:8, 8:], upright[8:, :8] = 250, 150, 60
    path = save('x.jpg', stored(upright, orientation), exif=exif(orientation), quality=100)
    assert np.abs(read_image(path, SIZE, 1)[..., 0].astype(int) - upright).max() <= 3


def test_the_square_is_cut_from_the_upright_image(save: Callable[..., Path]) -> None:
    upright = noise(40, 8, 3)
    image = read_image(save('x.png', stored(upright, 6), exif=exif(6)), 8, 3)
    np.testing.assert_array_equal(image, upright[16:24])


def test_the_exif_orientation_of_16_bits_is_undone(save: Callable[..., Path]) -> None:
    upright = noise(SIZE, SIZE)
    path = save('x.png', stored(upright, 6) * np.uint16(257), exif=exif(6))
    np.testing.assert_array_equal(read_image(path, SIZE, 1)[..., 0], upright)


def test_an_exif_orientation_that_does_not_exist_is_ignored(save: Callable[..., Path]) -> None:
    pixels = noise(SIZE, SIZE)
    np.testing.assert_array_equal(read_image(save('x.png', pixels, exif=exif(9)), SIZE, 1)[..., 0], pixels)


def test_a_broken_exif_block_costs_no_image_and_no_warning(save: Callable[..., Path]) -> None:
    pixels = noise(SIZE, SIZE, 3)
    path = save('x.png', pixels, exif=b'Exif\0\0II*\0\x08\0\0\0\xff\xff')
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        np.testing.assert_array_equal(read_image(path, SIZE, 3), pixels)
    assert not caught


def with_palette(indices: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    return image


@pytest.mark.parametrize(
    ('name', 'mode', 'colour', 'expected'),
    [
        ('x.png', '1', 0, (0, 0, 0)),
        ('x.png', '1', 1, (255, 255, 255)),
        ('x.png', 'L', 77, (77, 77, 77)),
        ('x.png', 'LA', (77, 255), (77, 77, 77)),
        ('x.png', 'LA', (77, 0), (255, 255, 255)),
        ('x.png', 'LA', (0, 102), (153, 153, 153)),
        ('x.tif', 'PA', (0, 0), (255, 255, 255)),
        ('x.png', 'RGBA', (10, 20, 30, 255), (10, 20, 30)),
        ('x.png', 'RGBA', (10, 20, 30, 0), (255, 255, 255)),
        ('x.png', 'RGBA', (200, 100, 0, 51), (244, 224, 204)),
        ('x.webp', 'RGBA', (200, 100, 0, 51), (244, 224, 204)),
        ('x.tif', 'RGBA', (200, 100, 0, 51), (244, 224, 204)),
        ('x.tif', 'CMYK', (0, 0, 0, 0), (255, 255, 255)),
        ('x.tif', 'CMYK', (255, 0, 0, 0), (0, 255, 255)),
        ('x.tif', 'CMYK', (0, 51, 255, 51), (204, 163, 0)),
        ('x.jpg', 'CMYK', (0, 51, 255, 51), (204, 163, 0)),
        ('x.tif', 'YCbCr', (90, 128, 128), (90, 90, 90)),
        ('x.tif', 'YCbCr', (76, 85, 255), (254, 0, 0)),
        ('x.tif', 'LAB', (255, 128, 128), (255, 255, 255)),
        ('x.tif', 'LAB', (0, 128, 128), (0, 0, 0)),
        ('x.png', 'I;16', 25700, (100, 100, 100)),
        ('x.tif', 'I;16', 25700, (100, 100, 100)),
        ('x.tif', 'I', 25700, (100, 100, 100)),
        ('x.tif', 'F', 0.4, (102, 102, 102)),
    ],
)
@pytest.mark.parametrize('image_size', [SIZE, 20])
def test_every_mode_comes_out_in_colour_and_in_grey(
    save: Callable[..., Path], name: str, mode: str, colour: Any, expected: tuple[int, ...], image_size: int
) -> None:
    options = {'lossless': True, 'exact': True} if name == 'x.webp' else {}
    path = save(name, Image.new(mode, (SIZE, SIZE), colour), **options)
    with Image.open(path) as reopened:
        if reopened.mode != mode:
            pytest.skip(f'this Pillow opens its own {mode} as {reopened.mode}')
    tolerance = 2 if name == 'x.jpg' else 1 if mode in ('YCbCr', 'LAB') else 0
    assert np.abs(read_image(path, image_size, 3).astype(int) - expected).max() <= tolerance
    grey = np.dot(expected, [0.299, 0.587, 0.114])
    assert np.abs(read_image(path, image_size, 1) - grey).max() <= tolerance + 0.51


def test_one_bit_an_image_is_black_and_white(save: Callable[..., Path]) -> None:
    bits = noise(SIZE, SIZE) > 127
    np.testing.assert_array_equal(read_image(save('x.png', bits), SIZE, 1)[..., 0], bits * np.uint8(255))


@pytest.mark.parametrize('name', ['x.png', 'x.gif', 'x.tif', 'x.bmp'])
def test_a_palette_is_looked_up(save: Callable[..., Path], name: str) -> None:
    indices = noise(SIZE, SIZE) % 3
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])
    np.testing.assert_array_equal(read_image(save(name, with_palette(indices)), SIZE, 3), colours[indices])


@pytest.mark.parametrize(
    ('name', 'transparency', 'second'),
    [
        ('x.png', 1, (255, 255, 255)),
        ('x.gif', 1, (255, 255, 255)),
        ('x.png', bytes([255, 51, 255]), (212, 214, 216)),
    ],
)
def test_a_transparent_palette_colour_lies_on_white(
    save: Callable[..., Path], name: str, transparency: int | bytes, second: tuple[int, int, int]
) -> None:
    indices = noise(SIZE, SIZE) % 3
    colours = np.array([[10, 20, 30], second, [70, 80, 90]])
    path = save(name, with_palette(indices), transparency=transparency)
    np.testing.assert_array_equal(read_image(path, SIZE, 3), colours[indices])
    assert np.abs(read_image(path, SIZE, 1)[..., 0] - (colours @ [0.299, 0.587, 0.114])[indices]).max() <= 0.51


def test_a_colour_that_png_calls_transparent_is_white(save: Callable[..., Path]) -> None:
    grey = noise(SIZE, SIZE) % 4
    expected = np.where(grey == 2, 255, grey)
    np.testing.assert_array_equal(read_image(save('l.png', grey, transparency=2), SIZE, 1)[..., 0], expected)
    deep = save('i.png', grey * np.uint16(257), transparency=2 * 257)
    np.testing.assert_array_equal(read_image(deep, SIZE, 1)[..., 0], expected)
    colour = np.stack([grey, grey + 10, grey + 20], axis=2)
    expected = np.where((grey == 2)[..., None], 255, colour)
    np.testing.assert_array_equal(read_image(save('c.png', colour, transparency=(2, 12, 22)), SIZE, 3), expected)


@pytest.mark.parametrize('image_size', [7, SIZE, 40])
@pytest.mark.parametrize('num_channels', [1, 3])
def test_the_colour_of_what_is_transparent_does_not_show(
    save: Callable[..., Path], image_size: int, num_channels: int
) -> None:
    pixels = noise(SIZE, SIZE, 4)
    pixels[..., 3] = 0
    assert (read_image(save('x.png', pixels), image_size, num_channels) == 255).all()


@pytest.mark.parametrize('name', ['x.png', 'x.tif', 'big_endian.tif', 'x.pgm', 'int32.tif'])
def test_each_of_the_16_bit_greys_is_scaled_and_rounded(save: Callable[..., Path], name: str) -> None:
    values = np.arange(65536).reshape(256, 256)
    dtype = {'big_endian.tif': '>u2', 'int32.tif': np.int32}.get(name, np.uint16)
    image = read_image(save(name, values.astype(dtype)), 256, 1)
    np.testing.assert_array_equal(image[..., 0], (values * 255 + 32767) // 65535)


@pytest.mark.parametrize('name', ['x.tif', 'x.pfm'])
def test_floats_from_0_to_1_are_scaled_to_255(save: Callable[..., Path], name: str) -> None:
    values = np.arange(256, dtype=np.float32).reshape(16, 16)
    image = read_image(save(name, values / 255), SIZE, 1)
    np.testing.assert_array_equal(image[..., 0], values)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, -0.01, 1.01])
def test_a_float_that_is_no_brightness_is_refused(save: Callable[..., Path], bad: float) -> None:
    values = np.full((SIZE, SIZE), 0.5, np.float32)
    values[3, 5] = bad
    with pytest.raises(InputError, match=r'x\.tif has pixels that are NaN or outside \[0, 1\]: scale them'):
        read_image(save('x.tif', values), SIZE, 1)


@pytest.mark.parametrize('bad', [-1, 65536])
def test_an_integer_beyond_16_bits_is_refused(save: Callable[..., Path], bad: int) -> None:
    values = np.full((SIZE, SIZE), 1000, np.int32)
    values[3, 5] = bad
    with pytest.raises(InputError, match=r'outside \[0, 65535\]: scale them'):
        read_image(save('x.tif', values), SIZE, 3)


@pytest.mark.parametrize('crop_fraction', [1.0, 0.875, 0.5])
@pytest.mark.parametrize('height', [1, 2, 15, 23, 64])
@pytest.mark.parametrize('width', [1, 16, 37])
@pytest.mark.parametrize('image_size', [1, 12, 16, 31])
def test_it_is_the_resized_image_cut_to_its_centre(
    save: Callable[..., Path], height: int, width: int, image_size: int, crop_fraction: float
) -> None:
    # In the middle of the range and with a tolerance, since Pillow clips and rounds between its two passes.
    pixels = 96 + noise(height, width, 3, seed=height * 100 + width) // 4
    image = read_image(save('x.png', pixels), image_size, 3, crop_fraction)
    expected = resized_then_cut(pixels, image_size, crop_fraction)
    assert np.abs(image - expected).max() <= 1.5
    assert np.abs(image - expected).mean() <= 0.5


@pytest.mark.parametrize('size', [(5, 9), (16, 16), (100, 33), (300, 400)])
@pytest.mark.parametrize('crop_fraction', [1.0, 0.875])
def test_a_constant_image_stays_constant(
    save: Callable[..., Path], size: tuple[int, int], crop_fraction: float
) -> None:
    image = read_image(save('x.png', Image.new('RGB', size, (12, 200, 255))), SIZE, 3, crop_fraction)
    assert (image == [12, 200, 255]).all()


@pytest.mark.parametrize('side', [40, 256, 8])
def test_a_gradient_keeps_its_order_and_its_direction(save: Callable[..., Path], side: int) -> None:
    across = np.broadcast_to(np.linspace(20, 230, side).astype(np.uint8), (side, side))
    image = read_image(save('x.png', across), SIZE, 1)[..., 0].astype(int)
    assert (np.diff(image, axis=1) > 0).all() and not np.diff(image, axis=0).any()
    down = read_image(save('x.png', np.ascontiguousarray(across.T)), SIZE, 1)[..., 0]
    np.testing.assert_array_equal(down, image.T)


def test_stripes_too_fine_to_show_become_their_mean(save: Callable[..., Path]) -> None:
    stripes = np.tile(np.array([0, 200], np.uint8), (160, 80))
    # Exactly so but for the border, where the filter is cut off; without antialiasing all would be 0 or 200.
    assert np.abs(read_image(save('x.png', stripes), SIZE, 1).astype(int) - 100).max() <= 5


@pytest.mark.parametrize('margin', [2, 9, 100])
def test_of_a_wide_image_the_centre_is_kept_and_the_edges_are_cut(save: Callable[..., Path], margin: int) -> None:
    centre = noise(SIZE, SIZE, 3)
    wide = np.full((SIZE, SIZE + 2 * margin, 3), 7, np.uint8)
    wide[:, margin:-margin] = centre
    np.testing.assert_array_equal(read_image(save('x.png', wide), SIZE, 3), centre)
    tall = np.ascontiguousarray(wide.swapaxes(0, 1))
    np.testing.assert_array_equal(read_image(save('x.png', tall), SIZE, 3), centre.swapaxes(0, 1))


def test_a_disc_stays_a_disc(save: Callable[..., Path]) -> None:
    y, x = np.mgrid[:100, :160]
    disc = ((y - 49.5) ** 2 + (x - 79.5) ** 2 < 40**2) * np.uint8(255)
    image = read_image(save('x.png', disc), 50, 1)[..., 0] > 127
    assert image.any(axis=0).sum() == image.any(axis=1).sum() == 40
    np.testing.assert_array_equal(image, image.T)


def test_imagenets_evaluation_crop(save: Callable[..., Path]) -> None:
    pixels = noise(256, 300, 3)
    image = read_image(save('x.png', pixels), 224, 3, crop_fraction=0.875)
    np.testing.assert_array_equal(image, pixels[16:240, 38:262])


def test_below_a_crop_fraction_of_1_the_right_size_is_cut_too(save: Callable[..., Path]) -> None:
    pixels = np.zeros((SIZE, SIZE), np.uint8)
    pixels[4:12, 4:12] = 255
    image = read_image(save('x.png', pixels), SIZE, 1, crop_fraction=0.5)
    assert (image[1:-1, 1:-1] > 240).all(), 'the central half fills the square'


@pytest.mark.parametrize('image_size', [1, SIZE, 224])
@pytest.mark.parametrize('num_channels', [1, 3])
def test_a_single_pixel_fills_the_square(save: Callable[..., Path], image_size: int, num_channels: int) -> None:
    image = read_image(save('x.png', Image.new('L', (1, 1), 99)), image_size, num_channels)
    assert image.shape == (image_size, image_size, num_channels) and (image == 99).all()


@pytest.mark.parametrize('crop_fraction', [1.0, 0.875])
def test_a_line_of_5000_pixels_shows_its_middle(save: Callable[..., Path], crop_fraction: float) -> None:
    line = np.zeros((1, 5000), np.uint8)
    line[:, 2500:] = 255
    image = read_image(save('x.png', line), 224, 1, crop_fraction)[..., 0].astype(int)
    assert not np.diff(image, axis=0).any() and (np.diff(image[0]) >= 0).all()
    assert image[0, 0] < 40 and image[0, -1] > 215
    column = read_image(save('x.png', line.T.copy()), 224, 1, crop_fraction)[..., 0]
    np.testing.assert_array_equal(column, image.T)


@pytest.mark.parametrize(
    ('name', 'options'), [('x.gif', {}), ('x.png', {}), ('x.webp', {'lossless': True}), ('x.tif', {})]
)
def test_an_animation_is_its_first_frame(save: Callable[..., Path], name: str, options: dict[str, Any]) -> None:
    first, *others = (Image.new('RGB', (SIZE, SIZE), colour) for colour in ('#102030', '#ff0000', '#00ff00'))
    path = save(name, first, save_all=True, append_images=others, **options)
    with Image.open(path) as reopened:
        assert reopened.n_frames == 3
    assert (read_image(path, SIZE, 3) == [0x10, 0x20, 0x30]).all()


def sentence(path: str | os.PathLike[str], image_size: int = SIZE) -> str:
    """What the user is told of a file that cannot be read, after the path."""
    with pytest.raises(InputError) as caught:
        read_image(path, image_size, 3)
    message = str(caught.value)
    assert message.startswith(f'{path} ') and '\n' not in message
    assert re.fullmatch(r'[^:]+(: [^:]+)?: [^:]+[^.]\.', message), 'what is wrong: what to do.'
    return message.removeprefix(f'{path} ')


def test_a_missing_file(tmp_path: Path) -> None:
    assert sentence(tmp_path / 'x.png') == 'does not exist: give the path of an image.'
    (tmp_path / 'link.png').symlink_to(tmp_path / 'nowhere.png')
    assert sentence(tmp_path / 'link.png') == 'does not exist: give the path of an image.'


def test_a_directory(tmp_path: Path) -> None:
    assert sentence(tmp_path) == 'is a directory: give the path of one image.'
    assert sentence(str(tmp_path)) == 'is a directory: give the path of one image.'


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / 'x.png').touch()
    assert sentence(tmp_path / 'x.png') == 'is empty: fetch it or save it again.'


def test_a_file_that_may_not_be_read(save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError(errno.EACCES, 'Permission denied')

    path = save('x.png', noise(SIZE, SIZE))
    path.chmod(0)
    if os.geteuid() == 0:  # root may read it even so
        monkeypatch.setattr('codinet_jax.data.image_files.open', refuse, raising=False)
    assert sentence(path) == 'cannot be opened (Permission denied): make it readable, or give another.'


def test_a_path_through_a_file(save: Callable[..., Path]) -> None:
    path = save('x.png', noise(SIZE, SIZE)) / 'y.png'
    assert sentence(path) == 'cannot be opened (Not a directory): make it readable, or give another.'


@pytest.mark.parametrize('content', [b'\n', b'label,path\n1,x.png\n', b'<svg xmlns="http://www.w3.org/2000/svg"/>'])
def test_a_file_that_is_no_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'x.png').write_bytes(content)
    assert sentence(tmp_path / 'x.png') == 'is not an image that can be read here: save it as PNG or JPEG.'


@pytest.mark.parametrize(
    ('name', 'mode'), [('x.png', 'RGB'), ('x.jpg', 'RGB'), ('x.webp', 'RGB'), ('x.bmp', 'RGB'), ('x.gif', 'L')]
)
@pytest.mark.parametrize('kept', [0.02, 0.5, 0.9])
def test_an_image_cut_short(save: Callable[..., Path], name: str, mode: str, kept: float) -> None:
    path = save(name, Image.fromarray(noise(64, 64, 3)).convert(mode))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    told = sentence(path)
    assert re.match(r'cannot be decoded \(.+\): fetch it again|is not an image that can', told)
    assert kept < 0.5 or told.startswith('cannot be decoded')


def test_damage_of_any_kind_is_a_sentence_or_an_image(save: Callable[..., Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ('x.png', 'x.jpg', 'x.webp', 'x.gif', 'x.bmp', 'x.tif', 'x.ppm'):
        content = save(name, noise(SIZE, SIZE, 3)).read_bytes()
        for _ in range(40):
            damaged = bytearray(content)
            for position in rng.integers(0, min(len(content), 300), 4):
                damaged[position] = rng.integers(0, 256)
            (tmp_path / name).write_bytes(damaged)
            try:
                assert read_image(tmp_path / name, SIZE, 3).shape == (SIZE, SIZE, 3)
            except InputError:
                sentence(tmp_path / name)


@pytest.mark.parametrize('user_filter', ['error', 'default', 'ignore'])
@pytest.mark.parametrize('side', [10_000, 20_000])
def test_a_decompression_bomb(tmp_path: Path, side: int, user_filter: Any) -> None:
    header = png_chunk(b'IHDR', struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0))
    pixels = png_chunk(b'IDAT', zlib.compress(bytes(1000)))
    (tmp_path / 'x.png').write_bytes(b'\x89PNG\r\n\x1a\n' + header + pixels + png_chunk(b'IEND', b''))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(user_filter)
        told = sentence(tmp_path / 'x.png')
    assert told == 'has more than 89478485 pixels, too many to be safe to read: save it smaller.'
    assert not caught


def within(limit: int) -> tuple[int, int]:
    """Sides of an image of more pixels than a limit, but of less than twice as many: there Pillow only warns."""
    return 16, limit // 16 + 2


def bombs(save: Callable[..., Path]) -> dict[str, bytes]:
    """Files in whose reading Pillow finds somewhere more than 256 pixels, but less than 512; by format and place."""
    wide = noise(*within(256)[::-1])
    options = {'ico': {'sizes': [within(256)]}}
    images = {
        name: save(f'x.{name}', Image.fromarray(wide), **options.get(name, {})).read_bytes()
        for name in ('avif', 'bmp', 'dds', 'gif', 'ico', 'jpg', 'jp2', 'pcx', 'png', 'pgm', 'sgi', 'tga', 'tif', 'webp')
    }
    small = bytearray(save('small.gif', Image.fromarray(noise(4, 4))).read_bytes())
    frame = small.index(b',\0\0\0\0\x04\0\x04\0')  # the one frame, which reaches out of the 4 x 4 pixels of all
    small[frame + 5 : frame + 9] = struct.pack('<HH', *within(256))
    cursor = bytearray(save('small.ico', Image.fromarray(noise(16, 16)), sizes=[(16, 16)]).read_bytes())
    chunk = cursor.index(b'IHDR')  # of the PNG inside, which is larger than the directory says
    cursor[chunk - 4 : chunk + 21] = png_chunk(b'IHDR', struct.pack('>IIBBBBB', *within(256), 8, 0, 0, 0, 0))
    two = [Image.fromarray(wide), Image.fromarray(wide)]
    several = save('two.mpo', two[0], save_all=True, append_images=two[1:]).read_bytes()
    return images | {'a frame of a GIF': bytes(small), 'a PNG in an ICO': bytes(cursor), 'MPO': several}


@pytest.mark.parametrize('user_filter', ['error', 'always', 'ignore'])
def test_a_decompression_bomb_is_refused_wherever_pillow_would_warn_of_it(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, user_filter: Any
) -> None:
    files = bombs(save)
    for content in files.values():
        with contextlib.suppress(InputError):  # the cursor is broken
            read_image(content, SIZE, 3)
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 256)
    for case, content in files.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter(user_filter)
            with pytest.raises(InputError, match='The image has more than 256 pixels, too many to be safe'):
                read_image(content, SIZE, 3)
        assert not caught, case


def test_many_threads_read_at_once_and_warnings_of_others_are_heard(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = noise(24, SIZE, SIZE, 3)
    contents = [save('x.png', image, exif=b'Exif\0\0II*\0\x08\0\0\0\xff\xff').read_bytes() for image in images]
    bomb = save('bomb.png', noise(*within(256))).read_bytes()
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 256)

    def read(i: int) -> np.ndarray | str:
        if i % 25 < 24:
            return read_image(contents[i % 25], SIZE, 3)
        with pytest.raises(InputError) as refusal:
            read_image(bomb, SIZE, 3)
        return str(refusal.value)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        filters = list(warnings.filters)
        with ThreadPoolExecutor(8) as threads:
            answers = threads.map(read, range(250))
            while not (heard := [each for each in caught if each.category is Image.DecompressionBombWarning]):
                Image.open(io.BytesIO(bomb))  # somebody else's, meanwhile
            for i, answer in enumerate(answers):
                if isinstance(answer, str):
                    assert 'too many to be safe' in answer
                else:
                    np.testing.assert_array_equal(answer, images[i % 25])
        assert warnings.filters == filters
    assert {each.filename for each in heard} == {Image.__file__}  # as without us
    assert caught == heard, 'of what was read here nothing is heard'


def test_pillow_and_the_warnings_are_left_as_they_were(save: Callable[..., Path], tmp_path: Path) -> None:
    def settings() -> tuple[Any, ...]:
        return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)

    before = settings()
    path = save('x.png', with_palette(noise(SIZE, SIZE) % 3), transparency=bytes([0, 128, 255]))
    read_image(path, SIZE, 1)
    path.write_bytes(path.read_bytes()[:60])
    sentence(path)
    assert settings() == before


@pytest.mark.parametrize('num_channels', [0, 2, 4, -1])
def test_channels_other_than_1_and_3_are_the_programs_mistake(save: Callable[..., Path], num_channels: int) -> None:
    with pytest.raises(ValueError, match=f'num_channels is {num_channels}') as caught:
        read_image(save('x.png', noise(SIZE, SIZE)), SIZE, num_channels)
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    ('image_size', 'crop_fraction'), [(0, 1.0), (-1, 1.0), (8, 0.0), (8, 1.01), (8, -0.5), (8, float('nan'))]
)
def test_a_crop_that_is_none_is_the_programs_mistake(
    save: Callable[..., Path], image_size: int, crop_fraction: float
) -> None:
    with pytest.raises(ValueError, match='crop_fraction') as caught:
        read_image(save('x.png', noise(SIZE, SIZE)), image_size, 1, crop_fraction)
    assert not isinstance(caught.value, InputError)


def test_reading_an_image_loads_neither_jax_nor_tensorflow(save: Callable[..., Path]) -> None:
    code = (
        'import sys; from codinet_jax.data.image_files import read_image\n'
        f'read_image({str(save("x.png", noise(20, 20, 3)))!r}, 8, 3)\n'
        'print(*sorted({name.partition(".")[0] for name in sys.modules}))'
    )
    printed = subprocess.run(
        [sys.executable, '-c', code], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout
    loaded = set(printed.split())
    assert {'codinet_jax', 'numpy', 'PIL'} <= loaded
    assert not loaded & {'jax', 'jaxlib', 'flax', 'optax', 'tensorflow', 'tensorflow_datasets', 'etils', 'absl'}
