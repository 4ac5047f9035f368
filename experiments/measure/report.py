"""How scripts that measure begin and end: a directory made anew, and numbers printed and kept."""

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from codinet_jax.runtime import files
from codinet_jax.runtime.files import OutputDirectory


def empty_directory(path: str) -> pathlib.Path:
    """A directory, whose contents are removed."""
    root = OutputDirectory(files.expanded(path).absolute()).path
    shutil.rmtree(root)
    root.mkdir()
    return root


def show(numbers: Mapping[str, Any], file: str | None = None) -> None:
    """Prints numbers, and keeps them in a file if one is named."""
    text = json.dumps(numbers, indent=1)
    print(text)
    if file:
        files.expanded(file).write_text(text + '\n')


def about(config: ConfigDict) -> dict[str, str]:
    """Which network, and on how much at a time."""
    model = config.model
    return {
        'network': f'{model.backbone} {model.depth}, router {model.router}',
        'images_x_views': f'{config.batch_size} x {config.num_views}',
    }
