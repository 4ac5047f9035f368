"""Which windows of a photograph are its views: the usual Inception crop."""

import math

import numpy as np

ATTEMPTS = 10
LEAST_AREA = 0.08
GREATEST_ASPECT = 4 / 3


def boxes(uniform_AxMx4: np.ndarray, height: float, width: float) -> np.ndarray:
    """Windows of 8 to 100 % of an image's area, log-uniform in aspect from 3:4 to 4:3, anywhere in the image.

    Of a view's A attempts the first that fits into the image is taken. If none does, it is the largest window in the
    image's centre whose aspect is allowed.

    Args:
      uniform_AxMx4: uniform in [0, 1): area, aspect, and place from the top and from the left, of each attempt.
      height: of the image, pixels, floating.
      width: of the image, pixels, floating.

    Returns:
      Whole pixels, floating [M, 4]: top, left, height, width.
    """
    area_AxM = height * width * (LEAST_AREA + (1 - LEAST_AREA) * uniform_AxMx4[..., 0])
    aspect_AxM = np.exp((2 * uniform_AxMx4[..., 1] - 1) * math.log(GREATEST_ASPECT))
    heights_AxM = np.maximum(np.round(np.sqrt(area_AxM / aspect_AxM)), 1)
    widths_AxM = np.maximum(np.round(np.sqrt(area_AxM * aspect_AxM)), 1)
    fits_AxM = np.where((heights_AxM <= height) & (widths_AxM <= width), 1.0, 0.0)
    is_first_AxM = np.where(np.cumsum(fits_AxM, axis=0) == 1, fits_AxM, 0)
    attempts = np.stack([heights_AxM, widths_AxM, uniform_AxMx4[..., 2], uniform_AxMx4[..., 3]])
    chosen_4xM = np.sum(np.where(is_first_AxM == 1, attempts, 0), axis=1)
    none_fits_M = chosen_4xM[0] == 0
    heights_M = np.where(none_fits_M, np.minimum(height, np.round(width * GREATEST_ASPECT)), chosen_4xM[0])
    widths_M = np.where(none_fits_M, np.minimum(width, np.round(height * GREATEST_ASPECT)), chosen_4xM[1])
    down_M, right_M = (np.where(none_fits_M, 0.5, chosen_4xM[place]) for place in (2, 3))
    tops_M, lefts_M = np.floor(down_M * (height - heights_M + 1)), np.floor(right_M * (width - widths_M + 1))
    return np.stack([tops_M, lefts_M, heights_M, widths_M], axis=1)


def uniform(num_views: int, seed: int, position: int) -> np.ndarray:
    """What `boxes` draws from, float64 [A, M, 4], for the image at one position of the training stream."""
    # Raw bits, because NumPy promises never to change them; it promises that of no Generator method;
    # the 1 parts them from the bits that order the epochs.
    bits = np.random.PCG64((seed, 1, position)).random_raw(ATTEMPTS * num_views * 4)
    return ((bits >> np.uint64(11)) * 2.0**-53).reshape(ATTEMPTS, num_views, 4)
