"""Variables that are another network's, found out where they fail."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from codinet_jax.models.network import RoutedResNet, fresh_variables
from codinet_jax.runtime.errors import InputError


@contextlib.contextmanager
def fitting(model: RoutedResNet, variables: Mapping[str, Any]) -> Iterator[None]:
    """Says of what fails that the variables are another network's, if they are; to ask before would be a trace a load.

    Raises:
      InputError: they are.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        shapes = jax.eval_shape(lambda: fresh_variables(model, 0))
        given = traverse_util.flatten_dict(dict(variables), sep='/')
        for path, leaf in traverse_util.flatten_dict(shapes, sep='/').items():
            there = np.shape(given[path]) if path in given else 'missing'
            if there != leaf.shape:
                raise InputError(
                    f'The variables are not those of {model.architecture.name} with router {model.router!r}: {path} is '
                    f'{there} in them, and {leaf.shape} in the network; give those that it was trained with.'
                ) from error
        raise
