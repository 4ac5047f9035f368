"""Ordinary image files, read as the network wants them; NumPy and Pillow are all this needs."""

import os
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from codinet_jax.runtime.errors import InputError

_MODES = {1: 'L', 3: 'RGB'}


def read_image(
    path: str | os.PathLike[str], image_size: int, num_channels: int, crop_fraction: float = 1.0
) -> np.ndarray:
    """Reads one image of any format, mode and size that Pillow knows, and cuts the network's square out of it.

    The image is turned upright by its EXIF orientation and laid over white where it is transparent; an animation is
    its first frame. It is then resized, bicubic with antialiasing and its aspect ratio kept, until its shorter side
    is round(image_size / crop_fraction), and the central square is cut out: 256 and 224 pixels, the usual evaluation
    crop of ImageNet, are an image_size of 224 with a crop_fraction of 0.875. With a crop_fraction of 1 an image of
    the right size keeps every bit; below 1 it is enlarged and cut like any other.

    8 bits a channel are kept as they are, and so is the upper byte of 16 in colour. Grey integers of more than 8 bits
    are scaled from [0, 65535], grey floats from [0, 1]. Colour becomes grey by the weights of ITU-R 601, and colour
    profiles are ignored.

    Python's warning filters are set meanwhile, and they belong to all threads: read in one thread at a time.

    Args:
      path: of the file.
      image_size: pixels, the height and the width of the result.
      num_channels: 1 for grey, 3 for red, green and blue.
      crop_fraction: share of the shorter side that is kept, in (0, 1].

    Returns:
      uint8 [image_size, image_size, num_channels], writable.

    Raises:
      InputError: the file is missing, is a directory, may not be opened, is empty, is no image, is cut short or
        damaged, has so many pixels that Pillow fears a decompression bomb, or has pixels that are NaN, infinite or
        out of the range above.
      ValueError: image_size, num_channels or crop_fraction is none of the above.
    """
    if num_channels not in _MODES:
        raise ValueError(f'num_channels is {num_channels}: 1 and 3 can be read')
    if image_size < 1 or not 0 < crop_fraction <= 1:
        raise ValueError(f'image_size {image_size} must be at least 1 and crop_fraction {crop_fraction} in (0, 1]')
    try:
        with open(path, 'rb') as file:
            if not file.peek(1):
                raise InputError(f'{path} is empty: fetch it or save it again.')
            # Pillow only warns of pixels so many that they are feared to be an attack.
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                warnings.simplefilter('error', Image.DecompressionBombWarning)
                image = decode(file, path, num_channels)
    except FileNotFoundError as error:
        raise InputError(f'{path} does not exist: give the path of an image.') from error
    except IsADirectoryError as error:
        raise InputError(f'{path} is a directory: give the path of one image.') from error
    except OSError as error:
        raise InputError(f'{path} cannot be opened ({error.strerror}): make it readable, or give another.') from error
    return central_square(image, image_size, crop_fraction)


def decode(file: BinaryIO, name: str | os.PathLike[str], num_channels: int) -> Image.Image:
    """Decodes one image, upright and on white as `read_image` says; Python's warning filters are left as they are.

    Args:
      file: open for reading.
      name: what errors call the image.
      num_channels: 1 for grey, 3 for red, green and blue.

    Raises:
      InputError: it is no image, cut short or damaged, too large, or its pixels are out of range.
    """
    try:
        upright = ImageOps.exif_transpose(Image.open(file))
        return _on_white(_in_bytes(upright, name), _MODES[num_channels])
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f'{name} is not an image that Pillow can read: save it as PNG or JPEG.') from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f'more than {Image.MAX_IMAGE_PIXELS} pixels, too many to be safe to read'
        raise InputError(f'{name} has {limit}: save it smaller.') from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error and many others
        reason = str(error).rstrip('.') or type(error).__name__
        fix = 'fetch it again if it was cut short, or save it as PNG or JPEG'
        raise InputError(f'{name} cannot be decoded ({reason}): {fix}.') from error


def _in_bytes(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
    # Pillow's own conversion to 8 bits clips at 255.
    if image.mode != 'F' and not image.mode.startswith('I'):
        return image
    white = 1 if image.mode == 'F' else 65535
    values_HxW = np.asarray(image)
    if not ((values_HxW >= 0) & (values_HxW <= white)).all():
        raise InputError(f'{path} has pixels that are NaN or outside [0, {white}]: scale them, or save it in 8 bits.')
    if 'transparency' in image.info:
        values_HxW = np.where(values_HxW == image.info['transparency'], white, values_HxW)
    return Image.fromarray(np.rint(values_HxW * np.float32(255 / white)).astype(np.uint8))


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
