"""What a run leaves on disk. All who read or write a workdir go through here.

config.json         the resolved config
metrics.jsonl       one line of numbers every `log_every_steps`, one for every evaluation
tensorboard/        the same for TensorBoard, where TensorFlow is installed
checkpoints/        the whole train state, for resuming
weights.npz         the final parameters and batch statistics, by path; input/: a normalisation not the data set's own,
                    and which convolution of bottlenecks strides
results.json        what came of it
routes/test.npz     every test image's label, prediction, gates and decisions, and those of its augmentations
thumbnails/test.npz what the test images look like
shuffled/test.npz   how often they are right on other images' routes, if codinet_jax.evaluate was asked for it
analysis/           numbers, figures and the page that codinet_jax.analyze makes of these
operating_points.json  thresholds on the gates that meet a wanted cost, by name; budgets.json in older ones
cost_curve.json     what thresholds cost and how accurate they are, as codinet_jax.calibrate measured last
"""

import contextlib
import fcntl
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from codinet_jax.config import default, left_open, setup
from codinet_jax.config.setup import Setup
from codinet_jax.models import weights_file
from codinet_jax.models.weights_file import WeightsInput
from codinet_jax.runtime import files, hosts
from codinet_jax.runtime.errors import InputError

# Where the data and the user's modules lie, and how often a run logs, saves and evaluates, says nothing of where it
# leads. How many images are evaluated at a time does: XLA rounds gates by it, and what matches a wanted cost goes by
# these.
NOT_COMPARED = ('data_dir', 'imports', 'log_every_steps', 'checkpoint_every_steps', 'eval_every_epochs')


class Workdir:
    """The files of one run, each written whole or not at all."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = files.expanded(path).absolute()
        self._config = self.path / 'config.json'
        self.metrics = self.path / 'metrics.jsonl'
        self.tensorboard = self.path / 'tensorboard'
        self.checkpoints = self.path / 'checkpoints'
        self.analysis = self.path / 'analysis'

    @classmethod
    def named(cls, path: str | None) -> 'Workdir':
        """The workdir that a command's --workdir names.

        Raises:
          InputError: it names none.
        """
        if path is None:
            raise InputError('Say which run: --workdir=DIRECTORY.')
        return cls(path)

    def __str__(self) -> str:
        return str(self.path)

    def check(self, record: Mapping[str, Any]) -> None:
        """Refuses to become the workdir of a run with this config, as `Setup` records it, new or resumed.

        Raises:
          InputError: it holds something else, or a run with another config.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f'{self} is a file: give --workdir a directory.')
        if self.holds_run:
            _refuse_other(json.loads(self.read_config().to_json()), record, self.path)
        elif self.path.exists() and any(not path.name.startswith('.') for path in self.path.iterdir()):
            raise InputError(f'{self} is not empty and holds no run: give --workdir a new or an empty directory.')

    @contextlib.contextmanager
    def claimed(self, record: Mapping[str, Any]) -> Iterator[None]:
        """Makes this the workdir of a run with this config, as `Setup` records it.

        It is nobody else's as long as this lasts or lives.

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
            self.check(record)
            if not self.holds_run:
                files.write(self._config, lambda file: file.write(files.json_bytes(record)))
            yield
        finally:
            os.close(directory)

    def write_config(self, record: Mapping[str, Any]) -> None:
        """Keeps a config of what no training made."""
        files.write(self._config, lambda file: file.write(files.json_bytes(record)))

    @property
    def holds_run(self) -> bool:
        """Whether a run, finished or not, was begun here."""
        with files.reading(self.path):
            return self._config.exists()

    @property
    def has_checkpoints(self) -> bool:
        """Whether a run could go on from here."""
        return self.checkpoints.is_dir() and any(path.name.isdigit() for path in self.checkpoints.iterdir())

    def read_config(self) -> ConfigDict:
        """The resolved config of the run; what the version that wrote it did not know is as the default says.

        Raises:
          InputError: there is none, or it cannot be read.
        """
        if not self.holds_run:
            raise InputError(f'{self} holds no run (no config.json): train one there with codinet_jax.main first.')
        record = files.read_json(self._config)
        try:
            config = default.of_record(record)
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f'{self._config} cannot be read ({error}): restore it, or use another workdir.') from error
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
            with files.reading(self.metrics):
                text = self.metrics.read_text()
            return [dict(json.loads(line)) for line in text.splitlines()]
        except InputError:
            raise
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f'{self.metrics} cannot be read ({error}): restore it, or train again.') from error

    def write_results(self, results: Mapping[str, Any], name: str = 'results') -> None:
        files.write(self.path / f'{name}.json', lambda file: file.write(files.json_bytes(results)))

    def read_results(self, name: str = 'results') -> dict[str, Any] | None:
        """What `write_results` wrote: what came of the run, None while it is unfinished; or another such file."""
        path = self.path / f'{name}.json'
        return files.read_json(path) if path.exists() else None

    def write_arrays(self, kind: str, name: str, arrays: Mapping[str, Any]) -> None:
        """Keeps arrays in a file of KIND/; `kind` is routes, thumbnails or shuffled."""
        path = self.path / kind / f'{name}.npz'
        files.write(path, lambda file: np.savez_compressed(file, **arrays))

    def holds_arrays(self, kind: str, name: str) -> bool:
        return (self.path / kind / f'{name}.npz').exists()

    def read_arrays(self, kind: str, name: str, fields: Sequence[str]) -> dict[str, np.ndarray]:
        """What `write_arrays` kept.

        Raises:
          InputError: nothing is kept under that name, or an older version wrote it, or it cannot be read.
        """
        path = self.path / kind / f'{name}.npz'
        try:
            with open(path, 'rb') as file, np.load(file, allow_pickle=False) as arrays:
                found = {field: arrays[field] for field in fields}
            if wrong := [field for field, array in found.items() if not isinstance(array, np.ndarray)]:
                raise ValueError(f'{wrong[0]} is no array')
            return found
        except Exception as error:  # readers of zip files and arrays raise whatever they stumble over
            unreadable = f'{path} holds no record that can be read ({error}): make it with codinet_jax.evaluate.'
            raise files.refused(path, error) or InputError(unreadable) from error

    def write_weights(
        self,
        variables: Mapping[str, Any],
        trained_on: WeightsInput | None = None,
        stride_on: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Keeps the final variables, the input they were trained on if it is not the data set's own, of an architecture
        that has bottlenecks its `stride_on`, and the names of the classes."""
        weights_file.write(self.path / 'weights.npz', variables, trained_on, stride_on, classes)

    def read_weights(self) -> dict[str, Any]:
        """The final variables, as the network's `apply` takes them.

        Raises:
          InputError: the run has not finished, or is a cascade, or the file cannot be read.
        """
        path = self.path / 'weights.npz'
        if not path.exists():
            if 'cascade' in (self.read_results() or {}):
                raise InputError(
                    f'{self} holds what codinet_jax.cascade recorded, and no weights: analyze and compare take it; '
                    'what it exported predicts and serves, as --exported; to evaluate at another cost, run it again.'
                )
            raise InputError(f'{self} has no weights yet: its run is unfinished, go on with codinet_jax.main.')
        return weights_file.read(path)

    def write_operating_point(self, name: str, point: Mapping[str, Any]) -> None:
        """Adds an operating point to those there are, or replaces the one of that name."""
        self.write_results(self.read_operating_points() | {name: dict(point)}, 'operating_points')

    def read_operating_points(self) -> dict[str, Any]:
        """What `codinet_jax.calibrate` found, by name; empty if it was never asked."""
        found = self.read_results('operating_points')
        if found is not None:
            return found
        return {name: _of_budget(budget) for name, budget in (self.read_results('budgets') or {}).items()}

    def write_cost_curve(self, points: Sequence[Mapping[str, Any]], split: str, num_images: int) -> None:
        """Keeps what thresholds were measured to cost, on so many images of a split, in place of what was there."""
        self.write_results({'split': split, 'num_images': num_images, 'curve': list(points)}, 'cost_curve')

    def read_cost_curve(self) -> dict[str, Any]:
        """All that was measured on the images that the newest curve was measured on, as `write_cost_curve` keeps it.

        Its curve is empty if there is none. Older versions kept one with every operating point and none by itself.
        """
        points = list(self.read_operating_points().values())
        newest = self.read_results('cost_curve') or next((each for each in points[::-1] if each.get('curve')), None)
        if newest is None:
            return {'curve': []}
        measured_on = {key: newest.get(key) for key in ('split', 'num_images')}
        same = [
            each
            for each in points
            if 'macs_share' in each and all(each.get(key) == value for key, value in measured_on.items())
        ]
        return measured_on | {'curve': [*newest['curve'], *same]}

    def read_evaluations(self, split: str) -> dict[str, dict[str, Any]]:
        """Summaries of a split at operating points and costs, as `name_of_point` calls these."""
        start = f'evaluation_{split}_'
        paths = sorted(self.path.glob(f'{start}*.json'))
        return {path.stem.removeprefix(start): files.read_json(path) for path in paths}


def begin(config: ConfigDict, workdir: Workdir) -> Setup:
    """The setup of a run in a workdir, new or gone on with, the same on every host.

    What the config leaves open is what a run that was begun here recorded, or what is found; see `left_open`.

    Raises:
      InputError: the config cannot be used, on one host or on all.
    """

    def settings() -> dict[str, Any]:
        # A network drive goes on hiding for a while what a host has once looked for in vain: the others look later.
        if jax.process_index() > 0:
            setup.read(config).recipe.check_devices(jax.device_count())
            return {}
        begun = workdir.read_config() if workdir.holds_run else None
        return left_open.found(config, begun)

    known = left_open.filled(config, hosts.sent_by_first(hosts.together(settings)))
    return hosts.together(lambda: setup.read(known))


def name_of_point(operating_point: str | None, cost: float | None) -> str | None:
    """What is recorded at an operating point is called by its name, at a cost by that; None stands for as trained."""
    return operating_point if cost is None else f'cost={cost:g}'


def _of_budget(budget: Mapping[str, Any]) -> dict[str, Any]:
    """An operating point under the names of today."""

    def renamed(point: Mapping[str, Any]) -> dict[str, Any]:
        return {{'cost': 'macs_share'}.get(name, name): value for name, value in point.items()}

    return renamed(budget) | {'curve': [renamed(point) for point in budget.get('curve', [])]}


def _refuse_other(old: Mapping[str, Any], new: Mapping[str, Any], path: pathlib.Path) -> None:
    old_flat, new_flat = (traverse_util.flatten_dict(dict(config), sep='.') for config in (old, new))
    differing = [
        f'{key} ({_short(old_flat.get(key))} there, {_short(new_flat.get(key))} here)'
        for key in sorted(old_flat.keys() | new_flat.keys())
        if key not in NOT_COMPARED and old_flat.get(key) != new_flat.get(key)
    ]
    if differing:
        raise InputError(
            f'{path} holds a run with another config: {", ".join(differing)}; give another --workdir, or that config.'
        )


def _short(value: Any) -> str:
    """A value in a sentence; a thousand classes are too long for one."""
    text = str(value)
    return text if len(text) <= 100 else f'{text[:100]} ...'
