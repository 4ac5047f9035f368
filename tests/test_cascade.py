"""A cascade asks networks until the mean of their answers is sure, and is a network like any other."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import codinet_jax
import helpers
import quick_runs
from codinet_jax.analysis.run import read_run
from codinet_jax.analysis.study import study
from codinet_jax.data import augment, digits
from codinet_jax.data.spec import DataSpec
from codinet_jax.evaluation.controls import macs_of_images
from codinet_jax.evaluation.record import is_consistent
from codinet_jax.evaluation.statistics import summarise
from codinet_jax.inference import calibration, cascade, cascade_answers, cascade_record, load
from codinet_jax.inference.calibration import RUN_ALL, RUN_NONE
from codinet_jax.inference.cascade import Member
from codinet_jax.inference.predictor import Prediction
from codinet_jax.models import execution
from codinet_jax.models.architecture import cifar_resnet, resumed
from codinet_jax.models.cost import CostTable
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir

SPEC = DataSpec(10, 0.3, 0.4)


def member(depth: int, seed: int, router: str | None = None, **changes: Any) -> Member:
    network = RoutedResNet(cifar_resnet(depth, **{'image_size': 8, 'image_channels': 1} | changes), router, unroll=9)
    return Member(network, SPEC, helpers.random_variables(network, seed))


def resuming() -> Member:
    """A ResNet-8 that a ResNet-14 resumes, whose own bias has no part in a cascade."""
    first, whole = (cifar_resnet(depth, image_size=8, image_channels=1) for depth in (8, 14))
    network = RoutedResNet(resumed(first, whole), 'resuming', unroll=9)
    variables = helpers.random_variables(network, 1)
    for head in (variables['params']['stage3_end']['head'], variables['params']['head']):
        head['kernel'] = head['kernel'] / 8  # or it would be sure of all images
    variables['params']['router_start']['bias'] = np.float32(0.7)
    return Member(network, SPEC, variables)


@pytest.fixture(scope='module', params=['static', 'the first resumes'])
def members(request: pytest.FixtureRequest) -> list[Member]:
    if request.param == 'static':
        return [member(8, 1), member(14, 2), member(20, 3)]
    return [resuming(), member(14, 2)]


@pytest.fixture(autouse=True)
def compiled_with_little_care(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, 'spread', quick_runs.spread)


@pytest.fixture(scope='module')
def images() -> np.ndarray:
    return helpers.noise_images(21).images_NxHxWxC


@pytest.fixture(scope='module')
def alone(members: list[Member], images: np.ndarray) -> np.ndarray:
    """Probabilities [K, N, Y] of every step on its own."""
    found = []
    for model, spec, variables in members:
        if model.architecture.first_pass:
            inputs = augment.normalise(images, *spec.normalisation)
            run = helpers.quick_jit(functools.partial(model.apply, execution=execution.all_run(), train=False))
            output: Any = run(variables, inputs)
            found += [jax.nn.softmax(logits_NxY) for logits_NxY in output.of_stages]
        else:
            found.append(load.from_network(model, spec, variables).in_batches(images, 21).probabilities_BxY)
    return np.asarray(found, np.float64)


@pytest.fixture(scope='module')
def after(members: list[Member], alone: np.ndarray) -> np.ndarray:
    """Answers [K, N, Y] after every step: means, but that who resumes has its last answer in place of its first."""
    if members[0].resumes:
        return np.stack([alone[0], alone[1], (alone[1] + alone[2]) / 2])
    return np.stack([alone[: k + 1].mean(axis=0) for k in range(3)])


def expected(after_KxNxY: np.ndarray, macs_K: list[int], threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes, decisions and MACs, image by image."""
    labels, decisions, macs = [], [], []
    for of_image_KxY in after_KxNxY.swapaxes(0, 1):
        last, spent, asked = 0, macs_K[0], []
        for k in range(1, len(macs_K)):
            asked.append(1 - of_image_KxY[last].max() >= threshold)
            if asked[-1]:
                last, spent = k, spent + macs_K[k]
        labels.append(of_image_KxY[last].argmax())
        decisions.append(asked)
        macs.append(spent)
    return np.array(labels), np.array(decisions), np.array(macs)


@pytest.fixture(scope='module')
def between(after: np.ndarray) -> float:
    """A threshold that parts the images well, in the widest gap of the middle third."""
    unsure_N = np.sort(1 - after[0].max(axis=-1))[7:14]
    i = int(np.argmax(np.diff(unsure_N)))
    return float((unsure_N[i] + unsure_N[i + 1]) / 2)


def assert_as_expected(answers: Prediction, wanted: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    for found, each in zip((answers.labels_B, answers.decisions_Bxn, answers.macs_B), wanted, strict=True):
        np.testing.assert_array_equal(found, each)


@pytest.mark.parametrize('is_fused', [False, True])
@pytest.mark.parametrize('k', [0, 1])
def test_variables_of_another_network_are_refused(
    monkeypatch: pytest.MonkeyPatch, images: np.ndarray, k: int, is_fused: bool
) -> None:
    if not is_fused:
        monkeypatch.setattr(cascade.fused, 'is_default', lambda model: False)
    two = [member(8, 1), member(14, 2)]
    two[k] = two[k]._replace(variables=member(20, 3).variables)
    with pytest.raises(
        InputError, match=rf'^The variables are not those of CIFAR ResNet-{(8, 14)[k]} with router None: '
    ):
        cascade.from_networks(two)(images[:1])


def macs(members: list[Member]) -> list[int]:
    """What every step adds."""
    found = []
    for model, *_ in members:
        if model.architecture.first_pass:
            macs_n, costs = model.costs.blocks_n, model.costs
            found += [costs.stem + costs.head + costs.router_macs + sum(macs_n[:3]), sum(macs_n[3:])]
        else:
            found.append(model.costs.static_macs)
    return found


def test_each_image_is_answered_by_the_mean_of_the_first_that_are_sure_of_it(
    members: list[Member], images: np.ndarray, after: np.ndarray, between: float
) -> None:
    predictor, costs = cascade.from_networks(members), macs(members)
    labels_N, decisions_Nxn, macs_N = expected(after, costs, between)
    assert 0 < decisions_Nxn[:, 0].mean() < 1, 'the threshold is to part the images'
    assert_as_expected(predictor(images, between), (labels_N, decisions_Nxn, macs_N))
    for threshold, num_asked in ((RUN_ALL, 3), (RUN_NONE, 1)):
        found = predictor(images, threshold).probabilities_BxY
        np.testing.assert_allclose(found, after[num_asked - 1], rtol=1e-5, atol=1e-6)
    for i in (0, 5, 11):
        one = predictor(images[i : i + 1], between)
        assert_as_expected(one, (labels_N[i : i + 1], decisions_Nxn[i : i + 1], macs_N[i : i + 1]))
    assert predictor.spec.static_macs == costs[-1]
    assert predictor.spec.draw([1, 0]) == '█·'


def test_what_a_threshold_comes_to_follows_from_answers_given_once(
    members: list[Member], alone: np.ndarray, between: float
) -> None:
    split, predictor = helpers.noise_images(21), cascade.from_networks(members)
    answers = cascade_answers.answers(members, split, batch_size=8)
    np.testing.assert_array_equal(answers.alone_KxN, alone.argmax(axis=-1))
    for threshold in (RUN_ALL, between, RUN_NONE):
        found = cascade_answers.point(answers, predictor.spec, threshold)
        assert found == pytest.approx(calibration.measured(predictor, split, 21, threshold))


def test_it_is_recorded_as_a_routed_network_is(members: list[Member], after: np.ndarray, between: float) -> None:
    split = helpers.noise_images(21)
    found, table = cascade_record.evaluate(members, split, between, batch_size=8), cascade_record.costs(members)
    labels_N, decisions_Nxn, macs_N = expected(after, macs(members), between)
    np.testing.assert_array_equal(found.record.predictions_N, labels_N)
    np.testing.assert_array_equal(found.record.decisions_Nxn, decisions_Nxn)
    np.testing.assert_array_equal(found.record.labels_N, split.labels_N)
    np.testing.assert_array_equal(macs_of_images(found.record, table), macs_N)
    assert (table.fixed_macs, table.static_macs) == (macs(members)[0], macs(members)[-1])
    assert table.router_macs == 0 and min(np.hstack(table)) >= 0
    first, *others = macs(members)
    stem = others[-1] - sum(others)
    older = CostTable(*json.loads(json.dumps((stem, others, (0, 0), (first - stem, 0), 0, 0))))  # as workdirs hold it
    again = CostTable(*json.loads(json.dumps(table)))
    for known in (older, again):
        assert summarise(found.record, known) == summarise(found.record, table)
        np.testing.assert_array_equal(macs_of_images(found.record, known), macs_N)
    assert is_consistent(found.record._asdict() | found.augmented._asdict())

    flipped = split.images_NxHxWxC[:, :, ::-1]
    flip = found.augmented.augmentations_A.tolist().index('horizontal flip')
    answers = cascade.from_networks(members)(flipped, between)
    np.testing.assert_array_equal(found.augmented.augmented_predictions_AxN[flip], answers.labels_B)
    np.testing.assert_array_equal(found.augmented.augmented_decisions_AxNxn[flip], answers.decisions_Bxn)
    assert np.isfinite(found.augmented.divergences_AxN).all() and (found.augmented.divergences_AxN > 0).any()

    # The mean over shuffles, counted out: of each image over all images' routes.
    last_N, right_KxN = decisions_Nxn.sum(axis=1), after.argmax(axis=-1) == split.labels_N
    everyone = np.mean([right_KxN[last] for last in last_N], axis=0)
    np.testing.assert_allclose(found.shuffled.right_N, everyone)
    of_class = [
        np.mean([right_KxN[last_N[j], i] for j in range(21) if split.labels_N[j] == split.labels_N[i]])
        for i in range(21)
    ]
    np.testing.assert_allclose(found.shuffled.right_within_class_N, of_class)


@pytest.mark.long
def test_it_is_exported_as_any_network_is(
    members: list[Member], images: np.ndarray, after: np.ndarray, between: float, tmp_path: Path
) -> None:
    cascade.from_networks(members, threshold=between).export(tmp_path / 'exported')
    again = codinet_jax.load_exported(tmp_path / 'exported')
    for batch in (images, images[:1]):
        wanted = expected(after[:, : len(batch)], macs(members), between)
        assert_as_expected(again(batch), wanted)


@pytest.mark.parametrize(
    ('others', 'message'),
    [
        (list, r'two networks or more'),
        (lambda: [member(14, 2, router='linear')], r'CIFAR ResNet-14 is routed, and a cascade is of static networks'),
        (lambda: [resuming()], r'ResNet-14 answering after 3 blocks is routed, .* of which the first alone may'),
        (lambda: [member(8, 2)], r'Network 2 of the cascade costs .* give the cheaper ones first'),
        (lambda: [member(14, 2, image_channels=3)], r'not of the images and classes of CIFAR ResNet-8'),
        (
            lambda: [member(14, 2)._replace(data_spec=DataSpec(7, 0.3, 0.4))],
            r'not of the images and classes of CIFAR ResNet-8',
        ),
    ],
)
def test_what_cannot_be_a_cascade_is_refused(others: Callable[[], list[Member]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cascade.from_networks([member(8, 1), *others()])


@pytest.mark.long
def test_the_command_makes_one_of_runs(tmp_path: Path) -> None:
    digits.prepare(tmp_path / 'tfds')
    workdirs = []
    for depth in (8, 14):
        changes = {'method': 'static', 'model.router': 'static', 'model.depth': depth, 'loss.target_cost': None}
        config = helpers.tiny_config(data_dir=str(tmp_path / 'tfds'), **changes)
        workdirs.append(helpers.write_workdir(tmp_path / str(depth), config, seed=depth).path)
    flags = ('--members=' + ','.join(map(str, workdirs)), '--target_cost=0.9,0.7', f'--output={tmp_path / "both"}')
    recorded = Workdir(tmp_path / 'recorded')
    ran = helpers.run_command('cascade', *flags, '--num_images=300', f'--workdir={recorded}')
    assert ran.returncode == 0, ran.stderr
    assert 'CIFAR ResNet-8 alone: top-1' in ran.stdout and '--operating_point=0.7: top-1' in ran.stdout
    predictor = codinet_jax.load_exported(tmp_path / 'both')
    test = helpers.tiny_setup(data_dir=str(tmp_path / 'tfds')).data.open('test')
    found = {name: predictor.in_batches(test.images_NxHxWxC, 128, operating_point=name) for name in ('0.9', '0.7')}
    for name, answers in found.items():
        share = answers.macs_B.mean() / predictor.spec.static_macs
        top1 = np.mean(answers.labels_B == test.labels_N)
        assert f'--operating_point={name}: top-1 {top1:.2%}' in ran.stdout
        assert f'{share:.1%} of the last alone' in ran.stdout
        assert share == pytest.approx(float(name), abs=0.1)
    run = read_run(recorded)
    assert not run.is_static and run.backbone == 'ResNet-8, ResNet-14' and run.num_blocks == 1
    np.testing.assert_array_equal(run.record.predictions_N, found['0.9'].labels_B)
    np.testing.assert_array_equal(run.macs_N, found['0.9'].macs_B)
    study_found = study([run], log=lambda _: None, against=[dataclasses.replace(run, name='again')])
    numbers = json.loads(study_found.files['numbers.json'])
    assert numbers['top1'] - numbers['worth_of_routes']['all']['top1'] == pytest.approx(
        numbers['worth_of_routes']['all']['difference']
    )
    assert numbers['less']['again']['difference'] == 0
    assert 'cascade of ResNet-8, ResNet-14' in study_found.files['report.html'].decode()
    for name in ('evaluate', 'calibrate', 'predict'):
        refused = helpers.run_command(name, f'--workdir={recorded}', *(['--split=test'] if name == 'predict' else []))
        assert (refused.returncode, refused.stdout) == (2, '')
        assert refused.stderr.startswith(f'error: {recorded} holds what codinet_jax.cascade recorded, and no weights:')
        assert refused.stderr.count('\n') == 1 and '--exported' in refused.stderr
    again = helpers.run_command('cascade', *flags)
    assert again.returncode == 2 and 'is there already' in again.stderr


@pytest.mark.long
def test_a_folder_of_train_alone_is_enough(tmp_path: Path) -> None:
    generator, images = np.random.default_rng(0), tmp_path / 'images'
    for index in range(240):
        file = images / f'class {index % 2}' / f'{index}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(file)
    workdirs = []
    for depth in (8, 14):
        changes = {'method': 'static', 'model.router': 'static', 'model.depth': depth, 'loss.target_cost': None}
        changes |= {'dataset': 'folder', 'data_dir': str(images), 'image_size': 8, 'val_split': 0.5}
        workdirs.append(helpers.write_workdir(tmp_path / str(depth), helpers.tiny_config(**changes), depth).path)
    flags = ('--members=' + ','.join(map(str, workdirs)), '--target_cost=0.9', f'--output={tmp_path / "both"}')
    refused = helpers.run_command('cascade', *flags, f'--workdir={tmp_path / "recorded"}')
    helpers.assert_refused(refused, 'holds no val/ or test/', 'take the split validation')
    (tmp_path / 'whole' / 'val' / 'class 1').mkdir(parents=True)
    (tmp_path / 'whole' / 'train').symlink_to(images)
    refused = helpers.run_command('cascade', *flags, f'--data_dir={tmp_path / "whole"}')
    helpers.assert_refused(refused, 'whole/val holds no images for test')
    ran = helpers.run_command('cascade', *flags)
    assert (ran.returncode, ran.stderr) == (0, '')
    assert 'cannot be tested' in ran.stdout and 'alone: top-1' not in ran.stdout
    assert '0.9' in codinet_jax.load_exported(tmp_path / 'both').operating_points.points
    timed = helpers.run_command('benchmark', f'--workdir={workdirs[0]}', '--batch_sizes=1', '--repeats=1')
    assert (timed.returncode, timed.stderr) == (0, '')
