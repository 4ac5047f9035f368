"""What is said first of several runs: the accuracy and cost of each, who is ahead, and whether that is chance."""

from typing import Any

import pytest

from codinet_jax.analysis.comparison import compared, headlines


def numbers(top1: float, macs_share: float, num_paths: int = 3) -> dict[str, Any]:
    return {'top1': top1, 'macs_share': macs_share, 'num_paths': num_paths}


def both_ways(**of_pairs: tuple[float, float]) -> dict[tuple[str, str], dict[str, float]]:
    """Differences and p by pairs of one-letter names."""
    pairs = {}
    for (own, other), (difference, p) in of_pairs.items():
        for names, sign in (((own, other), 1), ((other, own), -1)):
            pairs[names] = {'difference': sign * difference, 'standard_error': 0.004, 'p_value': p}
    return pairs


def test_each_run_has_a_headline_and_seeds_their_means() -> None:
    assert headlines({'a': [numbers(0.9, 0.5, 1)], 'b': [numbers(0.8, 0.3), numbers(0.82, 0.5, 8)]}) == [
        ('a, top-1', '90.00%', 'at 50.0% of the static cost, on 1 route'),
        ('b, top-1 (2 seeds)', '81.00%', 'at 40.0% of the static cost, on 6 routes'),
    ]


def test_who_is_ahead_is_named_and_all_of_those_that_are_level() -> None:
    found = {'a': [numbers(0.9, 0.5)], 'b': [numbers(0.9, 0.4)], 'c': [numbers(0.8, 0.4)]}
    assert compared(found, {}) == [
        'Most accurate: a and b, 90.00%. Cheapest: b and c, 40.0% of the static cost.',
    ]


@pytest.mark.parametrize(
    ('p', 'said'),
    [
        (0.016, 'Image by image, more than chance: c beats a by 1.20 ± 0.40 points.'),
        (0.017, 'Image by image, no two differ in accuracy by more than chance (p 0.017 at the least).'),
    ],
)
def test_of_three_pairs_one_is_more_than_chance_at_a_third_of_the_p(p: float, said: str) -> None:
    found = {name: [numbers(0.9, 0.5)] for name in 'abc'}
    assert compared(found, both_ways(ab=(0.002, 0.6), ac=(-0.012, p), bc=(-0.01, 0.02)))[1] == said


def test_of_many_pairs_the_widest_apart_are_named() -> None:
    found = {name: [numbers(0.9, 0.5)] for name in 'abcd'}
    pairs = both_ways(ab=(0.01, 0), ac=(0.03, 0), ad=(0.06, 0), bc=(0.02, 0), bd=(0.05, 0), cd=(0.04, 0))
    said = compared(found, pairs)[1]
    assert said.endswith(
        'a beats d by 6.00 ± 0.40 points; b beats d by 5.00 ± 0.40 points; c beats d by 4.00 ± 0.40 points, '
        'and 3 more pairs.'
    )
