"""One picture gives the same pixels at any depth, upright by EXIF's orientation, and no program is started."""

import io
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from codinet_jax.data import image_files
from codinet_jax.data.image_files import read_image
from codinet_jax.runtime.errors import InputError

SIZE = 8


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))


def png(rows: list[bytes], depth: int, colour: int, transparent: bytes) -> bytes:
    header = struct.pack('>IIBBBBB', SIZE, len(rows), depth, colour, 0, 0, 0)
    data = zlib.compress(b''.join(b'\0' + row for row in rows))
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        chunk(*part) for part in ((b'IHDR', header), (b'tRNS', transparent), (b'IDAT', data), (b'IEND', b''))
    )


def tiff(planes: list[bytes], bits: int, photometric: int, sample_format: int, order: str = '<', **more: int) -> bytes:
    """Of SIZE x SIZE pixels, each of a number from every plane, in one strip a plane."""
    tags = {256: SIZE, 257: SIZE, 258: bits, 259: more.get('compression', 1), 262: photometric, 273: 0}
    tags |= {266: more.get('fill_order', 1), 277: more.get('samples', 1), 278: SIZE, 279: 0}
    tags |= {284: more.get('planar', 1), 339: sample_format}
    lists, start = 8 + 2 + 12 * len(tags) + 4, 8 + 2 + 12 * len(tags) + 4 + 8 * len(planes)
    lengths = [len(plane) for plane in planes]
    offsets = [start + sum(lengths[:i]) for i in range(len(planes))]
    if len(planes) == 1:
        tags |= {273: offsets[0], 279: lengths[0]}
    else:
        tags |= {273: lists, 279: lists + 4 * len(planes)}
    counts = {273: len(planes), 279: len(planes)}
    entries = b''.join(struct.pack(f'{order}HHII', tag, 4, counts.get(tag, 1), tags[tag]) for tag in sorted(tags))
    head = (b'II' if order == '<' else b'MM') + struct.pack(f'{order}HIH', 42, 8, len(tags))
    numbers = struct.pack(f'{order}{1 + 2 * len(planes)}I', 0, *offsets, *lengths)
    return head + entries + numbers + b''.join(planes)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize('depth', [1, 2, 4, 8])
@pytest.mark.parametrize('level', [0, 1])
def test_a_transparent_grey_is_white_at_every_depth(tmp_path: Path, depth: int, level: int) -> None:
    levels = np.arange(SIZE) % 2**depth
    packed = np.packbits(((levels[:, None] >> np.arange(depth - 1, -1, -1)) & 1).astype(np.uint8).ravel()).tobytes()
    path = written(tmp_path / 'x.png', png([packed] * SIZE, depth, 0, struct.pack('>H', level)))
    expected = np.where(levels == level, 255, levels * (255 // (2**depth - 1)))
    np.testing.assert_array_equal(read_image(path, SIZE, 1)[0, :, 0], expected)


def test_a_transparent_colour_of_16_bits_is_white_and_none_that_only_looks_like_it(tmp_path: Path) -> None:
    colours = np.array([[0, 0, 0], [1, 2, 3], [0x1234, 0x5678, 0x9ABC], [0x1234, 0x5678, 0x9ABD], *[[65535] * 3] * 4])
    row = colours.astype('>u2').tobytes()
    for transparent, white in (((1, 2, 3), 1), ((0x1234, 0x5678, 0x9ABC), 2)):
        path = written(tmp_path / 'x.png', png([row] * SIZE, 16, 2, struct.pack('>HHH', *transparent)))
        expected = colours // 256
        expected[white] = 255
        np.testing.assert_array_equal(read_image(path, SIZE, 3)[3], expected)


@pytest.mark.parametrize('is_white_zero', [False, True])
@pytest.mark.parametrize('depth', ['8', '12', '16', 'float'])
def test_a_tiff_is_the_same_picture_at_every_depth_and_polarity(
    tmp_path: Path, depth: str, is_white_zero: bool
) -> None:
    picture = np.arange(64).reshape(8, 8) * 4 + 3  # of 255
    stored = 255 - picture if is_white_zero else picture
    if depth == 'float':
        data, bits = (stored / 255).astype('<f4').tobytes(), 32
    elif depth == '12':
        values = np.rint(stored * (4095 / 255)).astype(int).reshape(-1, 2)
        first, second = values.T
        data = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()
        bits = 12
    else:
        data, bits = (stored * (257 if depth == '16' else 1)).astype(f'<u{int(depth) // 8}').tobytes(), int(depth)
    file = tiff([data], bits, 0 if is_white_zero else 1, 3 if depth == 'float' else 1)
    path = written(tmp_path / 'x.tif', file)
    if depth == '12' and is_white_zero:  # Pillow has no reader for these
        with pytest.raises(InputError, match='is not an image that can be read here'):
            read_image(path, SIZE, 1)
        return
    np.testing.assert_array_equal(read_image(path, SIZE, 1)[..., 0], picture)


@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('compression', [1, 8])
@pytest.mark.parametrize('dtype', ['f4', 'i4', 'i2'])
def test_a_tiff_is_the_same_picture_in_either_order_of_bytes(
    tmp_path: Path, dtype: str, compression: int, order: str
) -> None:
    picture = np.arange(64).reshape(8, 8) % 2 * (127 if dtype == 'i2' else 255)  # swapped, a 1. looks like a 0.
    stored = {'f4': picture / 255, 'i4': picture * 257, 'i2': picture * 257 + picture // 127}[dtype]
    data = stored.astype(order + dtype).tobytes()
    data = zlib.compress(data) if compression == 8 else data
    file = tiff([data], 8 * int(dtype[1]), 1, 3 if dtype == 'f4' else 2, order, compression=compression)
    np.testing.assert_array_equal(read_image(written(tmp_path / 'x.tif', file), SIZE, 1)[..., 0], picture)


@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('compression', [1, 8])
@pytest.mark.parametrize('bits', [8, 16])
def test_a_tiff_whose_colours_lie_apart_is_the_same_picture_or_none(
    tmp_path: Path, bits: int, compression: int, order: str
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3))
    stored = (picture * 257 if bits == 16 else picture).astype(f'{order}u{bits // 8}')
    planes = [stored[..., i].tobytes() for i in range(3)]
    planes = [zlib.compress(plane) for plane in planes] if compression == 8 else planes
    path = tmp_path / 'x.tif'
    written(path, tiff(planes, bits, 2, 1, order, samples=3, planar=2, compression=compression))
    if bits == 16 and compression == 1:
        with pytest.raises(InputError, match='planes lie apart'):
            read_image(path, SIZE, 3)
        return
    np.testing.assert_array_equal(read_image(path, SIZE, 3), picture)


@pytest.mark.parametrize('fill_order', [1, 2])
@pytest.mark.parametrize('is_white_zero', [False, True])
@pytest.mark.parametrize('bits', [1, 2, 4, 8, 16])
def test_a_grey_tiff_whose_plane_lies_apart_is_the_same_picture_or_none(
    tmp_path: Path, bits: int, is_white_zero: bool, fill_order: int
) -> None:
    white = 2**bits - 1
    levels = np.random.default_rng(0).integers(0, white + 1, (SIZE, SIZE))
    stored = white - levels if is_white_zero else levels
    data = np.packbits(((stored[..., None] >> np.arange(bits - 1, -1, -1)) & 1).astype(np.uint8).ravel())
    if fill_order == 2:
        data = np.packbits(np.unpackbits(data[:, None], axis=-1)[:, ::-1], axis=-1)[:, 0]
    photometric = 0 if is_white_zero else 1
    file = tiff([data.tobytes()], bits, photometric, 1, '>', planar=2, fill_order=fill_order)
    path = written(tmp_path / 'x.tif', file)
    if bits == 8 and fill_order == 1 and not is_white_zero:
        np.testing.assert_array_equal(read_image(path, SIZE, 1)[..., 0], levels)
        return
    with pytest.raises(InputError, match=r'planes lie apart|is not an image that can be read here'):
        read_image(path, SIZE, 1)


@pytest.mark.parametrize('orientation', [3, 6, 8])
def test_only_the_orientation_of_exif_counts(tmp_path: Path, orientation: int) -> None:
    """A GPS field of the wrong type, and one that no standard knows."""
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    entries = [(0x0112, 3, 1, orientation), (0x8825, 4, 1, 50), (0xFFF0, 99, 1, 7)]
    ifd = struct.pack('<H', 3) + b''.join(struct.pack('<HHII', *entry) for entry in entries) + struct.pack('<I', 0)
    gps = struct.pack('<H', 1) + struct.pack('<HHII', 2, 2, 3, 0x41414141) + struct.pack('<I', 0)
    exif = b'Exif\0\0II*\0' + struct.pack('<I', 8) + ifd + gps
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG', exif=exif)
    turned = {3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1), 8: np.rot90(pixels)}[orientation]
    found = read_image(written(tmp_path / 'x.png', file.getvalue()), SIZE, 1)[..., 0]
    np.testing.assert_array_equal(found, turned)


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('where', ['Raw profile type exif', 'XML:com.adobe.xmp'])
def test_an_orientation_counts_wherever_a_png_has_it(tmp_path: Path, where: str, dtype: type) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6
    tiffs = 'http://ns.adobe.com/tiff/1.0/'
    text = {
        'Raw profile type exif': f'\nexif\n      {len(exif.tobytes())}\n{exif.tobytes().hex()}\n',
        'XML:com.adobe.xmp': f'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:tiff="{tiffs}" tiff:Orientation="6"/>',
    }
    info = PngImagePlugin.PngInfo()
    info.add_itxt(where, text[where])
    Image.fromarray(pixels.astype(dtype) * dtype(np.iinfo(dtype).max // 255)).save(tmp_path / 'x.png', pnginfo=info)
    np.testing.assert_array_equal(read_image(tmp_path / 'x.png', SIZE, 1)[..., 0], np.rot90(pixels, -1))


def test_no_program_is_started_by_what_only_looks_like_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n'

    def start(*_: object, **__: object) -> None:
        raise AssertionError('a program was started')

    monkeypatch.setattr(subprocess, 'Popen', start)
    with pytest.raises(InputError, match='is not an image that can be read here'):
        read_image(written(tmp_path / 'cat.jpg', eps), SIZE, 3)
    assert not {'EPS', 'WMF', 'PSD', 'FITS', 'HDF5'} & set(image_files.FORMATS)
