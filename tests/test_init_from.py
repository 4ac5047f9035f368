"""A run starts from the weights it is told to start from, under the normalisation that they know, and says before it
writes anything if they do not fit."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import helpers
from codinet_jax.config import setup
from codinet_jax.data import augment
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.evaluation import evaluate
from codinet_jax.evaluation.record import read_routes
from codinet_jax.inference import load
from codinet_jax.models import weights_file
from codinet_jax.models.architecture import Architecture
from codinet_jax.models.execution import masked
from codinet_jax.models.weights_file import WeightsInput
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir

NO_STEPS = {'stage1.epochs': 0.0, 'stage2.epochs': 0.0}


@pytest.fixture(scope='module')
def weights(root: Path) -> dict[str, Any]:
    return helpers.write_workdir(root / 'before', config(root)).read_weights()


def config(root: Path, **changes: Any) -> Any:
    return helpers.tiny_config(data_dir=str(root / 'tfds'), **NO_STEPS, **{'loss.target_cost': None}, **changes)


def started(
    root: Path, name: str, file: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> dict[str, np.ndarray]:
    """What a run of no steps leaves: the weights it began with."""
    helpers.hide_tensorflow(monkeypatch)
    workdir = Workdir(root / name)
    helpers.train(config(root, init_from=str(file), **changes), workdir)
    return helpers.by_path(workdir.read_weights())


def test_a_run_starts_from_another_runs_weights(
    root: Path, weights: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = helpers.by_path(weights)
    changes = {'routing.initial_run_rate': 0.9}
    found = started(root, 'whole', root / 'before' / 'weights.npz', monkeypatch, **changes)
    assert 'its routers are kept, and routing.initial_run_rate is not read\n' in capsys.readouterr().out
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def test_where_the_file_has_no_routers_they_start_fresh(
    root: Path, weights: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {name: {k: v for k, v in of.items() if k != 'router'} for name, of in weights['params'].items()}
    weights_file.write(root / 'backbone.npz', weights | {'params': params})
    found, expected = started(root, 'backbone', root / 'backbone.npz', monkeypatch), helpers.by_path(weights)
    for path, leaf in expected.items():
        is_router = '/router/' in path
        assert np.array_equal(found[path], leaf) is not is_router, path
    kernels = [leaf for path, leaf in found.items() if '/router/' in path and path.endswith('kernel')]
    assert kernels and all(kernel.std() > 0 for kernel in kernels)


def test_where_a_static_network_starts_from_a_routed_one_it_is_said(
    root: Path, weights: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    static = {'method': 'static', 'model.router': 'static'}
    found = started(root, 'opened', root / 'before' / 'weights.npz', monkeypatch, **static)
    assert 'std (0.376,); its routers are left out, and every block runs\n' in capsys.readouterr().out
    assert found.keys() == helpers.by_path(helpers.without_routers(weights)).keys()


def with_head(weights: dict[str, Any], num_classes: int) -> dict[str, Any]:
    features = len(weights['params']['head']['kernel'])
    head = {'kernel': np.zeros((features, num_classes), np.float32), 'bias': np.zeros(num_classes, np.float32)}
    return weights | {'params': weights['params'] | {'head': head}}


def test_a_head_of_other_classes_starts_fresh_and_that_is_said(
    root: Path, weights: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights_file.write(root / 'seven.npz', with_head(weights, 7))
    found, expected = started(root, 'seven', root / 'seven.npz', monkeypatch), helpers.by_path(weights)
    normalisation = 'pixels normalised by mean (0.3052,), std (0.376,)'
    said = (
        f'starting from {root}/seven.npz, {normalisation}; its routers are kept, and routing.initial_run_rate is not '
        'read; its head is of 7 classes, so one of 10 starts fresh\n'
    )
    assert said in capsys.readouterr().out
    for path, leaf in expected.items():
        assert np.array_equal(found[path], leaf) is not path.startswith('params/head/'), path
    assert found['params/head/kernel'].std() > 0


NAMES = (*'012345678', 'nine')


def test_so_does_one_of_as_many_others_which_a_runs_own_file_names(
    root: Path, weights: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights_file.write(root / 'named.npz', weights, classes=NAMES)
    found, expected = started(root, 'named', root / 'named.npz', monkeypatch), helpers.by_path(weights)
    assert "; its head is of other classes (9 is 'nine' there and '9' here), so one of 10 starts fresh\n" in (
        capsys.readouterr().out
    )
    for path, leaf in expected.items():
        assert np.array_equal(found[path], leaf) is not path.startswith('params/head/'), path
    own = root / 'named' / 'weights.npz'
    assert weights_file.read_classes(own) == tuple('0123456789')
    again = started(root, 'again', own, monkeypatch)
    assert 'starts fresh' not in capsys.readouterr().out
    for path, leaf in found.items():
        np.testing.assert_array_equal(again[path], leaf, err_msg=path)


@pytest.mark.parametrize('setting', ['init_from', 'distillation.teacher'])
def test_what_teaches_other_classes_is_refused(root: Path, weights: dict[str, Any], setting: str) -> None:
    static = helpers.without_routers(weights)
    weights_file.write(root / 'static.npz', static)
    weights_file.write(root / 'others.npz', static, classes=NAMES)
    files = {'init_from': str(root / 'static.npz')} | {setting: str(root / 'others.npz')}
    with pytest.raises(
        InputError, match=r"others\.npz is of other classes \(9 is 'nine' there and '9' here\): train it"
    ):
        helpers.train(config(root, **files, **{'distillation.weight': 1.0}), Workdir(root / 'refused'))
    assert not (root / 'refused').exists()


# --- The normalisation that the weights were trained under. ---

OTHER = WeightsInput((0.5,), (0.125,), 'net.th', 'ab12')


def run_from(root: Path, name: str, file: Path, **changes: Any) -> Workdir:
    workdir = Workdir(root / name)
    with pytest.MonkeyPatch.context() as monkeypatch:
        helpers.hide_tensorflow(monkeypatch)
        helpers.train(config(root, init_from=str(file), **changes), workdir)
    return workdir


@pytest.fixture(scope='module')
def normalised(root: Path, weights: dict[str, Any]) -> Workdir:
    """A run from weights with a normalisation of their own; their file is gone since."""
    weights_file.write(root / 'other.npz', weights, OTHER)
    workdir = run_from(root, 'normalised', root / 'other.npz')
    (root / 'other.npz').unlink()
    return workdir


def gates(config: ConfigDict, weights: dict[str, Any], images: np.ndarray, normalisation: WeightsInput) -> np.ndarray:
    network = setup.read(config).model
    run = helpers.quick_jit(lambda variables, images: network.apply(variables, images, masked(), train=False))
    output = run(weights, augment.normalise(images, *normalisation[:2]))
    return np.asarray(output.run_probability_Bxn)


def test_a_run_uses_it_records_it_and_hands_it_on(normalised: Workdir, weights: dict[str, Any]) -> None:
    recorded = normalised.read_config()
    assert (tuple(recorded.mean), tuple(recorded.std)) == (OTHER.mean, OTHER.std)
    assert weights_file.read_input(normalised.path / 'weights.npz') == (OTHER.mean, OTHER.std, '', '')
    named = setup.read(recorded)
    images = named.data.open('test')
    assert isinstance(images, ImageSet)
    expected_Nxn = gates(recorded, weights, images.images_NxHxWxC, OTHER)
    own = WeightsInput(*named.data.dataset.spec.normalisation)
    under_the_sets_own_Nxn = gates(recorded, weights, images.images_NxHxWxC, own)
    assert np.abs(expected_Nxn - under_the_sets_own_Nxn).max() > 0.01, 'the test is to tell them apart'
    in_the_run_Nxn = read_routes(normalised, 'test')[0].run_probability_Nxn
    evaluated = evaluate.evaluate_weights(named.model, named.data.spec, normalised.read_weights(), images)
    evaluated_Nxn = evaluated.record.run_probability_Nxn
    predicted_Nxn = load.from_workdir(normalised.path).in_batches(images.images_NxHxWxC, 64).run_probability_Bxn
    for found_Nxn in (in_the_run_Nxn, evaluated_Nxn):
        np.testing.assert_allclose(found_Nxn, expected_Nxn, atol=1e-4)
    # A decision that falls on the other side in the folded network changes the gates after it.
    assert np.mean(np.abs(predicted_Nxn - expected_Nxn).max(axis=1) < 1e-3) > 0.99


def test_a_run_goes_on_under_what_it_recorded_though_the_file_is_gone(
    root: Path, normalised: Workdir, capsys: pytest.CaptureFixture[str]
) -> None:
    before = helpers.all_bytes(normalised.path)
    run_from(root, 'normalised', root / 'other.npz')
    assert capsys.readouterr().out == f'{normalised} holds a finished run.\n'
    assert helpers.all_bytes(normalised.path) == before
    with pytest.raises(InputError, match=r'another config: mean \(\[0\.5\] there, \[0\.25\] here\)'):
        run_from(root, 'normalised', root / 'other.npz', mean=(0.25,), std=(0.125,))


def test_the_configs_own_goes_before_the_files(root: Path, weights: dict[str, Any]) -> None:
    weights_file.write(root / 'overruled.npz', weights, OTHER)
    recorded = run_from(root, 'overruled', root / 'overruled.npz', mean=(0.3,), std=(1.0,)).read_config()
    assert (tuple(recorded.mean), tuple(recorded.std)) == ((0.3,), (1.0,))


def test_weights_that_say_nothing_of_it_leave_the_data_sets_own(root: Path, weights: dict[str, Any]) -> None:
    weights_file.write(root / 'silent.npz', weights)
    workdir = run_from(root, 'silent', root / 'silent.npz')
    assert workdir.read_config().mean is None and workdir.read_config().std is None
    assert weights_file.read_input(workdir.path / 'weights.npz') is None


def test_a_run_says_where_its_bottlenecks_stride(
    root: Path, weights: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Architecture, 'stride_on', '1x1')
    weights_file.write(root / 'silent.npz', weights)
    file = run_from(root, 'strided', root / 'silent.npz').path / 'weights.npz'
    assert (weights_file.read_stride_on(file), weights_file.read_input(file)) == ('1x1', None)
    jax.tree.map(np.testing.assert_array_equal, weights_file.read(file), weights)


@pytest.mark.parametrize('setting', ['init_from', 'distillation.teacher'])
def test_weights_of_bottlenecks_that_stride_elsewhere_are_refused(root: Path, setting: str) -> None:
    weights_file.write(root / 'bottlenecks.npz', {'params': {'head': {'bias': np.zeros(10)}}}, stride_on='3x3')
    bottlenecks = {'model.backbone': 'imagenet_resnet', 'model.depth': 50, 'model.stride_on': '1x1'}
    taught = {'distillation.weight': 1.0, 'distillation.teacher_depth': 50} if 'teacher' in setting else {}
    changed = config(root, **bottlenecks, **taught, **{setting: str(root / 'bottlenecks.npz')})
    with pytest.raises(
        InputError, match=r'strides on its 3x3 convolutions, and model\.stride_on is 1x1: set it to 3x3'
    ):
        helpers.train(changed, Workdir(root / 'refused'))
    assert not (root / 'refused').exists()


def test_that_of_other_channels_is_refused(root: Path, weights: dict[str, Any]) -> None:
    weights_file.write(root / 'colours.npz', weights, WeightsInput((0.5,) * 3, (0.5,) * 3))
    with pytest.raises(InputError, match=r'colours\.npz holds weights for images of 3 channels, and those of digits'):
        run_from(root, 'refused', root / 'colours.npz')
    assert not (root / 'refused').exists()


# --- What is refused. ---


def test_what_does_not_fit_is_said_before_anything_is_written(root: Path, weights: dict[str, Any]) -> None:
    wider = weights | {'params': weights['params'] | {'head': {'kernel': np.zeros((99, 7)), 'bias': np.zeros(7)}}}
    weights_file.write(root / 'wider.npz', wider)
    missing = r'none\.npz cannot be read as weights \(No such file or directory\): '
    for file, message in ((root / 'wider.npz', 'params/head/'), (root / 'none.npz', missing)):
        with pytest.raises(InputError, match=message):
            helpers.train(config(root, init_from=str(file)), Workdir(root / 'refused'))
        assert not (root / 'refused').exists()
