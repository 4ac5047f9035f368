"""Loss terms of one's own, added to a method's objective by name."""

from collections.abc import Callable, Mapping

import jax

from codinet_jax.methods.method import Objective, Seen, Term
from codinet_jax.runtime.errors import InputError

LossTerm = Callable[[Seen], jax.Array]
TERMS: dict[str, LossTerm] = {}
RESERVED = (  # what a step's metrics hold beside the terms of its objective
    *('loss', 'accuracy', 'gradient_norm', 'learning_rate', 'gamma', 'skipped'),
    *('mean_path_length', 'macs_share', 'num_paths', 'route_entropy', 'agreement', 'run_rates_n'),
)


def register(name: str, term: LossTerm) -> None:
    """Adds a loss, a float32 scalar of what was seen, under a name that a config's `loss.extra_terms` can list.

    Raises:
      InputError: another one has this name, or a metric of every step.
    """
    if name in RESERVED:
        raise InputError(f'{name!r} is a metric of every step: register your loss term under another name.')
    if TERMS.setdefault(name, term) is not term:
        raise InputError(f'There is a loss term {name!r} already: register yours under another name.')


def check(name: str) -> None:
    """Refuses a name that is not registered.

    Raises:
      InputError: it is not.
    """
    if name not in TERMS:
        known = f'it must be one of {", ".join(TERMS)}' if TERMS else 'none is registered'
        raise InputError(f'There is no loss term {name!r}; {known}.')


def extended(objective: Objective, weights: Mapping[str, float]) -> Objective:
    """The objective with registered terms, by name and weight."""
    if not weights:
        return objective

    def objective_and_more(seen: Seen) -> dict[str, Term]:
        own = objective(seen)
        if taken := own.keys() & weights.keys():
            raise InputError(f'The method has a loss term {min(taken)!r} already: register yours under another name.')
        return own | {name: Term(TERMS[name](seen), weight) for name, weight in weights.items()}

    return objective_and_more
