"""Every config file starts in every variant, and a bad setting is refused by name."""

import dataclasses
import importlib
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import configs
import helpers
from codinet_jax.config import default, setup
from codinet_jax.config.unread import unread
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.methods import METHODS, terms
from codinet_jax.runtime.errors import InputError
from configs import cifar10_r56_pretrained, digits_r14

NAMES = sorted(path.stem for path in Path(configs.__path__[0]).glob('[!_]*.py'))
EVERY_CONFIG = pytest.mark.parametrize('name', NAMES)

BAD = [
    ('method', 'codinets'),
    ('method', 'static'),  # with routers
    ('model.router', 'static'),  # with the method that skips
    ('loss.extra_terms', ('rates',)),  # without a weight
    ('loss.extra_weights', (1.0,)),
    ('dataset', 'cifar11'),
    ('classes', ('cat', 'dog')),  # of a set of the table
    ('image_channels', 1),
    ('views', 'small'),
    ('model.backbone', 'vgg'),
    ('model.depth', 21),
    ('train_images', 0),
    ('mean', (0.5, 0.5, 0.5)),  # without a std
    ('std', (0.5, 0.5, 0.5)),
    ('model.shortcut', 'identity'),
    ('model.router', 'lineer'),
    ('model.dtype', 'float64'),
    ('model.unroll', 0),
    ('routing.relaxation', 'gumbel'),
    ('routing.temperature', 0.0),
    ('routing.temperature', float('nan')),
    ('routing.initial_run_rate', 0.0),
    ('routing.initial_run_rate', 1.0),
    ('loss.alpha', -0.1),
    ('loss.alpha', float('nan')),
    ('loss.beta', -1.0),
    ('loss.gamma', -0.01),
    ('loss.consistency_margin', -0.2),
    ('loss.diversity_margin', -0.5),
    ('loss.target_cost', 0.0),
    ('loss.target_cost', 1.5),
    ('loss.target_cost', float('nan')),
    ('loss.target_cost', 0.001),  # less than a network costs that skips every block
    ('batch_size', 0),
    ('num_views', 0),
    ('eval_batch_size', 0),
    ('log_every_steps', 0),
    ('checkpoint_every_steps', 0),
    ('eval_every_epochs', -1.0),
    ('seed', -1),
    ('val_split', 1.0),
    ('val_split', -0.1),
    ('accumulate_steps', 0),
    ('model.batch_norm', 'local'),
    ('model.convolution', 'cudnn'),
    ('model.convolution', 'cuda'),  # in float32
    ('loss.gamma_window', 0.5),
    ('loss.gamma_damping_steps', -1.0),
    ('loss.gamma_max', -1.0),
    ('loss.label_smoothing', 1.0),
    ('optimizer.ema_decay', 1.0),
    ('optimizer.base_batch_size', 0),
    ('optimizer.momentum', -0.9),
    ('optimizer.weight_decay', float('nan')),
    ('stage1.epochs', -1.0),
    ('stage1.decay_epochs', (200.0, 150.0)),
    ('stage2.learning_rate', -0.1),
    ('stage2.decay_epochs', (30.0, 10.0)),
]


def load(name: str, variant: str = 'codinet') -> ConfigDict:
    config: ConfigDict = importlib.import_module(f'configs.{name}').get_config(variant)
    if config.dataset == 'folder':  # which no test has: as a run records it
        config.update(
            data_dir='photographs', classes=('cat', 'dog'), image_size=64, image_channels=3, views='photographs'
        )
    return config


def changed(name: str = 'default', **fields: Any) -> ConfigDict:
    """A config with fields overridden as from the command line; a double underscore stands for the dot."""
    config = load(name)
    config.update_from_flattened_dict({field.replace('__', '.'): value for field, value in fields.items()})
    return config


@EVERY_CONFIG
@pytest.mark.parametrize('variant', default.variants())
def test_every_config_can_start_in_every_variant(name: str, variant: str) -> None:
    found = setup.read(load(name, variant))
    assert found.model.architecture.num_blocks == found.costs.num_blocks
    assert found.data.image_shape[0] == found.model.architecture.image_size
    assert found.data.spec.num_classes == found.model.architecture.num_classes
    assert found.method.is_routed == (found.model.router is not None) == (variant != 'static')
    assert (found.costs.router_macs == 0) == (found.model.router in (None, 'random', 'independent'))
    assert not list(found.recipe.never_reached())


def test_there_are_configs_and_they_build_what_their_names_say() -> None:
    for name in set(NAMES) - {'default', 'finetune_folder'}:
        dataset, depth = re.fullmatch(r'([a-z0-9]+)_r(\d+)(?:_pretrained)?', name).groups()  # type: ignore[union-attr]
        config = load(name)
        assert config.dataset.startswith(dataset)
        assert config.model.depth == int(depth)
    assert {'cifar10_r110', 'digits_r14', 'imagenet_r50'} < set(NAMES)


@pytest.mark.parametrize(('depth', 'rival'), [(56, 32), (32, 20)])
def test_a_trained_network_is_made_to_skip_at_the_cost_of_the_static_one_that_it_must_beat(
    depth: int, rival: int
) -> None:
    config = load(f'cifar10_r{depth}_pretrained')
    static = load(f'cifar10_r{depth}_pretrained', 'static')
    static.model.depth = rival
    share = setup.read(static).costs.static_macs / setup.read(config).costs.static_macs
    assert config.loss.target_cost == pytest.approx(share, abs=5e-5)
    assert config.init_from == f'resnet{depth}.npz'


@EVERY_CONFIG
def test_a_variant_has_the_last_word_and_changes_nothing_else(name: str) -> None:
    whole = load(name)
    assert min(whole.loss.alpha, whole.loss.beta) > 0  # or its ablations would ablate nothing
    assert whole.model.router == 'linear'
    ablations = {
        'vanilla': {'loss.alpha': 0.0, 'loss.beta': 0.0},
        'consistency': {'loss.beta': 0.0},
        'static': {'method': 'static', 'model.router': 'static', 'loss.target_cost': None},
        'random': {
            'method': 'random',
            'model.router': 'random',
            'routing.initial_run_rate': 0.9,
            'loss.alpha': 0.0,
            'loss.beta': 0.0,
            'loss.gamma_damping_steps': 200.0,
        },
        'codinet': {},
    }
    peers = {name: changes for name, changes in default.variants().items() if name not in ablations}
    for variant, fields in (ablations | peers).items():
        wanted = load(name)
        wanted.update_from_flattened_dict(fields)
        assert load(name, variant).to_dict() == wanted.to_dict()


def test_a_peer_is_had_on_our_schedule_and_on_its_authors() -> None:
    peers = [name for name in METHODS if name not in ('codinet', 'static', 'random')]
    theirs = ('convnet_aig', 'skipnet', 'skipnet_hrl', 'stochastic_gates', 'laudnet', 'blockdrop', 'act', 'early_exit')
    theirs += ('resumed',)
    assert tuple(peers) == theirs
    for variant, changes in default.variants().items():
        if changes.get('method') in peers:
            schedule = {name for name in changes if name.split('.')[0] not in ('method', 'model', 'routing', 'loss')}
            is_theirs = variant.endswith(('_authors', '_imagenet'))
            assert bool(schedule) == is_theirs == ('loss.target_cost' in changes), variant
            assert {'loss.alpha', 'loss.beta'} < set(changes), 'settings of another method would be recorded'
            if is_theirs:
                has_two_stages = changes['method'] in ('skipnet_hrl', 'blockdrop')
                assert changes['num_views'] == 1 and (changes['stage2.epochs'] > 0) == has_two_stages


# As different as can be from what any author has.
ODD = {
    'batch_size': 32,
    'num_views': 3,
    'routing.relaxation': 'softmax',
    'routing.temperature': 2.0,
    'routing.final_temperature': 0.5,
    'routing.noisy_evaluation': True,
    'routing.curriculum': 0.3,
    'routing.initial_run_rate': 0.8,
    'loss.gamma': 0.1,
    'loss.rate_weight': 3.0,
    'loss.target_rate': 0.4,
    'loss.block_rates': (0.5,) * 54,
    'loss.one_sided': True,
    'loss.policy_weight': 2.0,
    'loss.skip_reward': 1.0,
    'loss.wrong_penalties': (2.0, 3.0),
    'loss.entropy_weight': 0.3,
    'loss.ponder_weight': 0.2,
    'loss.label_smoothing': 0.1,
    'loss.target_cost': 0.6,
    'loss.extra_terms': ('mine',),
    'loss.extra_weights': (1.0,),
    'distillation.weight': 0.5,
    'distillation.temperature': 3.0,
    'distillation.teacher': 'teacher.npz',
    'distillation.teacher_depth': 20,
    'optimizer.kind': 'adam',
    'optimizer.momentum': 0.8,
    'optimizer.nesterov': True,
    'optimizer.weight_decay': 1e-3,
    'optimizer.base_batch_size': 64,
    'optimizer.router_factor': 5.0,
    'optimizer.block_factor': 0.5,
    'optimizer.ema_decay': 0.9,
} | {
    f'{stage}.{name}': value
    for stage in ('stage1', 'stage2')
    for name, value in {
        'epochs': 3.0,
        'learning_rate': 0.3,
        'warmup_epochs': 1.0,
        'decay': 'linear',
        'decay_epochs': (1.0,),
        'decay_factor': 0.5,
    }.items()
}
# Of a recipe: what is asked of a machine or seen of a run, and the weights that it starts from.
NO_SCHEDULE = {'seed', 'accumulate_steps', 'skip_nonfinite', 'init_from', 'resumes', 'eval_batch_size'} | {
    *('eval_every_epochs', 'match_every_epochs', 'log_every_steps', 'checkpoint_every_steps')
}


def schedule(config: ConfigDict) -> dict[str, Any]:
    """All that a method and its training go by, but for a second stage of no epochs and a controller of no cost."""
    named = setup.read(config)
    recipe, method = dataclasses.asdict(named.recipe), dataclasses.asdict(named.method)
    assert method['target_cost'] is None
    found = {name: value for name, value in method.items() if not name.startswith('gamma_')}
    found |= {name: value for name, value in recipe.items() if name not in NO_SCHEDULE}
    found |= {'stage2': found['stage2'] if named.recipe.stage2.epochs else None}
    return found | {'initial_run_rate': named.model.initial_run_rate}


@pytest.mark.parametrize('variant', [name for name in default.variants() if name.endswith(('_authors', '_imagenet'))])
def test_authors_have_their_schedule_whatever_the_config(variant: str) -> None:
    theirs = schedule(load('default', variant))
    assert (theirs['num_views'], theirs['ema_decay'], theirs['distillation_weight']) == (1, 0.0, 0.0)
    odd = default.get_config()
    odd.update_from_flattened_dict(ODD)
    assert schedule(default.with_variant(odd, variant)) == theirs
    for name in NAMES:
        assert schedule(load(name, variant)) == theirs, name


PRICE = 'gamma gamma_gain gamma_damping_steps gamma_window gamma_max'
READ = {  # of the settings that are not of all methods
    'codinet': f'{PRICE} alpha beta consistency_margin diversity_margin noise_free relaxation temperature',
    'static': '',
    'random': PRICE,
    'convnet_aig': f'{PRICE} rate_weight target_rate block_rates temperature noisy_evaluation',
    'skipnet': f'{PRICE} relaxation temperature',
    'skipnet_hrl': f'{PRICE} relaxation temperature skip_reward policy_weight',
    'stochastic_gates': f'{PRICE} rate_weight target_rate one_sided temperature noisy_evaluation',
    'laudnet': f'{PRICE} rate_weight target_rate temperature final_temperature',
    'blockdrop': f'{PRICE} wrong_penalties entropy_weight policy_weight curriculum',
    'act': f'{PRICE} ponder_weight',
    'early_exit': 'exit_weight',
    'resumed': 'exit_weight',
}
OF_ALL = {'target_cost', 'label_smoothing', 'extra_terms', 'extra_weights', 'initial_run_rate'}


@pytest.mark.parametrize('method', READ)
def test_of_a_setting_that_the_method_never_reads_it_is_said(method: str) -> None:
    config = load('digits_r14', method)
    config.loss.target_cost = 0.7
    names = [f'{section}.{name}' for section in ('loss', 'routing') for name in config[section]]
    read = {name for name in names if name.rpartition('.')[2] in OF_ALL | set(READ[method].split())}
    if method == 'static':
        read.remove('routing.initial_run_rate')
    if READ[method].startswith(PRICE):
        read.add('optimizer.router_factor')
    assert not list(unread(config, read))
    for name in {'optimizer.router_factor', *names} - read:
        (sentence,) = unread(config, [name])
        assert re.match(rf'{re.escape(name)} changes nothing: .*(method=|that is ){method}\b', sentence)


@pytest.mark.parametrize(
    ('name', 'needed'),
    [('match_every_epochs', 'loss.target_cost'), ('distillation.temperature', 'distillation.weight')],
)
def test_of_a_setting_of_another_that_is_unset_it_is_said(name: str, needed: str) -> None:
    sentence = f'{name} changes nothing: it is read where {needed} is set.'
    assert list(unread(changed('digits_r14', loss__target_cost=None), [name])) == [sentence]
    assert not list(unread(changed('digits_r14', distillation__weight=0.5), [name]))


@pytest.mark.parametrize(
    ('name', 'changes', 'why'),
    [
        ('model.stride_on', {}, 'it is of model.backbone=imagenet_resnet, and that is cifar_resnet'),
        ('stage1.decay_epochs', {'stage1__decay': 'cosine'}, 'it is of stage1.decay=steps, and that is cosine'),
        ('stage2.decay_factor', {'stage2__decay': 'linear'}, 'it is of stage2.decay=steps, and that is linear'),
        ('loss.target_rate', {'loss__block_rates': (0.5,) * 6}, 'loss.block_rates has one for each block'),
        ('stage2.decay_factor', {'stage2__epochs': 0.0}, 'it is read where stage2.epochs is set'),
    ],
)
def test_of_a_setting_that_another_leaves_unread_it_is_said(name: str, changes: dict[str, Any], why: str) -> None:
    config = load('digits_r14', 'convnet_aig')
    config.update_from_flattened_dict({key.replace('__', '.'): value for key, value in changes.items()})
    assert list(unread(config, [name])) == [f'{name} changes nothing: {why}.']
    others = {'model.shortcut', 'stage1.decay_epochs', 'stage2.decay_factor', 'loss.target_rate'} - {name}
    assert not list(unread(config, others))


@pytest.mark.parametrize(
    ('variant', 'changes', 'why'),
    [
        ('codinet', {}, None),
        ('codinet', {'stage2.epochs': 0.0}, 'stage2.epochs is set'),
        ('early_exit', {}, None),
        ('blockdrop', {}, 'stage 2 freezes routers, and method=blockdrop does not'),
        ('skipnet_hrl', {}, 'stage 2 freezes routers, and method=skipnet_hrl does not'),
        ('skipnet_hrl', {'loss.gamma': -1.0}, None),  # refused later
    ],
)
def test_where_the_cost_is_not_matched_within_stage_2_it_is_said(
    variant: str, changes: dict[str, Any], why: str | None
) -> None:
    config = load('digits_r14', variant)
    config.update_from_flattened_dict(changes)
    sentences = [f'match_every_epochs changes nothing: it is read where {why}.'] if why else []
    assert list(unread(config, ['match_every_epochs'])) == sentences


def test_of_consistency_between_one_view_it_is_said() -> None:
    sentence = 'loss.alpha changes nothing: it is of the views of an image, and num_views is 1.'
    assert list(unread(changed(num_views=1), ['loss.alpha', 'loss.beta'])) == [sentence]
    assert not list(unread(changed(num_views=2), ['loss.alpha']))


@pytest.mark.parametrize(
    ('method', 'name', 'value'),
    [
        ('convnet_aig', 'loss.target_rate', 0.5),
        ('convnet_aig', 'loss.block_rates', (0.5,) * 6),
        ('early_exit', 'routing.initial_run_rate', 0.8),
    ],
)
def test_of_a_setting_that_gives_way_to_a_wanted_cost_of_the_config_it_is_said(
    method: str, name: str, value: Any
) -> None:
    config = load('digits_r14', method)
    config.update_from_flattened_dict({name: value})
    (sentence,) = unread(config, [name])
    assert sentence.startswith(f'{name} gives way to loss.target_cost, which the config sets to 0.7: ')
    assert not list(unread(config, [name, 'loss.target_cost']))
    config.loss.target_cost = None
    assert not list(unread(config, [name]))


@pytest.mark.parametrize(('method', 'name'), [('laudnet', 'loss.target_rate'), ('random', 'routing.initial_run_rate')])
def test_what_agrees_with_a_wanted_cost_or_is_moved_by_it_does_not_give_way(method: str, name: str) -> None:
    config = load('digits_r14', method)
    assert (config.loss.target_rate, config.loss.target_cost) == (0.7, 0.7)
    assert not list(unread(config, [name]))


def test_of_a_teacher_that_no_stage_hears_it_is_said() -> None:
    taught = {'distillation__weight': 0.5, 'stage2__epochs': 0.0}
    sentence = 'distillation.weight changes nothing: with method=blockdrop it is read where stage2.epochs is set.'
    config = default.with_variant(changed('digits_r14', **taught), 'blockdrop')
    assert list(unread(config, ['distillation.weight'])) == [sentence]
    assert not list(unread(changed('digits_r14', **taught), ['distillation.weight']))


@pytest.mark.parametrize(
    ('method', 'name', 'stages'),
    [
        ('codinet', 'loss.beta', [1]),
        ('codinet', 'loss.gamma_gain', [1]),
        ('codinet', 'optimizer.router_factor', [1]),
        ('codinet', 'loss.extra_terms', [1]),
        ('laudnet', 'loss.rate_weight', [1]),
        ('blockdrop', 'routing.curriculum', [1]),
        ('blockdrop', 'loss.entropy_weight', [1]),
        ('blockdrop', 'loss.gamma_gain', [2]),
        ('blockdrop', 'optimizer.block_factor', [2]),
        ('blockdrop', 'optimizer.router_factor', [1, 2]),
        ('skipnet_hrl', 'loss.skip_reward', [2]),
        ('skipnet_hrl', 'loss.policy_weight', [2]),
    ],
)
def test_of_a_setting_of_stages_that_are_left_out_it_is_said(method: str, name: str, stages: list[int]) -> None:
    config = load('digits_r14', method)
    for stage in {1, 2} - set(stages):
        config[f'stage{stage}'].epochs = 0.0
    assert not list(unread(config, [name]))
    for stage in stages:
        config[f'stage{stage}'].epochs = 0.0
    needed = ' or '.join(f'stage{stage}.epochs' for stage in stages)
    sentence = f'{name} changes nothing: with method={method} it is read where {needed} is set.'
    assert list(unread(config, [name])) == [sentence]


@pytest.mark.parametrize(
    ('method', 'name'),
    [
        ('codinet', 'loss.target_cost'),
        ('codinet', 'routing.relaxation'),
        ('codinet', 'routing.initial_run_rate'),
        ('codinet', 'optimizer.block_factor'),
        ('convnet_aig', 'routing.noisy_evaluation'),
        ('early_exit', 'loss.exit_weight'),
        ('blockdrop', 'loss.policy_weight'),
        ('skipnet_hrl', 'routing.temperature'),
    ],
)
def test_what_is_read_without_the_first_stage_is_not_said_to_be_unread(method: str, name: str) -> None:
    config = load('digits_r14', method)
    config.stage1.epochs = 0.0
    assert not list(unread(config, ['loss.target_cost', name]))


def test_whoever_gives_one_is_told() -> None:
    given = ('--config.routing.noisy_evaluation=true', '--config.loss.target_cost=1.5')
    told, refused = helpers.run_command('main', '--config=digits_r14:laudnet', *given).stderr.splitlines()
    assert told.startswith('warning: routing.noisy_evaluation changes nothing: it is of')
    assert refused.startswith('error: loss.target_cost is 1.5')


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'vanila'.*codinet, vanilla, consistency, static, random"):
        load('digits_r14', 'vanila')


@pytest.mark.parametrize(('field', 'value'), BAD)
def test_a_bad_setting_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=field.replace('.', r'\.').replace('dataset', 'Data set')):
        setup.read(changed(**{field.replace('.', '__'): value}))


@pytest.mark.parametrize(('field', 'value'), [('model.depth', 20), ('model.stride_on', '7x7')])
def test_a_bad_bottleneck_setting_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=re.escape(field)):
        setup.read(changed('imagenet_r50', **{field.replace('.', '__'): value}))


@pytest.mark.parametrize('variant', ['convnet_aig', 'laudnet', 'stochastic_gates', 'independent_gates'])
def test_a_run_rate_that_a_config_asks_for_is_asked_for_by_every_method(variant: str) -> None:
    asked = cifar10_r56_pretrained.get_config(variant).loss
    assert asked.target_rate == asked.target_cost
    assert digits_r14.get_config(variant).loss.target_rate == 0.7


def test_what_is_drawn_in_evaluation_is_drawn_at_the_same_temperature() -> None:
    with pytest.raises(InputError, match='leave temperature at 1'):
        setup.read(changed(routing__relaxation='sampling', routing__temperature=5.0))


def test_a_term_may_not_hide_behind_a_metric() -> None:
    with pytest.raises(InputError, match="'agreement' is a metric of every step"):
        terms.register('agreement', lambda seen: seen.logits)


def test_a_term_that_nobody_registered_is_refused() -> None:
    with pytest.raises(InputError, match=r"no loss term 'rates'"):
        setup.read(changed(loss__extra_terms=('rates',), loss__extra_weights=(1.0,)))


def test_a_static_network_cannot_be_asked_for_a_cost() -> None:
    with pytest.raises(InputError, match=r'loss\.target_cost'):
        setup.read(changed(method='static', model__router='static', loss__target_cost=0.5))


def test_what_is_recorded_is_the_config(tmp_path: Path) -> None:
    config = changed('digits_r14', loss__beta=0.5, data_dir=str(tmp_path))
    record = setup.read(config).record
    assert default.of_record(record).to_dict() == ConfigDict(json.loads(config.to_json())).to_dict()
    assert setup.read(default.of_record(record)).record == record


def test_a_near_miss_is_answered_with_what_was_meant() -> None:
    with pytest.raises(InputError, match=r'Did you mean linear\?'):
        setup.read(changed(model__router='lineer'))
    with pytest.raises(InputError, match=r'model\.depth is 21.*: try 20\.'):
        setup.read(changed(model__depth=21))


def test_gamma_is_bounded_where_it_is_moved() -> None:
    setup.read(changed(loss__gamma=20.0))
    with pytest.raises(InputError, match=r'^loss\.gamma_max is 10\.0; it must be finite and at least 20\.0'):
        setup.read(changed(loss__gamma=20.0, loss__target_cost=0.7))


def test_a_target_must_lie_above_what_skipping_everything_costs() -> None:
    table = setup.read(load('cifar10_r20')).costs
    floor = table.fixed_macs / table.static_macs
    setup.read(changed('cifar10_r20', loss__target_cost=floor * 1.01))
    with pytest.raises(InputError, match=rf'loss\.target_cost .* costs {floor:.3f}\.'):
        setup.read(changed('cifar10_r20', loss__target_cost=floor * 0.99))


def test_values_at_the_edge_of_what_is_allowed_pass() -> None:
    edge = {'loss__alpha': 0.0, 'loss__beta': 0.0, 'loss__consistency_margin': 0.0, 'val_split': 0.0, 'num_views': 1}
    setup.read(changed(**edge, stage1__decay_epochs=(), stage2__epochs=0.0, loss__target_cost=1.0))


@pytest.mark.parametrize(
    ('batch_size', 'num_devices', 'num_parts', 'near'), [(64, 3, 1, 63), (2, 8, 1, 8), (100, 8, 1, 96), (64, 4, 3, 60)]
)
def test_a_batch_that_cannot_be_spread_is_refused(batch_size: int, num_devices: int, num_parts: int, near: int) -> None:
    parts = {'accumulate_steps': num_parts}
    with pytest.raises(InputError, match=rf'batch_size {batch_size} .*batch_size={near}\.'):
        setup.read(changed(batch_size=batch_size, **parts)).recipe.check_devices(num_devices)
    setup.read(changed(batch_size=near, **parts)).recipe.check_devices(num_devices)


def test_train_images_are_the_first_of_train_and_leave_the_test_split_whole(tmp_path: Path) -> None:
    config = default.get_config()
    config.update({'dataset': 'digits', 'data_dir': str(tmp_path)})
    data = setup.read(config).data
    everything, test = data.open('train'), data.open('test')
    config.train_images = 100
    first = setup.read(config).data
    few = first.open('train')
    assert isinstance(everything, ImageSet) and isinstance(few, ImageSet) and few.num_images == 100
    np.testing.assert_array_equal(few.images_NxHxWxC, everything.images_NxHxWxC[:100])
    np.testing.assert_array_equal(few.labels_N, everything.labels_N[:100])
    assert first.open('test').num_images == test.num_images == 355


def test_blocks_are_unrolled_but_on_tpus_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for platform, unroll in (('cpu', 6), ('gpu', 6), ('tpu', 1)):
        monkeypatch.setattr(jax, 'default_backend', lambda platform=platform: platform)
        assert setup.read(load('digits_r14')).model.unroll == unroll
        assert setup.read(changed('digits_r14', model__unroll=2)).model.unroll == 2


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'method': 'random', 'loss__target_cost': None}, r'method=random is of model\.router=random'),
        ({'routing__relaxation': 'drawn'}, r'^routing\.relaxation is drawn, which has no gradient'),
        ({'loss__extra_terms': ('a', 'a'), 'loss__extra_weights': (1.0, 1.0)}, 'name each term once'),
    ],
)
def test_what_would_be_trained_under_a_false_name_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        setup.read(changed(**changes))


@pytest.mark.parametrize(
    'changes',
    [
        {'loss__wrong_penalties': ('x', 'y')},
        {'method': 'rates', 'loss__block_rates': ('x',)},
        {'mean': ('a',), 'std': (1.0,)},
        {'stage1__decay_epochs': (True,)},
    ],
)
def test_tuples_of_numbers_take_no_text(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r'is \(.*\); it must be of numbers'):
        setup.read(changed(**changes))
