"""What a set of decisions says, against numpy and known distributions (section 4.4)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
