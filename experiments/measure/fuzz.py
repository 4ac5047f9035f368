"""Feeds readers what they should not get, and sees to it that each answers in a sentence or not at all:

    python -m experiments.measure.fuzz --cases=100000 --output=fuzzed

Settings of every type and overrides on the command line, image files, exported networks, a run's files: valid ones of
each kind are made, then altered at random, a case a seed. A case passes if the reader takes what it is given or raises
InputError, within ten seconds, with no file written outside the directory it works in. What does not pass is kept in
OUTPUT/failures with its kind and number, and the exit status is 1. Nothing that is read may run: Python's own hooks
report anything unpickled, of any process, and of any file opened to write.
"""

import contextlib
import io
import json
import pathlib
import random
import shutil
import signal
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from PIL import Image

from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import command, provenance
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir, begin
from experiments.measure import report

CASES = flags.DEFINE_integer('cases', 100_000, 'How many in all.', lower_bound=1)
OUTPUT = flags.DEFINE_string('output', 'fuzzed', 'Where cases are worked on; what lies there is removed.')
SEED = flags.DEFINE_integer('seed', 0, 'Of the first case; each has its own.')
ONLY = flags.DEFINE_string('only', None, 'One kind alone.')
RESULTS = flags.DEFINE_string('results', None, 'A JSON file to keep what came of it.')

SECONDS_A_CASE = 10
IMAGES = (
    *(('RGB', 'PNG'), ('L', 'PNG'), ('RGBA', 'PNG'), ('I;16', 'TIFF')),
    *(('P', 'GIF'), ('RGB', 'JPEG'), ('RGB', 'WEBP'), ('RGB', 'BMP')),
)
HOSTILE: tuple[Any, ...] = (
    *(0, 1, -1, 2**31, -(2**63), 10**30, 0.0, -0.0, 1e-300, 1e300, float('nan'), float('inf'), -float('inf')),
    *(True, False, None, '', 'a', '../../etc/passwd', '\x00', 'ß' * 50, '{}', '__import__("os")'),
    *((), (1, 2), [0.5], {}),
)


class Kind(NamedTuple):
    """What is read, its share of the cases, and a case of it: changes what a reader is given, and lets it read."""

    share: float
    case: Callable[[random.Random], object]


class Hung(BaseException):
    """A case took too long. No reader's `except Exception` may swallow it."""


def main(argv: Sequence[str]) -> int:
    del argv
    command.output_file(RESULTS)  # refused before anything is measured
    root = report.empty_directory(OUTPUT.value)
    (root / 'failures').mkdir()
    kinds = {name: kind for name, kind in _kinds(root).items() if ONLY.value in (None, name)}
    total = sum(kind.share for kind in kinds.values())
    counts, failures, slowest = Counter[str](), [], 0.0
    signal.signal(signal.SIGALRM, _hung)
    with _watched(root) as broken:
        for name, kind in kinds.items():
            number, started = round(CASES.value * kind.share / total), time.monotonic()
            for seed in range(SEED.value, SEED.value + number):
                began = time.monotonic()
                outcome = _outcome(kind, random.Random(f'{name} {seed}'), broken)
                slowest = max(slowest, took := time.monotonic() - began)
                if took > SECONDS_A_CASE:  # in code that no alarm interrupts
                    outcome = f'took {took:.0f} s'
                counts[f'{name}: {"failed" if outcome not in ("taken", "refused") else outcome}'] += 1
                if outcome not in ('taken', 'refused'):
                    failures.append(f'{name}, seed {seed}: {outcome}')
                    print(failures[-1], flush=True)
                    if (root / 'case').exists():
                        shutil.copytree(root / 'case', root / 'failures' / f'{name.replace(" ", "_")}_{seed}')
            print(f'{name}: {number} cases in {time.monotonic() - started:.0f} s', flush=True)
    numbers = {
        'cases': sum(counts.values()),
        'outcomes': dict(sorted(counts.items())),
        'failures': failures,
        'slowest_seconds': round(slowest, 2),
        'seed': SEED.value,
    } | provenance.machine()
    report.show(numbers, RESULTS.value)
    return 1 if failures else 0


def _outcome(kind: Kind, chance: random.Random, broken: list[str]) -> str:
    signal.alarm(SECONDS_A_CASE)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            kind.case(chance)
        outcome = 'taken'
    except InputError as error:
        outcome = 'refused' if str(error).strip() and '\n' not in str(error).strip() else f'no sentence: {error!r}'
    except Hung:
        outcome = 'hung'
    except BaseException as error:
        outcome = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
    finally:
        signal.alarm(0)
    if broken:
        outcome = f'did what it may not: {broken[0]}'
        broken.clear()
    return outcome


def _hung(*_: object) -> None:
    raise Hung


@contextlib.contextmanager
def _watched(root: pathlib.Path) -> Iterator[list[str]]:
    """What was done that no reader may do, as Python's audit hooks report it; hooks cannot be taken away again."""
    broken: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ('pickle.find_class', 'subprocess.Popen', 'os.system', 'os.exec'):
            broken.append(f'{event} {arguments[:1]}')
        elif event == 'open' and isinstance(arguments[1], str) and set(arguments[1]) & set('wax+'):
            path = str(arguments[0])
            is_ours = isinstance(arguments[0], int) or path.startswith((str(root), '/dev/')) or '__pycache__' in path
            broken.extend([] if is_ours else [f'open {path}'])

    sys.addaudithook(hook)
    yield broken


def _kinds(root: pathlib.Path) -> dict[str, Kind]:
    from codinet_jax.analysis.run import read_run
    from codinet_jax.data.image_files import read_image
    from codinet_jax.inference import exported

    case = root / 'case'
    case.mkdir()
    images = [_image(mode, suffix) for mode, suffix in IMAGES]
    run, model = _finished_run(root / 'valid'), _exported(root / 'valid')

    def image(chance: random.Random) -> object:
        path = case / 'image'
        path.write_bytes(_altered(chance.choice(images), chance))
        return read_image(path, chance.choice((1, 8, 32, 224)), chance.choice((1, 3)), chance.choice((1.0, 0.875)))

    def network(chance: random.Random) -> object:
        _copy(model, case)
        path = case / chance.choice(sorted(model))
        if path.suffix == '.json':
            path.write_text(_altered_json(path.read_text(), chance))
        else:
            alter = _altered if path.name == exported.PROGRAM else _altered_zip
            path.write_bytes(alter(path.read_bytes(), chance))
        if path.name != exported.PROGRAM and chance.random() < 0.5:  # as somebody would who knows of the hash
            with contextlib.suppress(Exception):
                manifest = json.loads((case / exported.MANIFEST).read_text())
                rewritten = manifest | {'sha256': exported._sha256(case, manifest)}
                (case / exported.MANIFEST).write_text(json.dumps(rewritten))
        return exported.load(case)

    def workdir(chance: random.Random) -> object:
        _copy(run, case)
        path = case / chance.choice(sorted(run))
        if path.suffix == '.json' and chance.random() < 0.7:
            path.write_text(_altered_json(path.read_text(), chance))
        else:
            path.write_bytes(_altered_zip(path.read_bytes(), chance))
        Workdir(case).read_weights()
        return read_run(Workdir(case))

    return {
        'settings': Kind(0.25, _settings),
        'overrides': Kind(0.15, _overrides),
        'images': Kind(0.3, image),
        'exported networks': Kind(0.1, network),
        'recorded runs': Kind(0.2, workdir),
    }


def _settings(chance: random.Random) -> None:
    """Some fields at hostile values, as a config file might set them."""
    from codinet_jax.config import default, setup

    config = default.get_config()
    fields = _fields()
    for name in chance.sample(fields, chance.randint(1, 4)):
        with contextlib.suppress(TypeError, ValueError):  # ml_collections refuses other types, by name
            config.update_from_flattened_dict({name: chance.choice(HOSTILE)})
    setup.read(config)


def _overrides(chance: random.Random) -> None:
    """A command line of --config.NAME=VALUE, names and values among them that are none."""
    from codinet_jax.config import setup

    values = flags.FlagValues()
    config = config_flag.define_config('What to read.', flag_values=values)
    files = ('configs/cifar10_r110.py', 'configs/cifar10_r110.py:vanilla', 'configs/digits_r14.py:random')
    arguments = [f'--config={chance.choice((*files, "configs/none.py", "configs/cifar10_r20.py:none", "README.md"))}']
    if chance.random() < 0.9:
        arguments = [f'--config={chance.choice(files)}']
    for _ in range(chance.randint(1, 3)):
        name = chance.choice(_fields())
        if chance.random() < 0.15:
            name = _altered(name.encode(), chance).decode('utf-8', 'replace')
        text = chance.choice((*map(str, HOSTILE), '1e', '(1,', '0x10', "'", '--', 'nan', '1,2,3', '[' * 200))
        arguments.append(f'--config.{name}={text}')
    sys.argv = ['main', *arguments]  # where ml_collections looks for what is overridden
    command.parse(sys.argv, values)
    setup.read(config_flag.read(config))


def _fields() -> list[str]:
    from flax import traverse_util

    from codinet_jax.config import default

    return sorted(traverse_util.flatten_dict(json.loads(default.get_config().to_json()), sep='.'))


def _image(mode: str, suffix: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert('I' if mode == 'I;16' else mode).convert(mode).save(file, suffix)
    return file.getvalue()


def _finished_run(directory: pathlib.Path) -> dict[str, bytes]:
    """The files of a run of a tiny network, trained for a step or two, by relative path."""
    from codinet_jax.training import loop

    workdir = Workdir(directory / 'run')
    loop.train(begin(_tiny(), workdir), workdir)
    shutil.rmtree(workdir.checkpoints)
    shutil.rmtree(workdir.tensorboard, ignore_errors=True)
    files = (path for path in workdir.path.rglob('*') if path.is_file())
    return {str(path.relative_to(workdir.path)): path.read_bytes() for path in files}


def _exported(directory: pathlib.Path) -> dict[str, bytes]:
    from codinet_jax.inference import load

    load.from_workdir(directory / 'run').export(directory / 'exported')
    return {path.name: path.read_bytes() for path in (directory / 'exported').iterdir()}


def _tiny() -> Any:
    from configs import digits_r14

    config = digits_r14.get_config()
    config.update_from_flattened_dict(
        {'model.depth': 8, 'batch_size': 16, 'num_views': 2, 'eval_every_epochs': 0.0}
        | {'stage1.epochs': 0.03, 'stage1.decay_epochs': (), 'stage2.epochs': 0.03, 'stage2.decay_epochs': ()}
    )
    return config


def _copy(files: dict[str, bytes], to: pathlib.Path) -> None:
    shutil.rmtree(to)
    for name, content in files.items():
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes(content)


def _altered(content: bytes, chance: random.Random) -> bytes:
    """Bits flipped, pieces cut out, doubled, or replaced; most cases change little, so that readers come far."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.choice((1, 2, 4, 64, 4096)))
        how = chance.randrange(5)
        if how == 0 and start < len(data):
            data[start] ^= 1 << chance.randrange(8)
        elif how == 1:
            del data[start:end]
        elif how == 2:
            data[start:start] = data[start:end]
        elif how == 3:
            data[start:end] = chance.randbytes(end - start)
        else:
            data = data[:start] if chance.random() < 0.5 else data[start:]
    return bytes(data)


def _altered_json(text: str, chance: random.Random) -> str:
    """A value somewhere replaced by a hostile one, or a field gone."""
    value = json.loads(text)
    for _ in range(chance.randint(1, 3)):
        node: Any = value
        parents: list[tuple[Any, Any]] = []
        while isinstance(node, dict | list) and node and (not parents or chance.random() < 0.7):
            key = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
            parents.append((node, key))
            node = node[key]
        if parents:
            parent, key = parents[-1]
            if chance.random() < 0.3:
                del parent[key]
            else:
                parent[key] = chance.choice(HOSTILE)
    return json.dumps(value, default=str)


def _altered_zip(content: bytes, chance: random.Random) -> bytes:
    """An archive of arrays with one member altered, renamed or pickled; or any file's bytes altered."""
    if chance.random() < 0.4 or not zipfile.is_zipfile(io.BytesIO(content)):
        return _altered(content, chance)
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, 'w') as new:
        members = old.namelist()
        victim = chance.choice(members)
        for name in members:
            data = old.read(name)
            if name == victim:
                how = chance.randrange(4)
                data = _altered(data, chance) if how == 0 else _array(chance) if how == 1 else data
                if how == 2:
                    name = chance.choice(('../../outside.npy', '/etc/outside.npy', 'a.npy', members[0]))
                if how == 3:
                    continue
            new.writestr(name, data)
    return file.getvalue()


def _array(chance: random.Random) -> bytes:
    """An array of another type or shape: objects, which NumPy pickles, among them."""
    file = io.BytesIO()
    objects, empty, text = np.array([{}, None], object), np.zeros((0,)), np.array('text')
    array = chance.choice((objects, empty, text, np.full((3, 3), np.nan), np.zeros((2, 2, 2), bool)))
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


if __name__ == '__main__':
    command.run(main)
