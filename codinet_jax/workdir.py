"""What a run leaves on disk. All who read or write a workdir go through here.

config.json         the resolved config
metrics.jsonl       one line of numbers every `log_every_steps`, one for every evaluation
tensorboard/        the same for TensorBoard, where TensorFlow is installed
checkpoints/        the whole train state, for resuming
weights.npz         the final parameters and batch statistics, by path; input/: a normalisation not the data set's own
results.json        what came of it
routes/test.npz     every test image's label, prediction, gates and decisions, and those of its augmentations
thumbnails/test.npz what the test images look like
analysis/           numbers, figures and the page that codinet_jax.analyze makes of these
budgets.json        thresholds on the gates that meet a wanted cost, by name
"""

import contextlib
import fcntl
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from codinet_jax.errors import InputError
from codinet_jax.record import AugmentedRecord, Record, is_consistent
from configs import default

# Where the data lie, and how often a run tells and saves, says nothing of where it leads.
NOT_COMPARED = ('data_dir', 'log_every_steps', 'checkpoint_every_steps')
_INPUT = 'input/'  # before the names of a weights file's `WeightsInput`, beside params/ and batch_stats/


class WeightsInput(NamedTuple):
    """The input that a file's weights were trained on: per channel, of pixels in [0, 1], and of imported ones the file
    they came from, by its name and its SHA-256 in hexadecimal."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str = ''
    sha256: str = ''


class Workdir:
    """The files of one run, each written whole or not at all."""

    def __init__(self, path: str | os.PathLike[str]):
        if '://' in os.fspath(path):
            raise InputError(f'{path} is not a directory here: mount the bucket, and give --workdir its path.')
        self.path = pathlib.Path(path).expanduser().absolute()
        self._config = self.path / 'config.json'
        self.metrics = self.path / 'metrics.jsonl'
        self.tensorboard = self.path / 'tensorboard'
        self.checkpoints = self.path / 'checkpoints'
        self.analysis = self.path / 'analysis'

    def __str__(self) -> str:
        return str(self.path)

    def check(self, config: ConfigDict) -> None:
        """Refuses to become the workdir of a run with this config, new or resumed.

        Raises:
          InputError: it holds something else, or a run with another config.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f'{self} is a file: give --workdir a directory.')
        if self._config.exists():
            _refuse_other(self.read_config(), config, self.path)
        elif self.path.exists() and any(not path.name.startswith('.') for path in self.path.iterdir()):
            raise InputError(f'{self} is not empty and holds no run: give --workdir a new or an empty directory.')

    @contextlib.contextmanager
    def claimed(self, config: ConfigDict) -> Iterator[None]:
        """Makes this the workdir of a run with this config, and of nobody else as long as this lasts or lives.

        Raises:
          InputError: it cannot be written, or a run is at work in it, or `check` would refuse it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                directory = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise InputError(f'{self} cannot be written ({error.strerror}): give another --workdir.') from error
        try:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f'Another run is at work in {self}: wait for it or stop it, or give another --workdir.'
                ) from error
            except OSError:
                pass  # a network drive that knows no locks: there nobody can be told from anybody
            self.check(config)
            if not self._config.exists():
                _write(self._config, lambda file: file.write(_json_bytes(json.loads(config.to_json()))))
            yield
        finally:
            os.close(directory)

    @property
    def holds_run(self) -> bool:
        """Whether a run, finished or not, was begun here."""
        return self._config.exists()

    def read_config(self) -> ConfigDict:
        """The resolved config of the run; what the version that wrote it did not know is as the default says.

        Raises:
          InputError: there is none, or it cannot be read.
        """
        if not self._config.exists():
            raise InputError(f'{self} holds no run (no config.json): train one there with codinet_jax.main first.')
        known, written = (
            traverse_util.flatten_dict(config)
            for config in (json.loads(default.get_config().to_json()), _read_json(self._config))
        )
        config = ConfigDict(traverse_util.unflatten_dict(known | written))
        default.check_types(config, f'{self._config}: ')
        return config

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, in order.

        Raises:
          InputError: there are none yet.
        """
        if not self.metrics.exists():
            raise InputError(f'{self} has no metrics yet: train there with codinet_jax.main first.')
        try:
            return [dict(json.loads(line)) for line in self.metrics.read_text().splitlines()]
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f'{self.metrics} cannot be read ({error}): restore it, or train again.') from error

    def write_results(self, results: Mapping[str, Any], name: str = 'results') -> None:
        _write(self.path / f'{name}.json', lambda file: file.write(_json_bytes(results)))

    def read_results(self, name: str = 'results') -> dict[str, Any] | None:
        """What `write_results` wrote: what came of the run, None while it is unfinished; or another such file."""
        path = self.path / f'{name}.json'
        return _read_json(path) if path.exists() else None

    def write_routes(self, name: str, record: Record, augmented: AugmentedRecord) -> None:
        """Keeps what was recorded under a name: a split's, or a split's and a budget's."""
        _write_arrays(self.path / 'routes' / f'{name}.npz', record._asdict() | augmented._asdict())

    def read_routes(self, name: str) -> tuple[Record, AugmentedRecord]:
        """What `write_routes` kept.

        Raises:
          InputError: nothing is kept under that name, or an older version wrote it, or it cannot be read.
        """
        path = self.path / 'routes' / f'{name}.npz'
        arrays = _read_arrays(path, (*Record._fields, *AugmentedRecord._fields))
        if not is_consistent(arrays):
            raise InputError(f'{path} contradicts itself: evaluate again with codinet_jax.evaluate.')
        augmented = AugmentedRecord(*(arrays[field] for field in AugmentedRecord._fields))
        return Record(*(arrays[field] for field in Record._fields)), augmented

    def write_thumbnails(self, split: str, thumbnails_SxhxwxC: np.ndarray) -> None:
        _write_arrays(self.path / 'thumbnails' / f'{split}.npz', {'thumbnails_SxhxwxC': thumbnails_SxhxwxC})

    def read_thumbnails(self, split: str) -> np.ndarray:
        """What the first S images of the split look like: uint8 [S, h, w, C].

        Raises:
          InputError: an older version evaluated, or the file cannot be read.
        """
        field = 'thumbnails_SxhxwxC'
        return _read_arrays(self.path / 'thumbnails' / f'{split}.npz', (field,))[field]

    def write_weights(self, variables: Mapping[str, Any], trained_on: WeightsInput | None = None) -> None:
        """Keeps the final variables, and the input they were trained on if it is not the data set's own."""
        write_weights_file(self.path / 'weights.npz', variables, trained_on)

    def read_weights(self) -> dict[str, Any]:
        """The final variables, as the network's `apply` takes them.

        Raises:
          InputError: the run has not finished, or the file cannot be read.
        """
        path = self.path / 'weights.npz'
        if not path.exists():
            raise InputError(f'{self} has no weights yet: its run is unfinished, go on with codinet_jax.main.')
        return read_weights_file(path)

    def read_budget(self, name: str | None) -> float:
        """The threshold that `codinet_jax.calibrate` found for a budget; without a name that of Eq. 5, 0.5.

        Raises:
          InputError: there is no budget of that name.
        """
        if name is None:
            return 0.5
        budgets = self.read_budgets()
        if name not in budgets:
            known = f'it has {", ".join(budgets)}' if budgets else 'it has none'
            raise InputError(f'{self} has no budget {name!r} ({known}): make one with codinet_jax.calibrate.')
        return float(budgets[name]['threshold'])

    def write_budget(self, name: str, budget: Mapping[str, Any]) -> None:
        """Adds a budget to those there are, or replaces the one of that name."""
        self.write_results(self.read_budgets() | {name: dict(budget)}, 'budgets')

    def read_budgets(self) -> dict[str, Any]:
        """What `codinet_jax.calibrate` found, by name; empty if it was never asked."""
        return self.read_results('budgets') or {}


class OutputDirectory:
    """Where files go that are made of a run or of several; made, if it is not there, before work is spent on them.

    Raises:
      InputError: it cannot be made, or a file cannot be written.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f'{path} cannot be made ({error.strerror}): name another.') from error

    def write(self, files: Mapping[str, bytes]) -> None:
        """Writes files by name, each whole or not at all."""
        for name, content in files.items():
            _write(self.path / name, lambda file, content=content: file.write(content))  # type: ignore[misc]


def write_weights_file(
    path: pathlib.Path, variables: Mapping[str, Any], trained_on: WeightsInput | None = None
) -> None:
    """Writes variables by path, so that `read_weights_file` and `numpy.load` can read them, and what they expect."""
    flat: dict[str, Any] = {
        key: np.asarray(value) for key, value in traverse_util.flatten_dict(variables, sep='/').items()
    }
    if trained_on is not None:
        flat |= {f'{_INPUT}{name}': np.asarray(value) for name, value in trained_on._asdict().items()}
    _write(path, lambda file: np.savez(file, **flat))


def read_weights_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Variables as the network's `apply` takes them, from a run's weights.npz or what `import_weights` wrote.

    Raises:
      InputError: the file cannot be read, or is none of these.
    """
    with _opened_weights(path) as arrays:
        return traverse_util.unflatten_dict(
            {key: arrays[key] for key in arrays.files if not key.startswith(_INPUT)}, sep='/'
        )


def read_weights_input(path: str | os.PathLike[str]) -> WeightsInput | None:
    """What the weights of such a file were trained on, if the file says so.

    Raises:
      InputError: the file cannot be read, or is none of these.
    """
    with _opened_weights(path) as arrays:
        if f'{_INPUT}mean' not in arrays.files:
            return None
        mean, std = (tuple(map(float, arrays[f'{_INPUT}{name}'])) for name in ('mean', 'std'))
        return WeightsInput(mean, std, *(str(arrays[f'{_INPUT}{name}']) for name in ('source', 'sha256')))


@contextlib.contextmanager
def _opened_weights(path: str | os.PathLike[str]) -> Iterator[Any]:
    try:
        with open(path, 'rb') as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except Exception as error:  # readers of zip files and arrays raise whatever they stumble over
        raise InputError(
            f'{path} cannot be read as weights ({error}): restore it, or train or import it again.'
        ) from error


def _write_arrays(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    _write(path, lambda file: np.savez_compressed(file, **arrays))


def _read_arrays(path: pathlib.Path, fields: Sequence[str]) -> dict[str, np.ndarray]:
    try:
        with open(path, 'rb') as file, np.load(file, allow_pickle=False) as arrays:
            found = {field: arrays[field] for field in fields}
        if wrong := [field for field, array in found.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f'{wrong[0]} is no array')
        return found
    except Exception as error:  # readers of zip files and arrays raise whatever they stumble over
        raise InputError(
            f'{path} holds no record that can be read ({error}): make it with codinet_jax.evaluate.'
        ) from error


def _refuse_other(old: ConfigDict, new: ConfigDict, path: pathlib.Path) -> None:
    old_flat, new_flat = (traverse_util.flatten_dict(json.loads(config.to_json()), sep='.') for config in (old, new))
    differing = [
        f'{key} ({old_flat.get(key)} there, {new_flat.get(key)} here)'
        for key in sorted(old_flat.keys() | new_flat.keys())
        if key not in NOT_COMPARED and old_flat.get(key) != new_flat.get(key)
    ]
    if differing:
        raise InputError(
            f'{path} holds a run with another config: {", ".join(differing)}; give another --workdir, or that config.'
        )


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f'{path} cannot be read ({error}): restore it, or use another workdir.') from error
    if not isinstance(value, dict):
        raise InputError(f'{path} holds no fields with values: restore it, or use another workdir.')
    return value


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + '\n').encode()


def _write(path: pathlib.Path, write: Callable[[BinaryIO], Any]) -> None:
    """Through a temporary file and a rename, so that a reader sees the old file or the new one.

    Raises:
      InputError: it cannot be written; what was there is there.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise InputError(
            f'{path} cannot be written ({error.strerror}): make room, or see to it that it may be, and try again.'
        ) from error
