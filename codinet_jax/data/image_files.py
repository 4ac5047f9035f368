"""Ordinary image files, read as the network wants them; NumPy and Pillow are all this needs."""

import functools
import io
import os
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from codinet_jax.data import pillow_warnings
from codinet_jax.runtime import files
from codinet_jax.runtime.errors import InputError

_MODES = {1: 'L', 3: 'RGB'}

# Pillow knows more, and for some of them starts other programs, as Ghostscript for what only looks like a photograph.
FORMATS = (
    *('AVIF', 'BMP', 'DDS', 'DIB', 'GIF', 'ICNS', 'ICO', 'JPEG', 'JPEG2000', 'PCX', 'PNG', 'PPM', 'QOI', 'SGI'),
    *('TGA', 'TIFF', 'WEBP', 'XBM', 'XPM'),
)
_ORIENTATION = 0x0112  # in EXIF: what undoes it
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A PNG's grey of few bits is scaled to 8 when it is read, and the level of it that is transparent is not.
_LEVELS = {'L;2': 85, 'L;4': 17}
TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# In TIFF.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _FILL_ORDER, _PLANAR = 258, 262, 266, 284
_WHITE_IS_ZERO = 0
# Of compressed TIFF: libtiff gives numbers in this machine's order of bytes, which for these Pillow forgets.
_IN_NATIVE_ORDER = {'F;32BF': 'F;32NF', 'I;16BS': 'I;16NS', 'I;32BS': 'I;32NS'}


Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO


def read_image(source: Source, image_size: int, num_channels: int, crop_fraction: float = 1.0) -> np.ndarray:
    """Reads one image of any mode and size, of a format in `FORMATS`, and cuts the network's square out of it.

    The image is turned upright by its EXIF orientation and laid over white where it is transparent; an animation is
    its first frame. It is then resized, bicubic with antialiasing and its aspect ratio kept, until its shorter side
    is round(image_size / crop_fraction), and the central square is cut out: 256 and 224 pixels, the usual evaluation
    crop of ImageNet, are an image_size of 224 with a crop_fraction of 0.875. With a crop_fraction of 1 an image of
    the right size keeps every bit; below 1 it is enlarged and cut like any other.

    8 bits a channel are kept as they are, and so is the upper byte of 16 in colour. Grey integers of more than 8 bits
    are scaled from [0, 65535], or from as many bits as a TIFF file says they have, and grey floats from [0, 1]. Colour
    becomes grey by the weights of ITU-R 601, and colour profiles are ignored.

    Any number of threads may read at once.

    Args:
      source: the path of a file, what is in one as bytes, or a file open for reading in binary, which is read from
        where it is to its end and left open.
      image_size: pixels, the height and the width of the result.
      num_channels: 1 for grey, 3 for red, green and blue.
      crop_fraction: share of the shorter side that is kept, in (0, 1].

    Returns:
      uint8 [image_size, image_size, num_channels], writable.

    Raises:
      InputError: the file is missing, is a directory, may not be opened or read, is empty, is no image, is cut short
        or damaged, has so many pixels that Pillow fears a decompression bomb, or has pixels that are NaN, infinite or
        out of the range above. It names the file; what has no name is "The image".
      ValueError: image_size, num_channels or crop_fraction is none of the above.
    """
    if num_channels not in _MODES:
        raise ValueError(f'num_channels is {num_channels}: 1 and 3 can be read')
    if image_size < 1 or not 0 < crop_fraction <= 1:
        raise ValueError(f'image_size {image_size} must be at least 1 and crop_fraction {crop_fraction} in (0, 1]')
    return central_square(decode_file(source, num_channels), image_size, crop_fraction)


def decode_file(source: Source, num_channels: int) -> Image.Image:
    """Decodes the image of a source as `decode` does.

    Raises:
      InputError: it is missing, is a directory, may not be opened, is empty or cannot be decoded.
    """
    name = _name(source)
    try:
        with _opened(source) as file:
            if not file.peek(1):
                raise InputError(f'{name} is empty: fetch it or save it again.')
            return decode(file, name, num_channels)
    except FileNotFoundError as error:
        raise InputError(f'{name} does not exist: give the path of an image.') from error
    except IsADirectoryError as error:
        raise InputError(f'{name} is a directory: give the path of one image.') from error
    except PermissionError as error:
        raise InputError(f'{name} cannot be opened ({error.strerror}): make it readable, or give another.') from error
    except OSError as error:
        other = InputError(f'{name} cannot be opened ({error.strerror}): make it readable, or give another.')
        raise files.refused(name, error) or other from error


def _name(source: Source) -> str:
    """What errors call a source."""
    name = source if isinstance(source, str | os.PathLike) else getattr(source, 'name', None)
    return files.printable(name) if isinstance(name, str | os.PathLike) else 'The image'


def _opened(source: Source) -> io.BufferedReader:
    if isinstance(source, str | os.PathLike):
        return open(source, 'rb')
    content = source if isinstance(source, bytes | bytearray | memoryview) else source.read()
    return io.BufferedReader(io.BytesIO(content))


def decode(file: BinaryIO, name: str | os.PathLike[str], num_channels: int) -> Image.Image:
    """Decodes one image, upright and on white as `read_image` says, in any number of threads at once.

    Args:
      file: open for reading.
      name: what errors call the image.
      num_channels: 1 for grey, 3 for red, green and blue.

    Raises:
      InputError: it is no image, cut short or damaged, too large, or its pixels are out of range; or the machine does
        not let it be read.
    """
    formats = _formats_here()
    try:
        with pillow_warnings.kept():
            return _decoded(file, name, num_channels, formats)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f'{name} is not an image that can be read here: save it as PNG or JPEG.') from error
    except TOO_LARGE as error:
        limit = f'more than {Image.MAX_IMAGE_PIXELS} pixels, too many to be safe to read'
        raise InputError(f'{name} has {limit}: save it smaller.') from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and many others
        reason = str(error).rstrip('.') or type(error).__name__
        fix = 'fetch it again if it was cut short, or save it as PNG or JPEG'
        undecodable = InputError(f'{files.printable(name)} cannot be decoded ({reason}): {fix}.')
        raise files.refused(name, error) or undecodable from error


def _decoded(file: BinaryIO, name: str | os.PathLike[str], num_channels: int, formats: tuple[str, ...]) -> Image.Image:
    opened = Image.open(file, formats=formats)
    stored = opened.tile[0].args if opened.format == 'PNG' and opened.tile else None
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        opened.tile = [
            tile._replace(args=_as_stored(opened.tag_v2, tile.codec_name, tile.args)) for tile in opened.tile
        ]
    image: Image.Image = opened
    image.load()  # which turns a TIFF upright, and no other
    if stored in _LEVELS and isinstance(image.info.get('transparency'), int):
        image.info['transparency'] *= _LEVELS[stored]
    is_see_through = _see_through(image, file) if stored == 'RGB;16B' else None
    image = _in_bytes(image, name)
    if is_see_through is not None:
        image.paste('white', mask=Image.fromarray(is_see_through))
        del image.info['transparency']
    return _on_white(_turned_upright(image), _MODES[num_channels])


@functools.cache
def _formats_here() -> tuple[str, ...]:
    """Those that this build of Pillow reads."""
    Image.init()
    pillow_warnings.take_over()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@functools.cache
def extensions() -> frozenset[str]:
    """How names of images end that this build of Pillow reads, as .jpg, in small letters."""
    formats = _formats_here()
    return frozenset(end for end, name in Image.registered_extensions().items() if name in formats)


def _as_stored(tags: Any, decoder: str, args: Any) -> tuple[Any, ...]:
    """How the numbers of one tile of a TIFF lie in it, where Pillow has that wrong; first in `args` is its mode.

    Raises:
      ValueError: Pillow would take them for others.
    """
    mode, *rest = args
    if decoder == 'libtiff':
        return _IN_NATIVE_ORDER.get(mode, mode), *rest
    # Of planes that lie apart Pillow keeps the letter alone, without their depth, orders and polarity.
    if tags.get(_PLANAR, 1) == 2 and (
        tags.get(_BITS_PER_SAMPLE, (1,))[0] != 8
        or tags.get(_FILL_ORDER, 1) == 2
        or tags.get(_PHOTOMETRIC, _WHITE_IS_ZERO) == _WHITE_IS_ZERO
    ):
        raise ValueError('its planes lie apart, and are not of plain bytes')
    return args


def _turned_upright(image: Image.Image) -> Image.Image:
    """By EXIF's orientation alone: whatever else is odd in that block costs no image."""
    try:
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow's reader raises whatever it stumbles over
        method = None
    return image if method is None else image.transpose(method)


def _see_through(image: Image.Image, file: BinaryIO) -> np.ndarray | None:
    """Where a PNG of 16 bits a colour is transparent, bool [H, W]; None where no colour is.

    Of its pixels Pillow keeps the upper bytes; the lower ones are read as if their order were the other one.
    """
    colour = image.info.get('transparency')
    if not isinstance(colour, tuple):
        return None
    file.seek(0)
    lower = Image.open(file, formats=('PNG',))
    lower.tile = [tile._replace(args='RGB;16L') for tile in lower.tile]
    is_colour_HxW: np.ndarray = (256 * np.asarray(image, np.int32) + np.asarray(lower, np.int32) == colour).all(axis=-1)
    return is_colour_HxW


def _in_bytes(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
    # Pillow's own conversion to 8 bits clips at 255.
    if image.mode != 'F' and not image.mode.startswith('I'):
        return image
    tags = getattr(image, 'tag_v2', {})
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
    white = 1 if image.mode == 'F' else 2 ** min(bits, 16) - 1
    values_HxW = np.asarray(image)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values_HxW = white - values_HxW.astype(np.float64 if image.mode == 'F' else np.int64)
    if not ((values_HxW >= 0) & (values_HxW <= white)).all():
        raise InputError(f'{path} has pixels that are NaN or outside [0, {white}]: scale them, or save it in 8 bits.')
    if 'transparency' in image.info:
        values_HxW = np.where(values_HxW == image.info['transparency'], white, values_HxW)
    in_bytes = Image.fromarray(np.rint(values_HxW * np.float32(255 / white)).astype(np.uint8))
    in_bytes.info = {name: value for name, value in image.info.items() if name != 'transparency'}
    return in_bytes


def _on_white(image: Image.Image, mode: str) -> Image.Image:
    if image.mode not in ('L', 'RGB') or 'transparency' in image.info:
        layer = image.convert('RGBA')
        image = Image.new('RGB', layer.size, 'white')
        image.paste(layer, mask=layer)
    return image.convert(mode)


def central_square(image: Image.Image, image_size: int, crop_fraction: float) -> np.ndarray:
    """The network's square out of an image, cut as `read_image` says: uint8 [image_size, image_size, C], writable."""
    shorter = round(image_size / crop_fraction)
    box = []
    for side in image.size:
        resized = round(side * shorter / min(image.size))
        start = (resized - image_size) // 2
        box.append((start * side / resized, (start + image_size) * side / resized))
    (left, right), (top, bottom) = box
    # Pillow resizes what is in the box alone: 1 x 5000 pixels are never enlarged whole.
    square = image.resize((image_size, image_size), Image.Resampling.BICUBIC, (left, top, right, bottom))
    return np.array(square).reshape(image_size, image_size, -1)
