"""What a run's routes say, as numbers, figures and a page; reads what evaluation recorded and touches no model."""

import importlib.util

from codinet_jax.runtime.errors import InputError

DRAWING = ('matplotlib', 'bokeh', 'openTSNE')  # heavy, and needed nowhere else


def check_drawing() -> None:
    """To be called before work is spent on what is to be drawn.

    Raises:
      InputError: a package for it is not installed.
    """
    for package in DRAWING:
        if importlib.util.find_spec(package) is None:
            raise InputError(f'Drawing needs the package {package}: pip install "codinet_jax[plots]".')
