"""Every network that the paper's tables and figures need, each trained once however many of them it stands in."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Trained(NamedTuple):
    """A network to train: a config file with its variant, and what is changed in it.

    `cost_of` names another one whose cost it is to have: by `loss.target_cost`, or, if it is static, by its depth.
    `starts_from` names one whose weights it starts from; if `is_pruned`, without the blocks that are missed least, and
    all its training is to heal. `given` is a file of trained weights, which are evaluated as they are where there is
    one. `cascade_of` names networks, cheapest first, of which it is made without any training. No scale makes it
    shallower than `least_depth`.
    """

    config: str
    changes: Mapping[str, Any] = MappingProxyType({})
    cost_of: str | None = None
    starts_from: str | None = None
    is_pruned: bool = False
    given: str | None = None
    cascade_of: tuple[str, ...] = ()
    least_depth: int = 8


MARGINS = (0.25, 0.5, 0.75, 1.0)
GAMMAS = (0.0, 0.01, 0.02, 0.04, 0.1)
R110 = 'configs/cifar10_r110.py'


def margin(m_d: float) -> str:
    """The network of Table 8 with this margin of diversity."""
    return 'cifar10_r110_codinet' if m_d == 0.5 else f'cifar10_r110_margin_{m_d:g}'


def weight(gamma: float) -> str:
    """The network of Table 5 with this weight of cost."""
    return 'cifar10_r110_codinet' if gamma == 0 else f'cifar10_r110_gamma_{gamma:g}'


RUNS = {
    f'{name}_{variant}': Trained(f'configs/{name}.py:{variant}')
    for name in (
        *('cifar10_r32', 'cifar10_r74', 'cifar10_r110', 'cifar100_r32', 'cifar100_r74', 'cifar100_r110'),
        *('svhn_r110', 'imagenet_r50'),
    )
    for variant in ('static', 'vanilla', 'codinet')
}
RUNS['cifar10_r110_consistency'] = Trained(f'{R110}:consistency')
RUNS['cifar10_r110_random'] = Trained(f'{R110}:random', cost_of='cifar10_r110_codinet')
RUNS['cifar10_r110_equal_macs'] = Trained(f'{R110}:static', cost_of='cifar10_r110_codinet')
RUNS |= {margin(m_d): Trained(R110, {'loss.diversity_margin': m_d}) for m_d in MARGINS if m_d != 0.5}
RUNS |= {weight(gamma): Trained(R110, {'loss.gamma': gamma}) for gamma in GAMMAS if gamma}
RUNS['cifar10_r110_few_blocks'] = Trained(R110, {'loss.beta': 1.0, 'loss.diversity_margin': 1.0})
RUNS |= {
    f'cifar10_r110_{relaxation}': Trained(f'{R110}:vanilla', {'routing.relaxation': relaxation})
    for relaxation in ('softmax', 'sampling')
}
RUNS |= {
    f'digits_r14_{variant}': Trained(f'configs/digits_r14.py:{variant}')
    for variant in ('static', 'vanilla', 'codinet', 'random')
}
# Methods at one cost. `static` of the paper's tables is the row beside them.
PEERS = {
    'random': 'random skipping',
    'vanilla': 'vanilla',
    'codinet': 'CoDiNet',
    'convnet_aig': 'ConvNet-AIG',
    'stochastic_gates': 'stochastic gates',
    'independent_gates': 'independent gates',
    'skipnet': 'SkipNet, RNN gate',
    'skipnet_hrl': 'SkipNet, RNN gate, by reinforcement',
    'skipnet_feedforward2': 'SkipNet, FFGate-II',
    'laudnet': 'LAUDNet, layers',
    'act': 'ACT',
    'early_exit': 'early exits',
}
RUNS |= {f'peers_{variant}': Trained(f'{R110}:{variant}', {'loss.target_cost': 0.7}) for variant in PEERS}
# Of one block a stage an image halts nowhere.
RUNS['peers_act'] = RUNS['peers_act']._replace(least_depth=14)
# At a cost of its own: on a small network its policy alone may cost more than that.
RUNS['peers_blockdrop'] = Trained(f'{R110}:blockdrop', {'loss.target_cost': None}, starts_from='cifar10_r110_static')
RUNS |= {
    f'{name}_{router}': Trained(f'configs/{name}.py', {'model.router': router})
    for name in ('cifar10_r74', 'cifar10_r110')
    for router in ('conv', 'recurrent')
}
# Trained networks made to cost what a smaller one does, all from the same weights and by the same recipe.
R56, R32 = 'configs/cifar10_r56_pretrained.py', 'configs/cifar10_r32_pretrained.py'
RUNS |= {
    f'pretrained_r{depth}': Trained(f'{config}:static', given=f'resnet{depth}.npz')
    for depth, config in ((20, 'configs/cifar10_r20.py'), (32, R32), (56, R56))
}
RUNS['pretrained_r32_static'] = Trained(f'{R32}:static', starts_from='pretrained_r32')
RUNS['pretrained_r56_pruned'] = Trained(f'{R56}:independent_gates', starts_from='pretrained_r56', is_pruned=True)
RUNS |= {
    f'pretrained_r56_{variant}': Trained(f'{R56}:{variant}', starts_from='pretrained_r56')
    for variant in ('independent_gates', 'random', 'vanilla', 'convnet_aig')
}
RUNS['pretrained_r56_codinet'] = Trained(
    R56,
    {
        'routing.relaxation': 'gumbel_softmax',
        'loss.noise_free': False,
        'loss.beta': 0.2,
        'loss.diversity_margin': 0.5,
    },
    starts_from='pretrained_r56',
)
RUNS['pretrained_r56_configured'] = Trained(R56, starts_from='pretrained_r56')
# Other authors' methods beside it, from the same weights; BlockDrop once more at a cost of its own.
RUNS |= {
    f'pretrained_r32_{variant}': Trained(f'{R32}:{variant}', starts_from='pretrained_r32')
    for variant in ('codinet', 'convnet_aig', 'skipnet', 'laudnet')
}
RUNS['pretrained_r32_blockdrop'] = Trained(f'{R32}:blockdrop', {'loss.target_cost': None}, starts_from='pretrained_r32')
RUNS['pretrained_cascade'] = Trained(R56, cascade_of=('pretrained_r20', 'pretrained_r56'))
