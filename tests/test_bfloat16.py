"""bfloat16 on a CPU whose XLA sums it wrong: avoided where the package is imported in time, else refused."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np
import pytest

import codinet_jax
import helpers
from codinet_jax.data.spec import DataSpec
from codinet_jax.models.network import drawn
from codinet_jax.runtime import bfloat16
from codinet_jax.runtime.errors import InputError

SPEC = DataSpec(tuple('abcdefghij'), (0.3,), (0.4,))
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), np.uint8)

# The two are to agree in a process whose devices JAX started before it could know of the package.
TOO_LATE = """
import jax, jax.numpy as jnp, numpy as np
ones = np.ones((64, 64), jnp.bfloat16)
summed = jax.jit(lambda x, y: jnp.sum(jax.nn.relu(x) * jax.nn.relu(y), dtype=jnp.float32))(ones, ones)
import codinet_jax
from codinet_jax.runtime import bfloat16
from codinet_jax.runtime.errors import InputError
try:
    bfloat16.check()
    refused = False
except InputError as error:
    assert 'XLA_FLAGS' in str(error), error
    refused = True
assert refused == (float(summed) != 4096), (refused, summed)
print('refused' if refused else 'right')
"""


@pytest.fixture
def wrong_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if JAX had been started too early, with a version that has the fault."""
    monkeypatch.setattr(bfloat16, 'FAULTY', (jaxlib.version.__version__,))
    monkeypatch.setattr(bfloat16, '_is_wrong', lambda: True)


@pytest.mark.parametrize(
    ('version', 'flags', 'wanted'),
    [
        ('0.11.2', '', bfloat16.APART),
        ('0.11.2', '--xla_dump_to=there', f'--xla_dump_to=there {bfloat16.APART}'),
        ('0.11.2', f'{bfloat16.FLAG}=', None),  # somebody knows better
        ('0.11.2', '/home/me/flags.txt', None),  # XLA would look for a file of the longer name
        ('0.11.1', '', None),
        ('0.10.2', '--xla_dump_to=there', None),
        ('0.13.0', '', None),  # which may not know the flag, and would end the process
    ],
)
def test_the_flag_is_set_for_versions_with_the_fault_alone(version: str, flags: str, wanted: str | None) -> None:
    assert bfloat16._variables(version, flags).get('XLA_FLAGS') == wanted


@pytest.mark.parametrize('shape', [(64, 64), (2, 8, 8, 32), (8, 16, 16, 16)])
def test_with_the_package_imported_in_time_sums_are_right(shape: tuple[int, ...]) -> None:
    x, y = np.random.default_rng(1).normal(size=(2, *shape)).astype(jnp.bfloat16)
    ours = jax.jit(lambda x, y: jnp.sum(jax.nn.relu(x) * jax.nn.relu(y), dtype=jnp.float32))(x, y)
    exact = np.sum(np.maximum(x.astype(np.float64), 0) * np.maximum(y.astype(np.float64), 0))
    np.testing.assert_allclose(ours, exact, rtol=1e-2)
    bfloat16.check()
    assert not bfloat16._is_wrong()


def test_with_jax_started_before_what_would_be_wrong_is_refused() -> None:
    # This process has the flag in its variables by now.
    variables = {name: value for name, value in helpers.environment().items() if name != 'XLA_FLAGS'}
    done = subprocess.run(
        [sys.executable, '-c', TOO_LATE], cwd=helpers.REPOSITORY, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ('refused\n' if jaxlib.version.__version__ in bfloat16.FAULTY else 'right\n')


def test_a_network_that_would_be_computed_wrong_is_refused(wrong_here: None) -> None:
    float32 = helpers.tiny_network(None)
    variables = drawn(float32, 0)
    codinet_jax.predictor(float32, SPEC, variables)(IMAGES)
    with pytest.raises(InputError, match=r'NaN in bfloat16 on this CPU: import codinet_jax before'):
        codinet_jax.predictor(float32.clone(dtype=jnp.bfloat16), SPEC, variables)(IMAGES)


def test_so_is_an_exported_one(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    float32 = helpers.tiny_network(None)
    variables = drawn(float32, 0)
    for name, dtype in (('float32', jnp.float32), ('bfloat16', jnp.bfloat16)):
        codinet_jax.predictor(float32.clone(dtype=dtype), SPEC, variables).export(tmp_path / name)
    exact, rounded = (codinet_jax.load_exported(tmp_path / name)(IMAGES) for name in ('float32', 'bfloat16'))
    np.testing.assert_allclose(rounded.probabilities_BxY, exact.probabilities_BxY, atol=0.02)
    request.getfixturevalue('wrong_here')
    codinet_jax.load_exported(tmp_path / 'float32')
    with pytest.raises(InputError, match='NaN in bfloat16'):
        codinet_jax.load_exported(tmp_path / 'bfloat16')
