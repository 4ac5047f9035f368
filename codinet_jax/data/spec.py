"""What a network and its training must know of images, wherever these come from."""

import numbers
from dataclasses import dataclass
from typing import Any

import numpy as np

from codinet_jax.runtime.errors import InputError


@dataclass(frozen=True)
class DataSpec:
    """What a network and its training must know of images.

    Attributes:
      classes: their names; or how many there are, where they have none.
      mean: per channel, of pixels in [0, 1]; one number for all of them will do.
      std: as `mean`, above 0.
      crop_padding: pixels added on each side before a view is cropped back; 0 crops nothing.
      flip: whether views are mirrored half the time.
      center_crop: share of a photograph's shorter side that evaluation sees, in (0, 1].

    Raises:
      InputError: there is no class, or one of the numbers is out of its range.
    """

    classes: tuple[str, ...] | int
    mean: tuple[float, ...] | float
    std: tuple[float, ...] | float
    crop_padding: int = 0
    flip: bool = False
    center_crop: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, 'classes', _classes(self.classes))
        for name in ('mean', 'std'):
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if np.ndim(value) else (value,))
        for name, low, of in (('mean', 0, 'from 0 to 1'), ('std', 1e-6, 'above 0 and at most 1')):
            given = getattr(self, name)
            if not all(isinstance(number, numbers.Real) and low <= float(number) <= 1 for number in given):
                raise InputError(f'{name} is {given}; give a number {of} for each channel.')
            object.__setattr__(self, name, tuple(map(float, given)))
        is_whole = isinstance(self.crop_padding, numbers.Integral) and self.crop_padding >= 0
        if self.num_classes < 1 or not is_whole or not 0 < self.center_crop <= 1:
            raise InputError(
                f'{self} cannot be: there is at least one class, crop_padding is a whole number of at least 0, and '
                'center_crop a share.'
            )

    def check_network(self, num_classes: int, num_channels: int) -> None:
        """Refuses a network of so many classes and channels of an image.

        Raises:
          InputError: it is not for such images.
        """
        if self.num_classes != num_classes:
            raise InputError(
                f'The network has {num_classes} classes and the data {self.num_classes}: give both the same.'
            )
        for name, given in zip(('mean', 'std'), self.normalisation, strict=True):
            if len(given) not in (1, num_channels):
                raise InputError(
                    f'{name} is {given}, and images of the network have {num_channels} channel(s): give one number '
                    'for each, or one for all.'
                )

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std, per channel or one for all."""
        mean, std = self.mean, self.std
        assert isinstance(mean, tuple) and isinstance(std, tuple)  # __post_init__ made them
        return mean, std

    @property
    def num_classes(self) -> int:
        return self.classes if isinstance(self.classes, int) else len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name for every class; its number where they have none."""
        return tuple(map(str, range(self.classes))) if isinstance(self.classes, int) else self.classes


def _classes(given: Any) -> tuple[str, ...] | int:
    """Names as text, or a number of Python's, so that both can be written down; arrays and lists of names will do."""
    if isinstance(given, numbers.Integral):
        return int(given)
    if isinstance(given, str) or not (np.iterable(given) and all(isinstance(name, str) for name in given)):
        raise InputError(f'classes is {given!r}; give their names, as ("cat", "dog"), or how many there are.')
    return tuple(map(str, given))
