"""Where TFDS prepared a set, and the command that prepares it."""

import re
from pathlib import Path

from codinet_jax.runtime import files
from codinet_jax.runtime.errors import InputError


def newest(tfds_name: str, root: Path) -> tuple[Path, str]:
    """Where the newest version of a set lies, and what to do if it is damaged.

    Raises:
      InputError: it is not there, or in several configs; or digits cannot be written.
    """
    if tfds_name == 'digits':
        from codinet_jax.data import digits

        digits.prepare(root)
    directory = _newest_version(tfds_name, root)
    return directory, f'delete it and run {_preparation(tfds_name, root)}'


def elsewhere(tfds_name: str) -> str:
    """What to do if the set cannot be read here, and is whole."""
    return f'prepare the set in another data_dir with {_preparation(tfds_name, Path("DATA_DIR"))}'


def _preparation(tfds_name: str, root: Path) -> str:
    if tfds_name == 'digits':
        return 'the same command again, which will write it'
    builder = f"tfds.builder('{tfds_name}', data_dir='{root}', file_format='array_record')"
    return f'`python -c "import tensorflow_datasets as tfds; {builder}.download_and_prepare()"`'


def _newest_version(tfds_name: str, root: Path) -> Path:
    prepare = f'point data_dir at the directory TFDS prepared {tfds_name} in, or run {_preparation(tfds_name, root)}'
    with files.reading(root):
        if not root.is_dir():
            raise InputError(f'data_dir {root} does not exist: {prepare}.')
    for directory in (root, root / tfds_name):
        with files.reading(directory):  # a glob passes over what may not be read
            next(iter(directory.iterdir()), None) if directory.is_dir() else None
    versions = _versions(tfds_name, root)
    if not versions and '/' not in tfds_name:
        configs = sorted({path.parent.name for path in _versions(f'{tfds_name}/*', root)})
        if len(configs) > 1:
            raise InputError(
                f'data_dir {root} holds {tfds_name} in several configs: name one, as {tfds_name}/{configs[0]} or '
                f'{tfds_name}/{configs[1]}.'
            )
        versions = _versions(f'{tfds_name}/*', root)
    above = root.absolute().parent
    if not versions and root.name == tfds_name and _versions(tfds_name, above):
        raise InputError(f'data_dir {root} is {tfds_name} itself: give the directory above it, {above}.')
    if not versions:
        unfinished = any(root.glob(f'{tfds_name}/*incomplete*'))
        what = f'only an unfinished {tfds_name}' if unfinished else f'no {tfds_name}'
        raise InputError(f'data_dir {root} holds {what}: {prepare}.')
    return max(versions, key=lambda path: [int(number) for number in path.name.split('.')])


def _versions(pattern: str, root: Path) -> list[Path]:
    return [path for path in root.glob(f'{pattern}/*.*.*') if re.fullmatch(r'\d+\.\d+\.\d+', path.name)]
