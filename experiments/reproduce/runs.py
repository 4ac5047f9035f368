"""Every network that the paper's tables and figures need, each trained once however many of them it stands in."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Trained(NamedTuple):
    """A network to train: a config file with its variant, and what is changed in it.

    `cost_of` names another one whose cost it is to have: by `loss.target_cost`, or, if it is static, by its depth;
    `start_of`, in its place, one whose weights it starts from.
    """

    config: str
    changes: Mapping[str, Any] = MappingProxyType({})
    cost_of: str | None = None
    start_of: str | None = None


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
    for name in ('cifar10_r32', 'cifar10_r74', 'cifar10_r110', 'cifar100_r32', 'cifar100_r74', 'cifar100_r110')
    for variant in ('static', 'vanilla', 'codinet')
}
RUNS |= {
    f'{name}_{variant}': Trained(f'configs/{name}.py:{variant}')
    for name in ('svhn_r110', 'imagenet_r50')
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
# At a cost of its own: on a small network its policy alone may cost more than that.
RUNS['peers_blockdrop'] = Trained(f'{R110}:blockdrop', {'loss.target_cost': None}, start_of='cifar10_r110_static')
RUNS |= {
    f'{name}_{router}': Trained(f'configs/{name}.py', {'model.router': router})
    for name in ('cifar10_r74', 'cifar10_r110')
    for router in ('conv', 'recurrent')
}
