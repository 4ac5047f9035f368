"""Settings that were given and change nothing, because the method does not have them or what they belong to is off;
and those that give way to a wanted cost of the config.
"""

import operator
from collections.abc import Collection, Iterator

from ml_collections import ConfigDict

from codinet_jax.config import setup
from codinet_jax.methods import METHODS
from codinet_jax.methods.method import HARD_STAGE
from codinet_jax.runtime.errors import InputError

# Settings that are read whatever the method, among those that are methods' own.
OF_ALL = ('routing.initial_run_rate', 'loss.label_smoothing', 'loss.extra_terms', 'loss.extra_weights')
# Settings that are read where another is set.
OF_OTHERS = {
    'loss.gamma_gain': 'loss.target_cost',
    'loss.gamma_damping_steps': 'loss.target_cost',
    'loss.gamma_window': 'loss.target_cost',
    'loss.gamma_max': 'loss.target_cost',
    'distillation.temperature': 'distillation.weight',
    **{
        f'{stage}.{name}': f'{stage}.epochs'
        for stage in ('stage1', 'stage2')
        for name in ('learning_rate', 'warmup_epochs', 'decay', 'decay_epochs', 'decay_factor')
    },
}
# Settings that are read where another is of one kind.
OF_KINDS = {
    'model.shortcut': ('model.backbone', 'cifar_resnet'),
    'model.stride_on': ('model.backbone', 'imagenet_resnet'),
    **{
        f'{stage}.{name}': (f'{stage}.decay', 'steps')
        for stage in ('stage1', 'stage2')
        for name in ('decay_epochs', 'decay_factor')
    },
}
# Settings that are read in stages that do not freeze these.
UNLESS_FROZEN = {
    'optimizer.router_factor': ('routers',),
    'optimizer.block_factor': ('backbone',),
    'loss.extra_terms': ('routers',),
    'loss.extra_weights': ('routers',),
    **{
        f'loss.{name}': ('routers', 'backbone')
        for name in ('gamma_gain', 'gamma_damping_steps', 'gamma_window', 'gamma_max')
    },
}
# Methods' own that are read after training, too.
OF_EVALUATION = ('loss.target_cost', 'routing.relaxation', 'routing.noisy_evaluation')


def unread(config: ConfigDict, names: Collection[str]) -> Iterator[str]:
    """A sentence on each of these settings, which were given, that nothing reads or that gives way, by dotted name."""
    method = METHODS.get(config.method)
    if method is None:
        return  # refused where the config is read
    for name in names:
        section, _, field = name.rpartition('.')
        if section in ('loss', 'routing') and name not in OF_ALL and field not in method.settings():
            owners = [owner for owner, kind in METHODS.items() if field in kind.settings()]
            yield f'{name} changes nothing: it is of method={" or ".join(owners)}, and that is {config.method}.'
        elif name == 'optimizer.router_factor' and not method.learns_routes:
            yield f'{name} changes nothing: no router of method={config.method} learns.'
        elif name == 'routing.initial_run_rate' and not method.is_routed:
            yield f'{name} changes nothing: method={config.method} has no routers.'
        elif name == 'loss.target_rate' and config.loss.block_rates and 'block_rates' in method.settings():
            yield f'{name} changes nothing: loss.block_rates has one for each block.'
        elif 'loss.target_cost' not in names and _gives_way(config, name):
            yield (
                f'{name} gives way to loss.target_cost, which the config sets to {config.loss.target_cost:g}: that is '
                'what the mean image costs in the end; set it as well, or to None.'
            )
        elif name in ('loss.alpha', 'loss.consistency_margin') and config.num_views == 1:
            yield f'{name} changes nothing: it is of the views of an image, and num_views is 1.'
        elif name == 'match_every_epochs' and (needed := _needed_to_match(config)):
            yield f'{name} changes nothing: it is read where {needed}.'
        elif needed := _needed_stages(config, name):
            yield f'{name} changes nothing: with method={config.method} it is read where {needed} is set.'
        elif name in OF_KINDS and (found := operator.attrgetter(OF_KINDS[name][0])(config)) != OF_KINDS[name][1]:
            yield f'{name} changes nothing: it is of {"=".join(OF_KINDS[name])}, and that is {found}.'
        elif name in OF_OTHERS and not operator.attrgetter(OF_OTHERS[name])(config):
            yield f'{name} changes nothing: it is read where {OF_OTHERS[name]} is set.'


def _needed_to_match(config: ConfigDict) -> str | None:
    """What is not so, and would have to be for the cost to be matched within stage 2."""
    for needed in ('loss.target_cost', 'stage2.epochs'):
        if not operator.attrgetter(needed)(config):
            return f'{needed} is set'
    try:
        _, last = setup.method_of(config).stages()
    except InputError:  # refused where the config is read
        return None
    return None if last.frozen == 'routers' else f'stage 2 freezes routers, and method={config.method} does not'


def _needed_stages(config: ConfigDict, name: str) -> str | None:
    """The stages that alone read a setting, if none of them is to be trained."""
    left_out = {number for number in (1, 2) if not config[f'stage{number}'].epochs}
    numbers = _read_in(config, name) if left_out else ()
    if not left_out.issuperset(numbers):
        return None
    return ' or '.join(f'stage{number}.epochs' for number in numbers)


def _read_in(config: ConfigDict, name: str) -> tuple[int, ...]:
    """The stages that alone read a setting; none where that is not known, or others read it too."""
    kind, (section, _, field) = METHODS[config.method], name.rpartition('.')
    if section == 'distillation':
        return kind.taught_in
    if field in kind.read_in:
        return kind.read_in[field]
    is_of_method = section in ('loss', 'routing') and name not in (*OF_ALL, *OF_EVALUATION)
    if not is_of_method and name not in UNLESS_FROZEN:
        return ()
    try:
        stages = setup.method_of(config).stages()
    except InputError:  # refused where the config is read
        return ()
    if name in UNLESS_FROZEN:
        return tuple(number for number, rules in enumerate(stages, 1) if rules.frozen not in UNLESS_FROZEN[name])
    return (1,) if stages[1] is HARD_STAGE else ()


def _gives_way(config: ConfigDict, name: str) -> bool:
    """Whether a setting says how much is to run, and the wanted cost says otherwise."""
    target, loss = config.loss.target_cost, config.loss
    says_otherwise = {
        'loss.target_rate': loss.target_rate != target,
        'loss.block_rates': bool(loss.block_rates),
        'routing.initial_run_rate': not METHODS[config.method].learns_routes,  # nothing else moves it
    }
    return target is not None and says_otherwise.get(name, False)
