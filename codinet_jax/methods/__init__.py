"""One file a method of routing; see `method` for what a method is."""

from codinet_jax.methods.act import ACT
from codinet_jax.methods.baselines import Random, Static
from codinet_jax.methods.blockdrop import BlockDrop
from codinet_jax.methods.codinet import CoDiNet
from codinet_jax.methods.convnet_aig import ConvNetAIG
from codinet_jax.methods.early_exit import EarlyExit
from codinet_jax.methods.laudnet import LAUDNet
from codinet_jax.methods.method import Method, Rules, Seen, Term, classification, priced_classification
from codinet_jax.methods.resumed import Resumed
from codinet_jax.methods.skipnet import SkipNet
from codinet_jax.methods.skipnet_hrl import SkipNetHRL
from codinet_jax.methods.stochastic_gates import StochasticGates
from codinet_jax.runtime.errors import InputError

__all__ = [
    'ACT',
    'METHODS',
    'BlockDrop',
    'CoDiNet',
    'ConvNetAIG',
    'EarlyExit',
    'LAUDNet',
    'Method',
    'Random',
    'Resumed',
    'Rules',
    'Seen',
    'SkipNet',
    'SkipNetHRL',
    'Static',
    'StochasticGates',
    'Term',
    'classification',
    'priced_classification',
    'register',
]

METHODS: dict[str, type[Method]] = {
    'codinet': CoDiNet,
    'static': Static,
    'random': Random,
    'convnet_aig': ConvNetAIG,
    'skipnet': SkipNet,
    'skipnet_hrl': SkipNetHRL,
    'stochastic_gates': StochasticGates,
    'laudnet': LAUDNet,
    'blockdrop': BlockDrop,
    'act': ACT,
    'early_exit': EarlyExit,
    'resumed': Resumed,
}


def register(name: str, method: type[Method]) -> None:
    """Adds a method of one's own under a name that a config's `method` can be.

    Raises:
      InputError: another one has this name.
    """
    if METHODS.setdefault(name, method) is not method:
        raise InputError(f'There is a method {name!r} already: register yours under another name.')
