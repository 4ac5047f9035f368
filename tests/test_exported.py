"""An exported network answers as its workdir does, without the code that made it; what is damaged is refused."""

import ast
import dataclasses
import errno
import functools
import gc
import importlib.metadata
import inspect
import json
import operator
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from jax import export as jax_export
from ml_collections import ConfigDict

import codinet_jax
import helpers
from codinet_jax import workdir
from codinet_jax.config import default, setup
from codinet_jax.config.setup import Setup
from codinet_jax.data import datasets
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.evaluation import evaluate
from codinet_jax.evaluation.record import Record
from codinet_jax.inference import exported, load
from codinet_jax.inference.folding import fold
from codinet_jax.inference.predictor import Prediction, Predictor
from codinet_jax.models import weights_file
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from reference_network import Tree

FILES = ['manifest.json', 'program.bin', 'weights.npz']
BATCH_SIZES = [1, 3, 64]
POINT = 'less'  # at which the linear network is exported, by the command; the others are in this process, at 0.5


class Network(NamedTuple):
    """With a seed under which images part ways, the same two ways on any machine: no gate is near a threshold."""

    seed: int
    threshold: float
    other_threshold: float


NETWORKS = {
    'linear': Network(404, 0.35, 0.5),
    'conv': Network(415, 0.5, 0.65),
    'recurrent': Network(236, 0.5, 0.65),
    'static': Network(377, 0.5, 0.65),
}


class Exported(NamedTuple):
    """A network in both of its forms, and the images of its test set."""

    setup: Setup
    workdir: Path
    directory: Path
    images: ImageSet

    @property
    def manifest(self) -> dict[str, Any]:
        manifest: dict[str, Any] = json.loads((self.directory / 'manifest.json').read_text())
        return manifest


@functools.cache
def setup_of(router: str) -> Setup:
    return setup.read(config_of(router))


def config_of(router: str) -> ConfigDict:
    if router == 'static':
        return default.with_variant(helpers.tiny_config(), router)
    return helpers.tiny_config(**{'model.router': router})


@functools.cache
def variables_of(router: str) -> Tree:
    return helpers.random_variables(setup_of(router).model, NETWORKS[router].seed)


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('exported')


@pytest.fixture(scope='module')
def networks(root: Path) -> dict[str, Exported]:
    images = datasets.source('digits', root / 'tfds').open('test')
    return {
        router: Exported(setup_of(router), a_workdir(root / router, router), root / f'{router}.exported', images)
        for router in NETWORKS
    }


@pytest.fixture(scope='module')
def command(networks: dict[str, Exported]) -> subprocess.CompletedProcess[str]:
    _, path, directory, _ = networks['linear']
    return helpers.run_command('export', f'--workdir={path}', f'--output={directory}', f'--operating_point={POINT}')


@pytest.fixture(scope='module', autouse=True)
def written(networks: dict[str, Exported], command: subprocess.CompletedProcess[str]) -> None:
    del command
    for router in ('conv', 'recurrent', 'static'):
        predictor_of(router).export(networks[router].directory)


def predictor_of(router: str) -> Predictor:
    named = setup_of(router)
    about = {'dataset': 'digits', **named.record['model']}
    return load.from_network(named.model, named.data.spec, variables_of(router), about=about)


def a_workdir(path: Path, router: str) -> Path:
    """The workdir of a finished run."""
    run = helpers.write_workdir(path, config_of(router), NETWORKS[router].seed)
    run.write_operating_point(POINT, {'threshold': NETWORKS[router].threshold})
    return path


# --- Answers. ---

# What a machine does that has what was exported, JAX, and of this package no more than reading one takes.
ELSEWHERE = """
import dataclasses, json, sys

PARTS = ('routing', 'kernels', 'models', 'methods', 'data', 'config', 'workdir', 'evaluation', 'training',
         'inference.program', 'inference.folding', 'inference.fused', 'inference.load')
BARRED = (*(f'codinet_jax.{part}' for part in PARTS),
          'flax', 'orbax', 'optax', 'ml_collections', 'tensorflow', 'tensorflow_datasets')

class Barrier:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(tuple(barred + '.' for barred in BARRED)) or name in BARRED:
            raise ImportError(f'{name} is not to be had')

sys.meta_path.insert(0, Barrier())
for name in BARRED:
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f'{name} is to be had')

import numpy as np
import codinet_jax

images, output, directories, batch_sizes, other_thresholds = json.loads(sys.argv[1])
images, answers, found = np.load(images, allow_pickle=False), {}, {}
for name, directory in directories.items():
    predictor = codinet_jax.load_exported(directory)
    found[name] = {'spec': dataclasses.asdict(predictor.spec), 'threshold': predictor.threshold}
    predictions = {f'{size}': predictor.in_batches(images, size) for size in batch_sizes}
    predictions['other'] = predictor.in_batches(images, batch_sizes[-1], other_thresholds[name])
    for case, prediction in predictions.items():
        answers |= {f'{name} {case} {field}': array for field, array in prediction._asdict().items()}
np.savez(output, **answers)
json.dump(found, sys.stdout)
"""


class Elsewhere(NamedTuple):
    """What another process had from what was exported."""

    found: dict[str, dict[str, Any]]
    answers: dict[str, np.ndarray]

    def prediction(self, router: str, case: int | str) -> Prediction:
        return Prediction(*(self.answers[f'{router} {case} {field}'] for field in Prediction._fields))


@pytest.fixture(scope='module')
def elsewhere(root: Path, networks: dict[str, Exported]) -> Elsewhere:
    np.save(root / 'images.npy', networks['linear'].images.images_NxHxWxC)
    directories = {router: str(each.directory) for router, each in networks.items()}
    others = {router: network.other_threshold for router, network in NETWORKS.items()}
    work = json.dumps([str(root / 'images.npy'), str(root / 'answers.npz'), directories, BATCH_SIZES, others])
    said = subprocess.run(
        [sys.executable, '-W', 'error', '-c', ELSEWHERE, work],
        cwd=helpers.REPOSITORY,
        # JAX looks for TensorFlow, which is barred, to open its cache.
        env=helpers.environment(JAX_NUM_CPU_DEVICES='1', JAX_ENABLE_COMPILATION_CACHE='false'),
        text=True,
        capture_output=True,
        timeout=300,
    )
    assert (said.returncode, said.stderr) == (0, '')
    with np.load(root / 'answers.npz', allow_pickle=False) as file:
        return Elsewhere(json.loads(said.stdout), dict(file))


@pytest.fixture(scope='module')
def evaluated(networks: dict[str, Exported]) -> Callable[[str, float], Record]:
    """What evaluation says, with batch norm not folded, and every block computed."""

    @functools.cache
    def record(router: str, threshold: float) -> Record:
        named, _, _, images = networks[router]
        mesh = sharding.data_mesh()
        forward = evaluate.make_forward(named.model, named.data.spec, mesh, threshold)
        return evaluate.evaluate(forward, variables_of(router), images, 355, mesh)

    return record


@pytest.fixture(scope='module')
def at_home(networks: dict[str, Exported]) -> Callable[[str], Prediction]:
    """What the workdir's own predictor says."""

    @functools.cache
    def predicted(router: str) -> Prediction:
        point = None if router == 'static' else POINT
        predictor = load.from_workdir(networks[router].workdir, operating_point=point)
        return predictor.in_batches(networks[router].images.images_NxHxWxC, 64)

    return predicted


@pytest.mark.parametrize('batch_size', BATCH_SIZES)
@pytest.mark.parametrize('router', NETWORKS)
def test_it_answers_elsewhere_as_the_workdir_does_here(
    elsewhere: Elsewhere,
    evaluated: Callable[[str, float], Record],
    at_home: Callable[[str], Prediction],
    router: str,
    batch_size: int,
) -> None:
    actual, expected = elsewhere.prediction(router, batch_size), at_home(router)
    assert len(actual.labels_B) == 355
    np.testing.assert_array_equal(actual.labels_B, expected.labels_B)
    np.testing.assert_array_equal(actual.decisions_Bxn, expected.decisions_Bxn)
    np.testing.assert_array_equal(actual.macs_B, expected.macs_B)
    np.testing.assert_allclose(actual.run_probability_Bxn, expected.run_probability_Bxn, rtol=0, atol=1e-5)
    np.testing.assert_allclose(actual.probabilities_BxY, expected.probabilities_BxY, rtol=0, atol=1e-4)
    assert_as_evaluated(actual, evaluated(router, NETWORKS[router].threshold))


@pytest.mark.parametrize('batch_size', BATCH_SIZES)
def test_it_answers_so_on_many_devices(
    networks: dict[str, Exported], evaluated: Callable[[str, float], Record], batch_size: int
) -> None:
    predictor = codinet_jax.load_exported(networks['linear'].directory)
    actual = predictor.in_batches(networks['linear'].images.images_NxHxWxC, batch_size)
    assert_as_evaluated(actual, evaluated('linear', NETWORKS['linear'].threshold))


@pytest.mark.parametrize('router', NETWORKS)
def test_its_threshold_can_be_another_after_loading(
    elsewhere: Elsewhere, evaluated: Callable[[str, float], Record], router: str
) -> None:
    by_default, at_other = elsewhere.prediction(router, 64), elsewhere.prediction(router, 'other')
    assert_as_evaluated(at_other, evaluated(router, NETWORKS[router].other_threshold))
    if router == 'static':
        assert by_default.decisions_Bxn.all() and at_other.decisions_Bxn.all()
        return
    changed_B = (by_default.decisions_Bxn != at_other.decisions_Bxn).any(axis=1)
    assert changed_B.sum() > 50
    gates_moved = (by_default.run_probability_Bxn != at_other.run_probability_Bxn).any()
    assert gates_moved, 'blocks that run otherwise change what later routers see'


@pytest.mark.parametrize('router', ['linear', 'conv', 'recurrent'])
def test_these_networks_can_tell(evaluated: Callable[[str, float], Record], router: str) -> None:
    """Images part ways in routes and classes, and none hangs on rounding; else the agreement would say little."""
    _, threshold, other = NETWORKS[router]
    record = evaluated(router, threshold)
    assert len(np.unique(record.decisions_Nxn, axis=0)) >= 4
    assert len(np.unique(record.predictions_N)) >= 3
    for each in (threshold, other):
        assert np.abs(evaluated(router, each).run_probability_Nxn - each).min() > 1e-4


def assert_as_evaluated(actual: Prediction, expected: Record) -> None:
    np.testing.assert_array_equal(actual.labels_B, expected.predictions_N)
    np.testing.assert_array_equal(actual.decisions_Bxn, expected.decisions_Nxn)
    np.testing.assert_allclose(actual.run_probability_Bxn, expected.run_probability_Nxn, rtol=0, atol=1e-5)


def test_macs_are_those_of_the_blocks_that_ran(elsewhere: Elsewhere, networks: dict[str, Exported]) -> None:
    costs, prediction = networks['linear'].setup.costs, elsewhere.prediction('linear', 64)
    macs = [costs.fixed_macs + sum(np.array(costs.blocks_n)[u_n]) for u_n in prediction.decisions_Bxn]
    np.testing.assert_array_equal(prediction.macs_B, macs)
    assert len(set(macs)) > 2


def test_the_readmes_lines_run_it_with_jax_and_numpy_alone(
    root: Path, networks: dict[str, Exported], elsewhere: Elsewhere
) -> None:
    block = (
        (helpers.REPOSITORY / 'codinet_jax' / 'README.md')
        .read_text()
        .split('<!-- bare -->\n```python\n')[1]
        .split('```')[0]
    )
    assert block.count('\n') <= 8
    images, answers = root / 'few.npy', root / 'bare.npz'
    np.save(images, networks['conv'].images.images_NxHxWxC[:5])
    program = ALONE + f'images = np.load({str(images)!r})\n'
    program += block.replace("'runs/digits.exported'", repr(str(networks['conv'].directory)))
    program += f'np.savez({str(answers)!r}, logits_BxY=logits_BxY, v_Bxn=v_Bxn)\n'
    said = subprocess.run(
        [sys.executable, '-W', 'error', '-c', program],
        cwd=root,
        env=helpers.environment(JAX_ENABLE_COMPILATION_CACHE='false'),
        text=True,
        capture_output=True,
    )
    assert (said.returncode, said.stderr) == (0, '')
    expected = elsewhere.prediction('conv', 64)
    with np.load(answers) as bare:
        exp_BxY = np.exp(bare['logits_BxY'])
        np.testing.assert_allclose(
            exp_BxY / exp_BxY.sum(axis=1, keepdims=True), expected.probabilities_BxY[:5], atol=1e-4
        )
        np.testing.assert_allclose(bare['v_Bxn'], expected.run_probability_Bxn[:5], atol=1e-5)


# What JAX and NumPy import is theirs and Python's; nothing of this package's is to be had.
ALONE = """
import sys

class Barrier:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('codinet_jax', 'flax', 'optax', 'orbax', 'absl', 'PIL', 'tensorflow'):
            raise ImportError(f'{name} is not to be had')

sys.meta_path.insert(0, Barrier())
import numpy as np
"""


# --- Files. ---


def test_the_command_reports_what_it_wrote(
    command: subprocess.CompletedProcess[str], networks: dict[str, Exported], elsewhere: Elsewhere
) -> None:
    directory = networks['linear'].directory
    megabytes = sum((directory / name).stat().st_size for name in FILES) / 1e6
    said = f'{directory}: {megabytes:.1f} MB, gates held to 0.35, for cpu, cuda, tpu\n'
    assert (command.returncode, command.stdout, command.stderr) == (0, said, '')
    assert networks['linear'].manifest['threshold'] == elsewhere.found['linear']['threshold'] == 0.35


@pytest.mark.parametrize('router', NETWORKS)
def test_the_manifest_tells_what_the_network_is(networks: dict[str, Exported], router: str) -> None:
    directory, costs = networks[router].directory, networks[router].setup.costs
    manifest = networks[router].manifest
    assert sorted(path.name for path in directory.iterdir()) == FILES
    assert manifest['card'] == {
        'classes': list('0123456789'),
        'image_size': 8,
        'num_channels': 1,
        'center_crop': 1.0,
        'blocks_per_stage': [1, 1, 1],
        'blocks_macs': list(costs.blocks_n),
        'fixed_macs': costs.fixed_macs,
        'static_macs': costs.static_macs,
    }
    assert manifest['threshold'] == NETWORKS[router].threshold
    assert manifest['preprocessing'] == {
        'input': 'uint8 [batch, 8, 8, 1]; the program normalises',
        'normalisation': '(pixels / 255 - mean) / std',
        'mean': [0.3052],
        'std': [0.3760],
    }
    assert manifest['platforms'] == ['cpu', 'cuda', 'tpu']
    packages = ('jax', 'jaxlib', 'flax')
    assert manifest['versions'] == {package: importlib.metadata.version(package) for package in packages}
    assert manifest['network'] == {'dataset': 'digits', **config_of(router).model.to_dict()}
    assert (manifest['format'], re.fullmatch('[0-9a-f]{64}', manifest['sha256']) is None) == (1, False)


def test_who_loads_it_knows_the_network_as_the_workdir_does(
    elsewhere: Elsewhere, networks: dict[str, Exported]
) -> None:
    for router, (_, path, directory, _) in networks.items():
        spec = load.from_workdir(path).spec
        # Through JSON, which has no tuples.
        assert elsewhere.found[router]['spec'] == json.loads(json.dumps(dataclasses.asdict(spec)))
        assert codinet_jax.load_exported(directory).spec == spec


@pytest.mark.parametrize('router', NETWORKS)
def test_the_program_is_for_every_platform_and_batch(networks: dict[str, Exported], router: str) -> None:
    directory, manifest = networks[router].directory, networks[router].manifest
    read = jax_export.deserialize(bytearray((directory / 'program.bin').read_bytes()))
    assert (read.platforms, read.calling_convention_version) == (('cpu', 'cuda', 'tpu'), manifest['calling_convention'])
    images, threshold = read.in_avals[-2:]
    assert (str(images.shape), images.dtype) == ('(batch, 8, 8, 1)', np.uint8)
    assert (threshold.shape, threshold.dtype) == ((), np.float32)
    assert [str(out.shape) for out in read.out_avals] == ['(batch, 10)', '(batch, 3)']


@pytest.mark.parametrize('router', NETWORKS)
def test_the_weights_are_the_folded_ones_and_no_objects(networks: dict[str, Exported], router: str) -> None:
    with np.load(networks[router].directory / 'weights.npz', allow_pickle=False) as file:
        weights = dict(file)
    expected = helpers.by_path(fold(variables_of(router)))
    assert weights.keys() == expected.keys()
    for path, array in expected.items():
        assert weights[path].dtype == array.dtype == np.float32
        np.testing.assert_array_equal(weights[path], array, path)


@pytest.mark.parametrize('module', [exported, workdir, weights_file], ids=lambda module: module.__name__)
def test_nothing_is_pickled(module: ModuleType) -> None:
    tree = ast.parse(inspect.getsource(module))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or '' for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {'pickle', 'cloudpickle', 'dill', 'joblib', 'marshal', 'shelve'} & imported
    loads = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == 'np.load']
    assert loads
    assert all([ast.unparse(keyword) for keyword in load.keywords] == ['allow_pickle=False'] for load in loads)


# --- What is refused. ---

Edit = Callable[[Path], Any]


def drop(name: str) -> Edit:
    return lambda directory: (directory / name).unlink()


def truncate(name: str, kept: float) -> Edit:
    def edit(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: int(kept * len(content))])

    return edit


def replace(name: str, content: bytes) -> Edit:
    return lambda directory: (directory / name).write_bytes(content)


def edit_manifest(change: Callable[[dict[str, Any]], Any]) -> Edit:
    """Changes the manifest and leaves the hash as it was."""

    def edit(directory: Path) -> None:
        manifest = json.loads((directory / 'manifest.json').read_text())
        change(manifest)
        (directory / 'manifest.json').write_text(json.dumps(manifest, indent=2) + '\n')

    return edit


def move_a_byte(directory: Path) -> None:
    """From the program's end to the weights' start: the bytes of both, one after the other, stay the same."""
    content = (directory / 'program.bin').read_bytes()
    weights = (directory / 'weights.npz').read_bytes()
    (directory / 'program.bin').write_bytes(content[:-1])
    (directory / 'weights.npz').write_bytes(content[-1:] + weights)


ALTERED = 'is not what was exported, its content hash differs: copy or export it again'
NEWER = re.escape(
    f'was exported by a newer version (jax {importlib.metadata.version("jax")}, '
    f'jaxlib {importlib.metadata.version("jaxlib")}, flax {importlib.metadata.version("flax")}): upgrade'
)
UNREADABLE = r'manifest\.json cannot be read \(.*\): copy or export it again'
MANIFEST_KEYS = ('format', 'calling_convention', 'versions', 'card', 'threshold', 'sha256')

DAMAGE: dict[str, tuple[Edit, str]] = {
    'no directory': (shutil.rmtree, r'no manifest\.json\): make one with codinet_jax\.export'),
    **{f'no {name}': (drop(name), rf'holds no exported network \(no {re.escape(name)}\): make one') for name in FILES},
    'half a program': (truncate('program.bin', 0.5), ALTERED),
    'half the weights': (truncate('weights.npz', 0.5), ALTERED),
    'no byte of the weights': (truncate('weights.npz', 0), ALTERED),
    'half a manifest': (truncate('manifest.json', 0.5), UNREADABLE),
    'a byte in the other file': (move_a_byte, ALTERED),
    'another threshold': (edit_manifest(lambda manifest: manifest.update(threshold=0.7)), ALTERED),
    'other classes': (edit_manifest(lambda manifest: manifest['card']['classes'].reverse()), ALTERED),
    'another cost': (edit_manifest(lambda manifest: manifest['card'].update(static_macs=1)), ALTERED),
    'another standard deviation': (edit_manifest(lambda manifest: manifest['preprocessing'].update(std=[1])), ALTERED),
    'another hash': (edit_manifest(lambda manifest: manifest.update(sha256='0' * 64)), ALTERED),
    'a newer format': (edit_manifest(lambda manifest: manifest.update(format=exported.FORMAT + 1)), NEWER),
    'a newer calling convention': (
        edit_manifest(
            lambda manifest: manifest.update(
                calling_convention=jax_export.maximum_supported_calling_convention_version + 1
            )
        ),
        NEWER,
    ),
    'a manifest that is no JSON': (replace('manifest.json', b'threshold = 0.5'), UNREADABLE),
    'a manifest that is no text': (replace('manifest.json', b'\xff\xfe'), UNREADABLE),
    'an empty manifest': (replace('manifest.json', b''), UNREADABLE),
    'a manifest that is a list': (replace('manifest.json', b'[1, 2]'), UNREADABLE),
    'a manifest that is a number': (replace('manifest.json', b'1'), UNREADABLE),
    'a manifest that is null': (replace('manifest.json', b'null'), UNREADABLE),
    'a format that is no number': (edit_manifest(lambda manifest: manifest.update(format='one')), ''),
    **{
        f'a manifest without {key}': (edit_manifest(operator.methodcaller('pop', key)), rf"\('{key}'\)")
        for key in MANIFEST_KEYS
    },
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_what_is_damaged_is_refused_in_a_sentence(networks: dict[str, Exported], tmp_path: Path, damage: str) -> None:
    edit, says = DAMAGE[damage]
    copy = shutil.copytree(networks['linear'].directory, tmp_path / 'copy')
    codinet_jax.load_exported(copy)
    edit(copy)
    assert_refused(copy, says)


def test_no_byte_of_the_manifest_can_change(networks: dict[str, Exported], tmp_path: Path) -> None:
    copy = shutil.copytree(networks['static'].directory, tmp_path / 'copy')
    content = (copy / 'manifest.json').read_bytes()
    for i, byte in enumerate(content):
        (copy / 'manifest.json').write_bytes(content[:i] + bytes([byte ^ 1]) + content[i + 1 :])
        assert_refused(copy, '')


@pytest.mark.parametrize('name', ['program.bin', 'weights.npz'])
def test_no_byte_of_the_others_can_change(networks: dict[str, Exported], tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(networks['static'].directory, tmp_path / 'copy')
    content = (copy / name).read_bytes()
    for i in (*range(0, len(content), len(content) // 20), len(content) - 1):
        (copy / name).write_bytes(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :])
        assert_refused(copy, ALTERED)


def hashed_again(edit: Edit) -> Edit:
    """An edit by someone who knows how the hash is made."""

    def edit_and_hash(directory: Path) -> None:
        edit(directory)
        manifest = json.loads((directory / 'manifest.json').read_text())
        manifest['sha256'] = exported._sha256(directory, manifest)
        (directory / 'manifest.json').write_text(json.dumps(manifest))

    return edit_and_hash


@pytest.mark.parametrize(
    'edit',
    [
        replace('program.bin', b'garbage'),
        replace('program.bin', b''),
        replace('program.bin', bytes(1000)),
        replace('program.bin', np.random.default_rng(0).bytes(20_000)),
        truncate('program.bin', 0.5),
        replace('weights.npz', b'garbage'),
        replace('weights.npz', b''),
        truncate('weights.npz', 0.5),
    ],
    ids=[
        'a program of seven bytes',
        'a program of none',
        'a program of zeros',
        'a program of noise',
        'half a program',
        'weights of seven bytes',
        'weights of none',
        'half the weights',
    ],
)
def test_garbage_under_a_right_hash_is_refused_in_a_sentence(
    networks: dict[str, Exported], tmp_path: Path, edit: Edit
) -> None:
    copy = shutil.copytree(networks['static'].directory, tmp_path / 'copy')
    hashed_again(lambda directory: None)(copy)
    codinet_jax.load_exported(copy)
    hashed_again(edit)(copy)
    assert_refused(copy, r'was exported with jax .* and cannot be read by jax .*: export it again')
    gc.collect()  # a file that was left open is a warning here, and not in another test


CARDS: dict[str, dict[str, Any]] = {
    'labels of no class': {'classes': ['a', 'b', 'c']},
    'classes without names': {'classes': list(range(10))},
    'one name for all': {'classes': 'abcdefghij'},
    'a name that is no text': {'classes': ['\ud800', *'bcdefghij']},
    'other images': {'image_size': 9},
    'other channels': {'num_channels': 3},
    'no part of an image': {'center_crop': 0},
    'blocks it has not': {'blocks_macs': [1, 2]},
    'stages it has not': {'blocks_per_stage': [1]},
    'costs below nothing': {'blocks_macs': [-1, 2, 3]},
    'a network for nothing': {'static_macs': 0},
}


@pytest.mark.parametrize('case', CARDS)
def test_a_manifest_of_another_network_than_the_programs_is_refused(
    networks: dict[str, Exported], tmp_path: Path, case: str
) -> None:
    """Under a right hash too: it would be met in the middle of answering, or never."""
    copy = shutil.copytree(networks['static'].directory, tmp_path / 'copy')
    hashed_again(edit_manifest(lambda manifest: manifest['card'].update(CARDS[case])))(copy)
    assert_refused(copy, r'manifest\.json cannot be read \(.*\): copy or export it again')


def test_a_threshold_that_is_no_number_is_refused(networks: dict[str, Exported], tmp_path: Path) -> None:
    copy = shutil.copytree(networks['static'].directory, tmp_path / 'copy')
    hashed_again(edit_manifest(lambda manifest: manifest.update(threshold=float('nan'))))(copy)
    assert_refused(copy, 'threshold is nan')


def test_a_reader_that_stumbles_without_a_word_is_a_sentence_too(
    networks: dict[str, Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As JAX's asserts do, on some programs of which one bit was changed."""

    def stumble(serialized: bytearray) -> None:
        raise AssertionError

    monkeypatch.setattr(jax_export, 'deserialize', stumble)
    assert_refused(networks['static'].directory, 'cannot be read by jax')


def test_objects_among_the_weights_are_refused_and_not_made(networks: dict[str, Exported], tmp_path: Path) -> None:
    made = tmp_path / 'made'

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return made.mkdir, ()

    copy = shutil.copytree(networks['static'].directory, tmp_path / 'copy')

    def edit(directory: Path) -> None:
        with np.load(directory / 'weights.npz') as file:
            weights: dict[str, Any] = dict(file)
        np.savez(directory / 'weights.npz', **weights | {'params/head/bias': np.array([Payload()], object)})

    hashed_again(edit)(copy)
    assert_refused(copy, 'cannot be read')
    assert not made.exists()


def assert_refused(directory: Path, says: str) -> None:
    with pytest.raises(InputError) as refusal:
        codinet_jax.load_exported(directory)
    sentence = str(refusal.value)
    assert re.search(says, sentence), sentence
    assert sentence.startswith(str(directory)) and sentence.endswith('.') and '\n' not in sentence, sentence


# --- Where it is written. ---


def export_static(directory: Path) -> None:
    predictor_of('static').export(directory)


def test_what_is_exported_has_the_threshold_and_the_settings_of_its_predictor(tmp_path: Path) -> None:
    named = setup_of('static')
    predictor = load.from_network(named.model, named.data.spec, variables_of('static'), threshold=0.25)
    predictor.export(tmp_path / 'first')
    predictor.threshold = 0.75
    predictor.export(tmp_path / 'second')
    assert [codinet_jax.load_exported(tmp_path / name).threshold for name in ('first', 'second')] == [0.25, 0.75]
    manifest = json.loads((tmp_path / 'first' / 'manifest.json').read_text())
    assert manifest['network'] == {'name': 'CIFAR ResNet-8', 'router': None, 'dtype': 'float32'}


def test_what_was_loaded_is_not_exported_again(networks: dict[str, Exported], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r'^This predictor was not made from a network: [^.\n]+\.$'):
        codinet_jax.load_exported(networks['static'].directory).export(tmp_path / 'again')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('held', ['thesis.tex', '.hidden', 'manifest.json'])
def test_a_directory_that_holds_something_is_left_as_it_is(tmp_path: Path, held: str) -> None:
    taken = tmp_path / 'taken'
    taken.mkdir()
    (taken / held).write_text('years of work')
    with pytest.raises(InputError, match=rf'^{taken} is there already: give --output a new or an empty directory\.$'):
        export_static(taken)
    assert helpers.all_bytes(tmp_path) == {f'taken/{held}': b'years of work'}
    assert list(tmp_path.iterdir()) == [taken]


def test_a_file_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / 'taken').write_text('years of work')
    with pytest.raises(InputError, match='is there already'):
        export_static(tmp_path / 'taken')
    assert helpers.all_bytes(tmp_path) == {'taken': b'years of work'}


@pytest.mark.parametrize('output', ['new', 'empty', 'not/yet/there'])
def test_a_new_or_an_empty_directory_is_filled_and_nothing_else(tmp_path: Path, output: str) -> None:
    (tmp_path / 'empty').mkdir()
    export_static(tmp_path / output)
    codinet_jax.load_exported(tmp_path / output)
    assert sorted(helpers.all_bytes(tmp_path)) == [f'{output}/{name}' for name in FILES]
    assert not list(tmp_path.rglob('.*'))


def test_the_working_directory_itself_is_filled_if_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    try:
        export_static(Path('.'))
    except InputError:  # as good an answer, if it leaves nothing behind
        assert list((tmp_path / 'here').iterdir()) == []
    else:
        assert sorted(path.name for path in (tmp_path / 'here').iterdir()) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ['here']


def test_below_a_file_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('years of work')
    for output in (tmp_path / 'file' / 'new', tmp_path / 'file' / 'not' / 'yet'):
        with pytest.raises(InputError, match=rf'^No file can be made in {tmp_path}/file \(.+\): name a directory'):
            export_static(output)
    assert helpers.all_bytes(tmp_path) == {'file': b'years of work'}


@pytest.mark.parametrize('there', [False, True], ids=['new', 'empty'])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    if there:
        (tmp_path / 'new').mkdir()
    before = sorted(tmp_path.rglob('*'))

    def full(file: Any, **arrays: np.ndarray) -> None:
        Path(file).write_bytes(b'PK')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(np, 'savez', full)
    with pytest.raises(InputError, match=r'new cannot be written \(No space left on device\)'):
        export_static(tmp_path / 'new')
    assert sorted(tmp_path.rglob('*')) == before


def test_who_interrupts_it_finds_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(file: Any, **arrays: np.ndarray) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, 'savez', interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_static(tmp_path / 'new')
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_cannot_be_exported_leaves_nothing_behind(tmp_path: Path) -> None:
    def unwilling(weights: Any, *inputs: Any) -> None:
        raise RuntimeError('no program')

    with pytest.raises(RuntimeError, match='no program'):
        exported.write(tmp_path / 'new', unwilling, {}, predictor_of('static').spec, 0.5, {}, {})
    assert list(tmp_path.iterdir()) == []
