"""What a run left under its name, told from what one of other settings left there; and a cache of other weights."""

import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from codinet_jax.runtime import files
from codinet_jax.runtime.errors import InputError


def is_finished(results: pathlib.Path, state: pathlib.Path, settings: Mapping[str, Any]) -> bool:
    """Whether a run of these settings has left its results.

    Raises:
      InputError: the results or the saved state are of other settings.
    """
    if results.exists():
        record = files.read_json(results)
        _check(results, record | record['settings'], settings)
        return True
    if state.exists():
        with np.load(state) as arrays:
            if 'settings' in arrays.files:  # older versions saved none
                _check(state, json.loads(str(arrays['settings'])), settings)
    return False


def _check(path: pathlib.Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Older versions recorded fewer settings: what is not there is not compared."""
    there, here = ({name: _plain(value) for name, value in each.items()} for each in (there, here))
    differing = [
        f'{name} ({there[name]} there, {here[name]} here)'
        for name in here
        if name in there and there[name] != here[name]
    ]
    if differing:
        raise InputError(
            f'{path} is of a run with other settings: {", ".join(differing)}; give another --output, or those settings.'
        )


def _plain(value: Any) -> Any:
    """As JSON has it; of a file of weights the name alone, wherever it lies."""
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return pathlib.Path(value).stem if isinstance(value, str) and value.endswith('.npz') else value


def check_weights(cache: pathlib.Path, paths: Iterable[str]) -> None:
    """Notes which weights a cache is of: what it holds goes by the names of their files.

    Raises:
      InputError: it is of other weights of such a name, or these cannot be read.
    """
    file = cache / 'weights.json'
    known = files.read_json(file) if file.exists() else {}
    digests = dict(known)
    for path in paths:
        with files.reading(path):
            digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
        if digests.setdefault(_plain(path), digest) != digest:
            raise InputError(
                f'{cache} holds answers of another {pathlib.Path(path).name}: give another --cache, or the file a name '
                'of its own.'
            )
    if digests != known:
        files.write(file, lambda opened: opened.write(files.json_bytes(digests)))
