"""What several runs come to beside each other: a headline for each, and sentences on which is ahead and by how much."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from codinet_jax.analysis.style import listed
from codinet_jax.runtime.console import plural

LARGEST_P = 0.05  # of all pairs together, for two runs to be said to differ
MOST_PAIRS = 3  # that are named

Statistics = Mapping[str, Any]


def headlines(found: Mapping[str, Sequence[Statistics]]) -> list[tuple[str, str, str]]:
    """Of each name its accuracy, and under it its cost and its routes; of seeds the means."""
    return [(_called(name, seeds), f'{_mean(seeds, "top1"):.2%}', _cost(seeds)) for name, seeds in found.items()]


def compared(
    found: Mapping[str, Sequence[Statistics]], pairs: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[str]:
    """Who is ahead, and whether that is more than chance.

    Args:
      found: the numbers of runs by their names, those of each seed.
      pairs: one name less another, as `controls.pair` has it; none of what is pooled or was shown other images.
    """
    return [_ahead(found), *_apart(pairs)]


def _called(name: str, seeds: Sequence[Statistics]) -> str:
    return f'{name}, top-1' if len(seeds) == 1 else f'{name}, top-1 ({len(seeds)} seeds)'


def _cost(seeds: Sequence[Statistics]) -> str:
    routes = plural(round(_mean(seeds, 'num_paths')), 'route')
    return f'at {_mean(seeds, "macs_share"):.1%} of the static cost, on {routes}'


def _ahead(found: Mapping[str, Sequence[Statistics]]) -> str:
    accurate, top1 = _first(found, lambda seeds: f'{_mean(seeds, "top1"):.2%}', 'top1', max)
    cheap, share = _first(found, lambda seeds: f'{_mean(seeds, "macs_share"):.1%}', 'macs_share', min)
    return f'Most accurate: {listed(accurate)}, {top1}. Cheapest: {listed(cheap)}, {share} of the static cost.'


def _first(
    found: Mapping[str, Sequence[Statistics]], written: Callable[[Sequence[Statistics]], str], key: str, best: Any
) -> tuple[list[str], str]:
    """The names that have the best mean, as it is written, and how it is written."""
    value = written(best(found.values(), key=lambda seeds: _mean(seeds, key)))
    return [name for name, seeds in found.items() if written(seeds) == value], value


def _apart(pairs: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    once = {names: pairs[names] for names in itertools.combinations(dict.fromkeys(own for own, _ in pairs), 2)}
    if not once:
        return []
    known = [names for names, pair in once.items() if pair['p_value'] <= LARGEST_P / len(once)]
    if not known:
        least = min(pair['p_value'] for pair in once.values())
        return [f'Image by image, no two differ in accuracy by more than chance (p {least:.2g} at the least).']
    known.sort(key=lambda names: -abs(once[names]['difference']))
    more = f', and {plural(len(known) - MOST_PAIRS, "more pair")}' if len(known) > MOST_PAIRS else ''
    words = [_in_words(*names, once[names]) for names in known[:MOST_PAIRS]]
    return [f'Image by image, more than chance: {"; ".join(words)}{more}.']


def _in_words(own: str, other: str, pair: Mapping[str, Any]) -> str:
    ahead, behind = (own, other) if pair['difference'] > 0 else (other, own)
    points, error = 100 * abs(pair['difference']), 100 * pair['standard_error']
    return f'{ahead} beats {behind} by {points:.2f} ± {error:.2f} points'


def _mean(seeds: Sequence[Statistics], key: str) -> float:
    return statistics.mean(float(found[key]) for found in seeds)
