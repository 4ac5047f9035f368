"""TensorFlow is never needed, and where it is installed it must not take the accelerator, which is JAX's."""

import contextlib
import importlib.util
from typing import Any


def is_installed() -> bool:
    return importlib.util.find_spec('tensorflow') is not None


def load() -> Any:
    """TensorFlow, kept off accelerators.

    Raises:
      ImportError: it is not installed.
    """
    import tensorflow as tf

    # A program that has already used it on a GPU has made its own choice, and may keep it.
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], 'GPU')
    return tf
