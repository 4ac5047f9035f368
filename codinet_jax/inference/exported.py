"""A network as files that run without its code: a StableHLO program, its weights, and a manifest.

program.bin     the serialised program of `jax.export`: symbolic batch; for cpu, cuda and tpu
weights.npz     its first argument, by parameter path
manifest.json   what the network is and takes, what calibration found of it, versions, and the SHA-256 of all three

Nothing is pickled: what was altered on the way is refused, and what was not can do no more than compute.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import export

from codinet_jax.inference.operating_points import OperatingPoints
from codinet_jax.inference.predictor import NetworkSpec, Predictor
from codinet_jax.runtime import bfloat16, files, sharding
from codinet_jax.runtime.errors import InputError

FORMAT = 1
PLATFORMS = ('cpu', 'cuda', 'tpu')
PROGRAM, WEIGHTS, MANIFEST = 'program.bin', 'weights.npz', 'manifest.json'


def write(
    directory: str | os.PathLike[str],
    forward: Callable[..., Any],
    weights: Mapping[str, np.ndarray],
    spec: NetworkSpec,
    threshold: float,
    preprocessing: Mapping[str, Any],
    network: Mapping[str, Any],
    operating_points: OperatingPoints | None = None,
    decides: bool = True,
) -> None:
    """Exports a program with its weights.

    Args:
      directory: a new one.
      forward: pure; takes the weights, uint8 images of any batch size and a threshold, returns logits and gates.
      weights: by path.
      spec: what is to be known of the network.
      threshold: where the gates run a block unless the caller says otherwise.
      preprocessing: what the program does to pixels first, for the reader.
      network: its settings, for the reader.
      operating_points: what calibration found of it.
      decides: as of a `Predictor`.

    Raises:
      InputError: the directory holds something, or cannot be written.
    """
    directory = check_new(directory)
    batch = export.symbolic_shape('batch')[0]
    arguments = (
        {path: jax.ShapeDtypeStruct(array.shape, array.dtype) for path, array in weights.items()},
        jax.ShapeDtypeStruct((batch, *spec.image_shape), np.uint8),
        jax.ShapeDtypeStruct((), np.float32),
    )
    exported = export.export(jax.jit(forward), platforms=PLATFORMS)(*arguments)
    manifest = {
        'format': FORMAT,
        'card': dataclasses.asdict(spec),  # its name in every version, so that each reads what another exported
        'threshold': threshold,
        'preprocessing': {
            'input': f'uint8 [batch, {", ".join(map(str, spec.image_shape))}]; the program normalises',
            **preprocessing,
        },
        'platforms': list(exported.platforms),
        'calling_convention': exported.calling_convention_version,
        'versions': {package: importlib.metadata.version(package) for package in ('jax', 'jaxlib', 'flax')},
        'network': dict(network),
        # Older versions neither know nor mind what follows.
        'operating_points': (operating_points or OperatingPoints()).as_record(),
        'decides': decides,
    }
    staging = directory.with_name(f'.{directory.name}.{os.getpid()}')
    try:
        staging.mkdir(parents=True)
        (staging / PROGRAM).write_bytes(exported.serialize())
        np.savez(staging / WEIGHTS, **dict[str, Any](weights))
        manifest['sha256'] = _sha256(staging, manifest)
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')
        staging.rename(directory)
    except OSError as error:
        raise InputError(f'{directory} cannot be written ({error.strerror}): give another --output.') from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_new(directory: str | os.PathLike[str]) -> pathlib.Path:
    """The directory, which may be exported into.

    Raises:
      InputError: it holds something, or cannot be written.
    """
    directory = files.expanded(directory).absolute()
    with files.reading(directory):
        if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
            raise InputError(f'{directory} is there already: give --output a new or an empty directory.')
    files.check_writable(next(path for path in (directory, *directory.parents) if path.exists()))
    return directory


def load(directory: str | os.PathLike[str]) -> Predictor:
    """The network that `write` exported, on all devices; every new batch size compiles once.

    Args:
      directory: what `Predictor.export` or `codinet_jax.export` made.

    Raises:
      InputError: it is not there, is not whole, was altered, or was written by a newer version; or this machine
        computes bfloat16 wrong, and it is in that.
    """
    directory = files.expanded(directory)
    with files.reading(directory):
        manifest = _read_manifest(directory)
        known = (FORMAT, export.maximum_supported_calling_convention_version)
        has = (manifest['format'], manifest['calling_convention'])
        if any(one > other for one, other in zip(has, known, strict=True)):
            raise InputError(
                f'{directory} was exported by a newer version ({_versions(manifest)}): upgrade these, or export it '
                'again with what is installed here.'
            )
        if _sha256(directory, manifest) != manifest['sha256']:
            raise InputError(
                f'{directory} is not what was exported, its content hash differs: copy or export it again.'
            )
    try:
        exported = export.deserialize(bytearray((directory / PROGRAM).read_bytes()))
        has_bfloat16 = 'bf16' in exported.mlir_module()  # reads the StableHLO, whose version may be too new as well
        with open(directory / WEIGHTS, 'rb') as file, np.load(file, allow_pickle=False) as arrays:
            weights = {path: arrays[path] for path in arrays.files}
    except Exception as error:  # readers of flatbuffers, MLIR and zip files raise whatever they stumble over
        unreadable = InputError(
            f'{directory} was exported with {_versions(manifest)} and cannot be read by jax {jax.__version__} '
            f'({" ".join(str(error).split()) or type(error).__name__}): export it again.'
        )
        raise files.refused(directory, error) or unreadable from error
    if has_bfloat16:
        bfloat16.check()
    try:
        spec = _read_spec(manifest['card'], weights, exported)
        known = manifest.get('operating_points', {'points': {}, 'curve': []})
        operating_points = OperatingPoints.of_record(known['points'], known['curve'], str(directory))
        threshold = float(manifest['threshold'])
        if not math.isfinite(threshold):
            raise ValueError(f'threshold is {threshold}')
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f'{directory / MANIFEST} cannot be read ({error}): copy or export it again.') from error
    forward = sharding.on_devices(exported.call, exported.call, weights)
    return Predictor(
        spec, forward, threshold, operating_points=operating_points, decides=manifest.get('decides') is not False
    )


def _read_spec(card: Mapping[str, Any], weights: Mapping[str, np.ndarray], exported: export.Exported) -> NetworkSpec:
    """What the manifest says of the network, compared with the program, which has no names and costs.

    Raises:
      AttributeError, KeyError, TypeError, ValueError: the two are not of one network.
    """
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in card.items()}
    spec = NetworkSpec(**fields)
    *parameters, images, _ = exported.in_avals
    logits, gates = exported.out_avals
    stated = {
        'weights': [weights[path].shape for path in sorted(weights)],
        'images': spec.image_shape,
        'classes': len(spec.classes) if isinstance(spec.classes, tuple) else 0,
        'blocks': len(spec.blocks_macs),
        'blocks of all stages': sum(spec.blocks_per_stage),
    }
    computed = [[each.shape for each in parameters], images.shape[1:], logits.shape[1], *(2 * [gates.shape[1]])]
    for (name, there), here in zip(stated.items(), computed, strict=True):
        if there != here:
            raise ValueError(f'the {name} of its network are not those of its program')
    for name in spec.classes:
        name.encode()  # text, and such as can be printed
    macs = (spec.static_macs, spec.fixed_macs, *spec.blocks_macs)
    if not (0 < spec.center_crop <= 1 and all(isinstance(each, int) for each in macs) and 0 <= min(macs) < macs[0]):
        raise ValueError('center_crop is no share, or a cost is no number of MACs')
    return spec


def size(directory: str | os.PathLike[str]) -> int:
    """Bytes of all its files."""
    return sum(path.stat().st_size for path in files.expanded(directory).iterdir())


def _read_manifest(directory: pathlib.Path) -> dict[str, Any]:
    for name in (MANIFEST, PROGRAM, WEIGHTS):
        if not (directory / name).is_file():
            raise InputError(f'{directory} holds no exported network (no {name}): make one with codinet_jax.export.')
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
        [manifest[name] for name in ('threshold', 'sha256')]
        [manifest[name].items() for name in ('versions', 'card')]
        [manifest[name] > 0 for name in ('format', 'calling_convention')]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f'{directory / MANIFEST} cannot be read ({error}): copy or export it again.') from error
    return manifest


def _versions(manifest: Mapping[str, Any]) -> str:
    return ', '.join(f'{package} {version}' for package, version in manifest['versions'].items())


def _sha256(directory: pathlib.Path, manifest: Mapping[str, Any]) -> str:
    """Of the program, the weights, and the manifest but for the hash itself."""
    digest = hashlib.sha256()
    for name in (PROGRAM, WEIGHTS):
        content = (directory / name).read_bytes()
        digest.update(len(content).to_bytes(8, 'big') + content)
    digest.update(json.dumps({**manifest, 'sha256': None}, sort_keys=True).encode())
    return digest.hexdigest()
