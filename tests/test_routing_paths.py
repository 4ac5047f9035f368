"""What a set of decisions says, against numpy and known distributions (section 4.4)."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codinet_jax.routing import paths


def skewed_decisions(B, n, seed=0):
    """Rows that share routes now and then: each block nearly always run, or nearly never."""
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(B, n)) < rng.choice([0.03, 0.97], size=n)


def mixture(counts, n=6):
    """Route i, the binary digits of i, followed by counts[i] rows."""
    routes_Rxn = (np.arange(len(counts))[:, None] >> np.arange(n)[None, :]) & 1
    return np.repeat(routes_Rxn.astype(bool), counts, axis=0)


@pytest.mark.parametrize('jitted', [False, True])
@pytest.mark.parametrize(('B', 'n'), [(1, 1), (300, 31), (300, 32), (300, 33), (300, 64)])
def test_route_counts_are_those_of_numpy(B, n, jitted):
    decisions_Bxn = skewed_decisions(B, n)
    count = jax.jit(paths.route_counts_B) if jitted else paths.route_counts_B
    counts_B = np.asarray(count(jnp.asarray(decisions_Bxn)))
    expected = np.unique(decisions_Bxn, axis=0, return_counts=True)[1]
    assert counts_B.shape == (B,)
    np.testing.assert_array_equal(np.sort(counts_B[counts_B > 0]), np.sort(expected))
    assert counts_B.sum() == B


def test_a_whole_test_set():
    decisions_Bxn = skewed_decisions(50_000, 54)
    assert paths.num_paths(jnp.asarray(decisions_Bxn)) == len(np.unique(decisions_Bxn, axis=0))


@pytest.mark.parametrize('block', [0, 31, 32, 53])
def test_routes_that_differ_in_one_block_are_two(block):
    decisions_Bxn = np.ones((8, 54), bool)
    decisions_Bxn[5, block] = False
    assert jax.jit(paths.num_paths)(jnp.asarray(decisions_Bxn)) == 2


@pytest.mark.parametrize('value', [False, True])
def test_one_route_for_all(value):
    decisions_Bxn = jnp.full((10, 40), value)
    np.testing.assert_array_equal(paths.route_counts_B(decisions_Bxn), [10] + [0] * 9)
    assert paths.num_paths(decisions_Bxn) == 1
    assert paths.route_entropy(decisions_Bxn) == 0
    assert paths.mean_path_length(decisions_Bxn) == 40 * value


@pytest.mark.parametrize(
    ('counts', 'bits'),
    [([16, 16], 1.0), ([16, 8, 4, 2, 2], 1.875), ([1] * 32, 5.0), ([24, 8], 2 - 0.75 * np.log2(3)), ([32], 0.0)],
)
def test_entropy_of_known_distributions(counts, bits):
    decisions_Bxn = jnp.asarray(mixture(counts))
    assert jax.jit(paths.route_entropy)(decisions_Bxn) == pytest.approx(bits, abs=1e-6)
    assert jax.jit(paths.num_paths)(decisions_Bxn) == len(counts)


@pytest.mark.parametrize('axis', [0, 1], ids=['rows', 'blocks'])
def test_order_does_not_matter(axis):
    decisions_Bxn = skewed_decisions(64, 54)
    shuffled_Bxn = np.random.default_rng(1).permutation(decisions_Bxn, axis=axis)
    for measure in map(jax.jit, (paths.num_paths, paths.route_entropy, paths.mean_path_length)):
        np.testing.assert_allclose(measure(jnp.asarray(shuffled_Bxn)), measure(jnp.asarray(decisions_Bxn)), rtol=1e-5)


def test_rates_and_length_by_hand():
    decisions_Bxn = jnp.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]], bool)
    np.testing.assert_array_equal(paths.run_rates_n(decisions_Bxn), [1.0, 0.5, 0.0])
    assert paths.mean_path_length(decisions_Bxn) == 1.5


def test_agreement_by_hand():
    # Image 0: the second view follows the first, the third does not. Image 1: both do.
    decisions_LxMxn = jnp.array([[[1, 0], [1, 0], [1, 1]], [[0, 1], [0, 1], [0, 1]]], bool)
    assert paths.agreement(decisions_LxMxn) == 0.75
    # Views that agree with each other, but not with the first, agree with nothing.
    assert paths.agreement(jnp.array([[[1, 0], [0, 0], [0, 0]]], bool)) == 0
    assert paths.agreement(decisions_LxMxn[:, :1]) == 1


def test_agreement_against_loops():
    decisions_LxMxn = np.random.default_rng(2).uniform(size=(20, 4, 5)) < 0.9
    same = [(decisions_LxMxn[i, j] == decisions_LxMxn[i, 0]).all() for i in range(20) for j in range(1, 4)]
    assert jax.jit(paths.agreement)(jnp.asarray(decisions_LxMxn)) == pytest.approx(np.mean(same))
    reordered_LxMxn = decisions_LxMxn[::-1][:, [0, 3, 1, 2]]
    assert paths.agreement(jnp.asarray(reordered_LxMxn)) == pytest.approx(np.mean(same))


@pytest.mark.parametrize(
    'measure', [paths.route_counts_B, paths.num_paths, paths.route_entropy, paths.run_rates_n, paths.mean_path_length]
)
def test_the_same_under_jit(measure):
    decisions_Bxn = jnp.asarray(skewed_decisions(64, 54))
    np.testing.assert_allclose(jax.jit(measure)(decisions_Bxn), measure(decisions_Bxn), rtol=1e-6)


@pytest.mark.parametrize(
    ('counts', 'share', 'routes'),
    [
        ([5, 3, 2], 0.5, 1),  # the first route holds exactly half
        ([5, 3, 2], 0.51, 2),
        ([4, 3, 3], 0.5, 2),
        ([2, 3, 5], 0.8, 2),  # exactly again, and the most used comes last
        ([9, 1], 0.9, 1),
        ([89, 10, 1], 0.9, 2),
        ([1] * 10, 0.9, 9),
        ([98, 1, 1], 0.99, 2),
        ([10], 0.99, 1),
        ([5, 3, 2], 1.0, 3),
        ([5, 3, 2], 0.0, 1),  # there is no fewer than one
    ],
)
def test_coverage_by_hand(counts: list[int], share: float, routes: int) -> None:
    decisions_Bxn = np.random.default_rng(0).permutation(mixture(counts))
    assert paths.coverage(jnp.asarray(decisions_Bxn), share) == routes


def test_coverage_of_a_share_is_the_same_under_jit() -> None:
    decisions_Bxn = jnp.asarray(mixture([5, 3, 2]))
    for share, routes in ((0.5, 1), (0.51, 2), (1.0, 3)):
        assert jax.jit(paths.coverage, static_argnums=1)(decisions_Bxn, share) == routes


@settings(deadline=None, max_examples=60)
@given(per_cent=st.integers(0, 100), seed=st.integers(0, 2**32))
@example(per_cent=7, seed=0)  # 0.07 * 100 is more than 7
def test_coverage_is_that_of_a_counter(per_cent: int, seed: int) -> None:
    decisions_Bxn = skewed_decisions(100, 54, seed)
    held, routes = 0, 0
    for _, count in Counter(map(tuple, decisions_Bxn.tolist())).most_common():
        if routes == 0 or 100 * held < per_cent * 100:
            held, routes = held + count, routes + 1
    assert paths.coverage(jnp.asarray(decisions_Bxn), per_cent / 100) == routes


@pytest.mark.parametrize('B', [10, 1442, 26_032, 50_000])
def test_a_route_that_holds_just_the_share_is_enough_and_one_row_fewer_is_not(B: int) -> None:
    for per_cent in (50, 90, 99):
        enough = -(-per_cent * B // 100)
        for held in (enough, enough - 1):
            if 2 * held < B:
                continue  # then the other route is the more used one
            decisions_Bxn = jnp.asarray(mixture([held, B - held], 1))
            assert paths.coverage(decisions_Bxn, per_cent / 100) == (1 if held == enough else 2)


def test_distances_by_hand() -> None:
    decisions_Bxn = jnp.array([[1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]], bool)
    others_Bxn = jnp.array([[1, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]], bool)
    np.testing.assert_array_equal(paths.distances_B(decisions_Bxn, others_Bxn), [0, 1, 3, 1])


@pytest.mark.parametrize('jitted', [False, True])
@pytest.mark.parametrize('n', [1, 32, 33, 54])
def test_distances_are_those_of_loops(n: int, jitted: bool) -> None:
    decisions_Bxn, others_Bxn = skewed_decisions(50, n), skewed_decisions(50, n, seed=1)
    others_Bxn[7], others_Bxn[8] = decisions_Bxn[7], ~decisions_Bxn[8]
    measure = jax.jit(paths.distances_B) if jitted else paths.distances_B
    distances_B = np.asarray(measure(jnp.asarray(decisions_Bxn), jnp.asarray(others_Bxn)))
    rows = zip(decisions_Bxn.tolist(), others_Bxn.tolist(), strict=True)
    assert distances_B.tolist() == [sum(u != other for u, other in zip(*row, strict=True)) for row in rows]
    assert distances_B[7] == 0 and distances_B[8] == n
    assert np.issubdtype(distances_B.dtype, np.integer)


def test_distances_are_a_metric() -> None:
    rows = [jnp.asarray(skewed_decisions(200, 54, seed)) for seed in range(3)]
    one, two, three = (np.asarray(paths.distances_B(rows[i], rows[j])) for i, j in ((0, 1), (1, 2), (0, 2)))
    np.testing.assert_array_equal(one, paths.distances_B(rows[1], rows[0]))
    assert (three <= one + two).all() and three.max() > 1


def log_probabilities(B: int, Y: int, seed: int, spread: float = 2.0) -> jax.Array:
    logits_BxY = np.random.default_rng(seed).normal(size=(B, Y)) * spread
    return jax.nn.log_softmax(jnp.asarray(logits_BxY, jnp.float32))


def test_divergence_by_hand() -> None:
    p_BxY = jnp.array([[0.5, 0.5], [0.75, 0.25], [0.25, 0.75], [0.5, 0.5]])
    q_BxY = jnp.array([[0.25, 0.75], [0.5, 0.5], [0.75, 0.25], [0.5, 0.5]])
    expected_B = [np.log(2) - np.log(3) / 2, 0.75 * np.log(3) - np.log(2), np.log(3) / 2, 0.0]
    for divergence in (paths.divergence_B, jax.jit(paths.divergence_B)):
        np.testing.assert_allclose(divergence(jnp.log(p_BxY), jnp.log(q_BxY)), expected_B, rtol=1e-5)


@pytest.mark.parametrize('jitted', [False, True])
@pytest.mark.parametrize(('Y', 'spread'), [(1, 1.0), (10, 0.01), (10, 3.0), (1000, 3.0)])
def test_divergence_is_that_of_double_precision(Y: int, spread: float, jitted: bool) -> None:
    log_p_BxY, log_q_BxY = log_probabilities(40, Y, 0, spread), log_probabilities(40, Y, 1, spread)
    log_p, log_q = (np.asarray(each, np.float64) for each in (log_p_BxY, log_q_BxY))
    divergence = jax.jit(paths.divergence_B) if jitted else paths.divergence_B
    expected_B = np.sum(np.exp(log_p) * (log_p - log_q), axis=1)
    np.testing.assert_allclose(divergence(log_p_BxY, log_q_BxY), expected_B, rtol=1e-4, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([0.0, 1e-4, 1.0, 30.0, 1e4]))
def test_divergence_is_nothing_between_equals_and_never_negative(seed: int, spread: float) -> None:
    log_p_BxY, log_q_BxY = log_probabilities(16, 10, seed, spread), log_probabilities(16, 10, seed + 1, spread)
    np.testing.assert_array_equal(paths.divergence_B(log_p_BxY, log_p_BxY), np.zeros(16))
    # A last digit apart, as between two batches of one image.
    nearly_BxY = jnp.nextafter(log_p_BxY, jnp.float32(0))
    for other_BxY in (log_q_BxY, nearly_BxY):
        divergence_B = np.asarray(paths.divergence_B(log_p_BxY, other_BxY))
        assert np.isfinite(divergence_B).all() and (divergence_B >= 0).all()


@pytest.mark.parametrize('jitted', [False, True])
def test_divergence_where_probabilities_are_zero(jitted: bool) -> None:
    divergence = jax.jit(paths.divergence_B) if jitted else paths.divergence_B
    p_BxY = jnp.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.5, 0.25, 0.25]])
    q_BxY = jnp.array([[1.0, 0.0, 0.0], [0.25, 0.5, 0.25], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
    expected_B = [0.0, np.log(2) / 2, np.log(2), np.inf]
    np.testing.assert_allclose(divergence(jnp.log(p_BxY), jnp.log(q_BxY)), expected_B, rtol=1e-5)


def test_probabilities_too_small_for_single_precision_add_nothing() -> None:
    log_p_BxY, log_q_BxY = jnp.array([[0.0, -200.0]]), jnp.array([[-2.0, -1e30]])
    np.testing.assert_allclose(paths.divergence_B(log_p_BxY, log_q_BxY), [2.0], rtol=1e-6)
