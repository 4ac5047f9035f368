"""Weights that torchvision and timm publish, by name: which file they are, in the cache that the library itself keeps,
and the input that they expect. Only the file is taken from there; `state_dict` reads it. Nothing is fetched unasked.
"""

import difflib
import importlib
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from codinet_jax.models.architecture import BLOCKS_PER_STAGE
from codinet_jax.runtime.errors import InputError, first_sentence

NETWORKS = tuple(f'resnet{depth}' for depth in BLOCKS_PER_STAGE)


class Published(NamedTuple):
    """A file of published weights. `name` says which, as 'timm:resnet18.a1_in1k'; `mean` and `std` are what its library
    normalises pixels in [0, 1] by, per channel."""

    name: str
    path: pathlib.Path
    mean: tuple[float, ...]
    std: tuple[float, ...]


def is_name(source: str) -> bool:
    """Whether this names published weights, rather than a file."""
    library, colon, _ = source.partition(':')
    return bool(colon) and library in _LIBRARIES


def find(source: str, *, may_download: bool = False) -> Published:
    """The file of published weights in its library's cache.

    Args:
      source: 'torchvision:NETWORK' or 'timm:NETWORK', which are the weights that the library prefers, or the same with
        '.TAG' behind it.
      may_download: whether to fetch the file where the cache has none.

    Raises:
      InputError: the library is not installed, publishes none of this name, or the file is not there.
    """
    library, _, name = source.partition(':')
    network = name.partition('.')[0]
    if network not in NETWORKS:
        raise InputError(f'{source} names no network that we have: {_meant(library, network, NETWORKS)}.')
    return _LIBRARIES[library](name, may_download)


def _torchvision(name: str, may_download: bool) -> Published:
    models, hub = _imported('torchvision.models', 'torchvision'), _imported('torch.hub', 'torchvision')
    network, _, tag = name.partition('.')
    published = models.get_model_weights(network)
    if (tag or 'DEFAULT') not in published.__members__:
        raise _unknown('torchvision', name, [f'{network}.{each}' for each in published.__members__])
    weights = published[tag or 'DEFAULT']
    source = f'torchvision:{network}.{weights.name}'
    path = pathlib.Path(hub.get_dir(), 'checkpoints', weights.url.rpartition('/')[2])

    def fetch() -> pathlib.Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        hub.download_url_to_file(weights.url, str(path), hash_prefix=path.stem.rpartition('-')[2])
        return path

    found = path if path.is_file() else _fetched(source, str(path), fetch, may_download)
    preset = weights.transforms()
    return Published(source, found, tuple(preset.mean), tuple(preset.std))


def _timm(name: str, may_download: bool) -> Published:
    timm, hub = _imported('timm', 'timm'), _imported('huggingface_hub', 'timm')
    network, _, tag = name.partition('.')
    known = timm.list_pretrained(f'{network}.*')
    if tag and name not in known:
        raise _unknown('timm', name, known)
    weights = timm.get_pretrained_cfg(name)
    source = f'timm:{network}.{weights.tag}'
    file = {'repo_id': weights.hf_hub_id, 'filename': 'model.safetensors'}
    cached = hub.try_to_load_from_cache(**file)  # a path, or what says that there is none

    def fetch() -> pathlib.Path:
        return pathlib.Path(hub.hf_hub_download(**file))

    place = f'{weights.hf_hub_id} in {hub.constants.HF_HUB_CACHE}'
    found = pathlib.Path(cached) if isinstance(cached, str) else _fetched(source, place, fetch, may_download)
    return Published(source, found, tuple(weights.mean), tuple(weights.std))


_LIBRARIES: dict[str, Callable[[str, bool], Published]] = {'torchvision': _torchvision, 'timm': _timm}


def _imported(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # the latter two where it does not fit its PyTorch
        raise InputError(
            f'{module} cannot be imported ({first_sentence(error)}): pip install {package}, or give --source a file.'
        ) from error


def _fetched(source: str, place: str, fetch: Callable[[], pathlib.Path], may_download: bool) -> pathlib.Path:
    """What `fetch` brings, where it may; `place` is where the cache would have it."""
    if not may_download:
        raise InputError(f'{source} is not in the cache ({place}): give --download to fetch it.')
    try:
        return fetch()
    except Exception as error:  # clients raise whatever they stumble over
        raise InputError(
            f'{source} cannot be fetched ({first_sentence(error)}): try again, or give --source a file.'
        ) from error


def _unknown(library: str, name: str, known: Iterable[str]) -> InputError:
    return InputError(f'{library} publishes no weights {name}: {_meant(library, name, known)}.')


def _meant(library: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3) or names
    return f'give one like {", ".join(f"{library}:{each}" for each in near)}'
