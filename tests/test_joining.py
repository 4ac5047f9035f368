"""Two trained networks made one that resumes: joined exactly where that can be, refused where they do not go together,
and trained, evaluated and asked by the commands as any other."""

import contextlib
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import helpers
import staged
from codinet_jax.config import default, left_open, setup
from codinet_jax.models import joining, pretrained, weights_file
from codinet_jax.models.architecture import (
    BLOCKS_PER_STAGE,
    Architecture,
    Block,
    Conv,
    Stage,
    cifar_resnet,
    imagenet_resnet,
    resumed,
)
from codinet_jax.models.network import RoutedResNet
from codinet_jax.models.weights_file import WeightsInput
from codinet_jax.runtime.errors import InputError
from codinet_jax.training import loop, start
from codinet_jax.workdir import Workdir, begin
from reference_network import Tree
from staged import assert_alike


def static_variables(architecture: Any, seed: int) -> Tree:
    found: Tree = jax.device_get(helpers.random_variables(RoutedResNet(architecture, None), seed))
    return found


# --- The joins. ---


def reordered(variables: Tree, order: np.ndarray) -> Tree:
    """The same stem and first stage, their channels in another order."""

    def leaf(path: Any, w: np.ndarray) -> np.ndarray:
        if path[1].key not in ('stem_conv', 'stem_norm', 'stage1_blocks'):
            return w
        is_inner = path[1].key == 'stage1_blocks' and path[-1].key == 'kernel'
        return w[..., order][..., order, :] if is_inner else w[..., order]

    found: Tree = jax.tree_util.tree_map_with_path(leaf, variables)
    return found


def open_shortcuts(variables: Tree, num_first: int) -> None:
    """Makes the first blocks of the later stages hand on their shortcut alone, of positive numbers."""
    for stage in (2, 3):
        for name, rows in ((f'stage{stage}_transition', ...), (f'stage{stage}_blocks', slice(num_first - 1))):
            last = variables['params'][name]['residual']['norm2']
            last['scale'], last['bias'] = last['scale'].copy(), last['bias'].copy()
            last['scale'][rows] = last['bias'][rows] = 0.0
        for kind in ('params', 'batch_stats'):
            shortcut = variables[kind][f'stage{stage}_transition'].get('shortcut', {})
            for part in shortcut.values():
                part.update({leaf: 0 * w if leaf == 'mean' else np.abs(w) for leaf, w in part.items()})


@pytest.mark.parametrize('shortcut', ['pad', 'projection'])
def test_where_the_joins_can_be_exact_the_last_answer_is_the_deep_networks(shortcut: Any) -> None:
    """In stage 1 the deep network computes what the shallow one does, in another order of channels; in later stages
    first what stride and shortcut make of its own last stage, which no join can know from the shallow one."""
    shape: Any = {'image_size': 8, 'num_classes': 5, 'shortcut': shortcut}
    first, whole = cifar_resnet(14, **shape), cifar_resnet(20, **shape)
    shallow, deep = static_variables(first, 1), static_variables(whole, 2)
    order = np.random.default_rng(3).permutation(16)
    for kind in ('params', 'batch_stats'):
        own = reordered({kind: shallow[kind]}, order)[kind]
        for name in own:
            if name.startswith('stem'):
                deep[kind][name] = own[name]
        deep[kind]['stage1_blocks'] = jax.tree.map(
            lambda w, of_deep: np.concatenate([w, of_deep[2:]]), own['stage1_blocks'], deep[kind]['stage1_blocks']
        )
    open_shortcuts(deep, 2)
    network = RoutedResNet(resumed(first, whole), 'resuming')
    images = helpers.random_images(whole, 90)
    found = joining.joined(network.architecture, shallow, deep, [images[:40], images[40:80], images[80:]])
    found['params']['router_start'] = {'bias': np.float32(0)}
    fresh = helpers.shapes(network)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, fresh)
    others = helpers.random_images(whole, 100)[90:]
    answers = staged.answers(network, found, others, threshold=0.0)
    assert_alike(answers.of_stages[0], staged.answers(RoutedResNet(first, None), shallow, others).logits_BxY)
    assert_alike(answers.logits_BxY, staged.answers(RoutedResNet(whole, None), deep, others).logits_BxY)
    np.testing.assert_allclose(found['params']['stage3_end']['join'], np.eye(16)[:, order], atol=1e-3)


def test_a_join_is_fitted_by_least_squares_whatever_the_batches() -> None:
    rng = np.random.default_rng(0)
    known, wanted = rng.normal(size=(7, 3, 3, 4)), rng.normal(size=(7, 3, 3, 2))
    known[..., 2] = 0  # a channel that is never on
    parts = (slice(3), slice(3, None))
    found = joining._fitted((jnp.asarray(known[rows]), jnp.asarray(wanted[rows])) for rows in parts)
    expected = np.linalg.lstsq(known.reshape(-1, 4), wanted.reshape(-1, 2), rcond=1e-6)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not found[2].any()


def photographic(*num_blocks: int) -> Architecture:
    """A network with the stem and the shortcuts of the ImageNet ResNets, of as many stages, and few channels."""
    stages, size, before = [], 8, 2
    for i, (channels, blocks) in enumerate(zip((2, 4, 4), num_blocks, strict=True)):
        convs = Conv(3, channels, 1 + (i > 0)), Conv(3, channels)
        first = Block(size, before, convs, 'projection') if i else None
        size, before = size if first is None else first.out_size, channels
        body = Block(size, channels, (Conv(3, channels), Conv(3, channels)), 'identity')
        stages.append(Stage(first, body, blocks - (first is not None)))
    return Architecture(32, 3, 3, 'imagenet', 2, tuple(stages))


@pytest.mark.parametrize('depths', [((1, 1, 1), (2, 2, 3)), ((2, 2, 2), (3, 4, 6))])
def test_networks_with_the_stem_of_photographs_are_joined_too(depths: tuple[tuple[int, ...], ...]) -> None:
    shallow, deep = (photographic(*num_blocks) for num_blocks in depths)
    network = RoutedResNet(resumed(shallow, deep), 'resuming')
    given, images = (static_variables(shallow, 1), static_variables(deep, 2)), helpers.random_images(deep, 2)
    found = joining.joined(network.architecture, *given, [images])
    found['params']['router_start'] = {'bias': np.float32(0)}
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, helpers.shapes(network))
    answers = staged.answers(network, found, images, threshold=0.0)
    assert_alike(answers.of_stages[0], staged.answers(RoutedResNet(shallow, None), given[0], images).logits_BxY)


def test_of_the_published_networks_for_photographs_one_pair_goes_together() -> None:
    pairs = []
    for shallow, deep in itertools.permutations(BLOCKS_PER_STAGE, 2):
        with contextlib.suppress(InputError):
            resumed(imagenet_resnet(shallow), imagenet_resnet(deep))
            pairs.append((shallow, deep))
    assert pairs == [(18, 34)]


def test_the_depth_is_seen_in_the_weights() -> None:
    for kind, architecture, depth in (
        ('cifar_resnet', cifar_resnet(20), 20),
        *(('imagenet_resnet', imagenet_resnet(depth, image_size=32), depth) for depth in (18, 34, 50)),
    ):
        variables = helpers.shapes(RoutedResNet(architecture, None))
        assert pretrained.kind_and_depth(variables, 'it.npz') == (kind, depth)
    with pytest.raises(InputError, match=r'^it\.npz has \(1, 2, 1, 0\) blocks in its stages'):
        pretrained.kind_and_depth(helpers.shapes(RoutedResNet(staged.architecture(1, 2), None)), 'it.npz')


# --- A run of two networks. ---


def config(root: Path, depth: int = 14, variant: str = 'resumed', **changes: Any) -> Any:
    tiny = helpers.tiny_config(data_dir=str(root / 'tfds'), **{'model.depth': depth, 'loss.target_cost': None})
    named = default.with_variant(tiny, variant)
    named.update_from_flattened_dict(changes)
    return named


@pytest.fixture(scope='module', autouse=True)
def fresh_weights_drawn_once() -> Iterator[None]:
    """For all that start with the same network."""
    with mock.patch.object(start, 'drawn', functools.cache(start.drawn)):
        yield


@pytest.fixture(scope='module')
def given(root: Path) -> dict[str, str]:
    """Files of a shallow and a deep network, and of others that do not go with these."""
    own = {depth: static_variables(setup_of(root, depth), depth) for depth in (8, 14)}
    seven = {'kernel': np.zeros((64, 7), np.float32), 'bias': np.zeros(7, np.float32)}
    wide = jax.tree.map(lambda w: np.concatenate([w, w], axis=-1), own[8]['params']['stem_conv'])
    files = {
        'shallow': own[8],
        'deep': own[14],
        'seven': own[8] | {'params': own[8]['params'] | {'head': seven}},
        'wide': own[8] | {'params': own[8]['params'] | {'stem_conv': wide}},
        'imagenet': static_variables(imagenet_resnet(18, image_size=8), 1),
        'uneven': static_variables(staged.architecture(1, 2), 1),
        'routed': helpers.random_variables(RoutedResNet(setup_of(root, 8), 'linear'), 8),
    }
    for name, variables in files.items():
        weights_file.write(root / f'{name}.npz', variables)
    weights_file.write(root / 'grey.npz', own[8], WeightsInput((0.5,), (0.25,)))
    for name, depth in (('other shallow', 8), ('other deep', 14)):
        weights_file.write(root / f'{name}.npz', own[depth], classes=('zero', *'123456789'))
    joined = helpers.write_workdir(root / 'joined', config(root, **{'model.first_depth': 8}))
    names = (*files, 'grey', 'other shallow', 'other deep')
    return {name: str(root / f'{name}.npz') for name in names} | {'joined': str(joined.path / 'weights.npz')}


def setup_of(root: Path, depth: int) -> Any:
    return begin(config(root, depth, 'static'), Workdir(root / 'none')).model.architecture


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'model.resumes': 'deep'}, r'^model\.resumes=\S+deep\.npz: CIFAR ResNet-14 cannot resume CIFAR ResNet-14'),
        ({'model.resumes': 'seven'}, r'seven\.npz tells 7 classes apart, and there are 10'),
        ({'model.resumes': 'wide'}, r'wide\.npz does not fit this network: params/stem_conv/kernel is .* 32\) in it'),
        ({'model.resumes': 'imagenet'}, r'imagenet\.npz holds the weights of one of kind imagenet_resnet'),
        ({'model.resumes': 'uneven'}, r'uneven\.npz has \(1, 2, 1, 0\) blocks in its stages'),
        ({'model.resumes': 'joined'}, r'weights\.npz has \(1, 1, 1, 1, 1, 1\) blocks in its stages'),
        ({'model.resumes': 'routed'}, r'routed\.npz holds a routed network, and without its routers it is another one'),
        (
            {'model.resumes': 'shallow', 'distillation.weight': 1.0, 'distillation.teacher': 'routed'},
            r'routed\.npz holds a routed network, and without its routers it is another one: give the weights of a st',
        ),
        ({'model.resumes': 'grey'}, r'grey\.npz was trained on pixels normalised by mean \(0\.5,\), std \(0\.25,\)'),
        (
            {'model.resumes': 'other shallow'},
            r"other shallow\.npz is of other classes \(0 is 'zero' there and '0' here\)",
        ),
        ({'model.resumes': 'shallow', 'init_from': 'other deep'}, r'other deep\.npz is of other classes \(0 is'),
        ({'model.resumes': 'shallow', 'init_from': 'joined'}, r'weights\.npz is no static network, and model\.resumes'),
        ({'model.resumes': 'shallow', 'init_from': 'seven'}, r'does not fit this network|tells 7 classes apart'),
        (
            {'model.resumes': 'shallow', 'init_from': None},
            r'^model\.resumes=\S+ is the network that answers first, and',
        ),
        ({}, r'deep\.npz is a static network, and one that resumes is made of two: give model\.resumes'),
        ({'init_from': 'joined', 'distillation.weight': 1.0}, r'^distillation\.weight is set, and what a network that'),
        ({'distillation.teacher': 'deep'}, r'^distillation\.teacher is set, and distillation\.weight is 0'),
        ({'distillation.teacher_depth': 8}, r'^distillation\.teacher_depth is 8, of no teacher'),
        (
            {'model.router': 'exits', 'method': 'early_exit', 'model.resumes': 'shallow'},
            r'^model\.resumes is .* no net',
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(
    root: Path, given: dict[str, str], changes: dict[str, Any], sentence: str
) -> None:
    files = {name: given.get(str(value), value) for name, value in ({'init_from': 'deep'} | changes).items()}
    with pytest.raises(InputError, match=sentence):
        helpers.train(config(root, **{'model.first_depth': None} | files), Workdir(root / 'refused'))
    assert not (root / 'refused').exists()


def test_what_no_run_is_begun_with_is_as_deep_as_in_a_run(root: Path, given: dict[str, str]) -> None:
    files = {'init_from': given['deep'], 'model.resumes': given['deep']}
    taught = {'distillation.weight': 1.0, 'distillation.teacher': given['shallow']}
    begun = begin(config(root, 20, **files | taught), Workdir(root / 'none'))
    found = left_open.read(config(root, 20, **files | taught))
    assert found.model.architecture == begun.model.architecture
    assert found.teacher == begun.teacher == setup_of(root, 8)
    assert found.model.architecture != setup.read(config(root, 20, **files)).model.architecture


@pytest.mark.parametrize('name', ['profile', 'compile', 'benchmark'])
def test_commands_on_a_config_look_how_deep_its_networks_are(name: str, root: Path) -> None:
    files = {'model.depth': 14, 'model.resumes': root / 'nowhere.npz', 'init_from': root / 'deep.npz'}
    flags = helpers.tiny_flags(**files)
    flags[0] += ':resumed'
    said = helpers.run_command(name, *flags, *(['--topology=cpu'] if name == 'compile' else []))
    helpers.assert_refused(said, 'nowhere.npz')


@pytest.mark.long
def test_a_run_of_two_networks_is_trained_evaluated_and_asked(root: Path, given: dict[str, str]) -> None:
    files = {name: root / f'its_{name}.npz' for name in ('shallow', 'deep')}
    for name, file in files.items():
        file.write_bytes(Path(given[name]).read_bytes())
    changes = {'model.depth': 14, 'init_from': files['deep'], 'model.resumes': files['shallow']}
    flags = helpers.tiny_flags(data_dir=root / 'tfds', **changes)
    flags[0] += ':resumed'
    flags += ['--config.loss.target_cost=None', '--config.distillation.weight=1', '--config.stage2.epochs=0']
    run = root / 'two'
    said = helpers.run_command('main', *flags, f'--workdir={run}', JAX_NUM_CPU_DEVICES='1')
    assert said.returncode == 0, said.stderr
    assert 'its_shallow.npz answers first, joined on 500 training images' in said.stdout
    recorded = json.loads((run / 'config.json').read_text())
    assert (recorded['model']['first_depth'], recorded['distillation']['teacher_depth']) == (8, None)
    row = json.loads((run / 'metrics.jsonl').read_text().splitlines()[0])
    assert row['loss'] == pytest.approx(row['cross_entropy'] + row['exits'] + row['distillation'], rel=1e-5)
    for file in files.values():
        file.unlink()
    again = helpers.run_command('main', *flags, f'--workdir={run}', JAX_NUM_CPU_DEVICES='1')
    assert again.returncode == 0 and f'{run} holds a finished run.' in again.stdout
    for name, rest in (('evaluate', ()), ('predict', ('--split=test',))):
        said = helpers.run_command(name, f'--workdir={run}', *rest, JAX_NUM_CPU_DEVICES='1')
        assert said.returncode == 0 and '355' in said.stdout + said.stderr, said.stderr


def test_it_begins_with_the_shallow_networks_answers_and_goes_on_where_it_is_unsure(
    root: Path, given: dict[str, str]
) -> None:
    files = {'init_from': given['deep'], 'model.resumes': given['shallow'], 'distillation.weight': 1.0}
    named = begin(config(root, **files), Workdir(root / 'begun'))
    variables, teacher = start.given_variables(named, named.data.open('train'))
    assert variables is not None and teacher is not None
    images = helpers.random_images(named.model.architecture, 8)
    shallow = RoutedResNet(named.model.architecture.answering_first, None)
    expected = staged.answers(shallow, weights_file.read(given['shallow']), images).logits_BxY
    assert_alike(staged.answers(named.model, variables, images).of_stages[0], expected)
    assert variables['params']['router_start']['bias'] == pytest.approx(np.log(0.9 / 0.1))
    for path, leaf in helpers.by_path(weights_file.read(given['deep'])).items():
        np.testing.assert_array_equal(helpers.by_path(teacher)[path], leaf, err_msg=path)
    assert [stage.step.teacher.architecture for stage in loop.plan(named, 1442) if stage.step.teacher] == 2 * [
        named.model.architecture.in_order
    ]
