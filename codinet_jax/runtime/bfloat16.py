"""A fault of some versions of XLA on CPUs: what it sums of bfloat16 can come out as NaN.

`jnp.sum(relu(x) * relu(y))` does, of any 64x64 numbers in bfloat16: where a sum, or another reduction, is compiled
together with what it reduces, and that uses one bfloat16 constant twice, as two ReLUs use zero. Neither float32 nor
other platforms are concerned. Compiled apart from each other the same operations are right, which a flag of XLA's asks
for; XLA reads its flags once, when JAX starts its first device.
"""

import functools
import importlib.metadata
import os

from codinet_jax.runtime.errors import InputError

FAULTY = ('0.11.2', '0.12.0', '0.12.0.1')  # of jaxlib; 0.10.2, 0.11.0 and 0.11.1 are right
FLAG = '--xla_cpu_experimental_ynn_fusion_type'
APART = f'{FLAG}=-reduce'


def avoid_fault() -> None:
    """Sets the flag where the fault is; of use only before JAX starts a device, and imports no JAX."""
    os.environ.update(_variables(_version(), os.environ.get('XLA_FLAGS', '')))


def _variables(version: str, flags: str) -> dict[str, str]:
    """What to set, where XLA_FLAGS is `flags`; XLA ends a process that gives it a flag it does not know."""
    names_a_file = bool(flags.strip()) and not flags.lstrip().startswith('-')
    if version not in FAULTY or FLAG in flags or names_a_file:
        return {}
    return {'XLA_FLAGS': f'{flags} {APART}'.strip()}


def check() -> None:
    """To be called before bfloat16 is computed on the devices here.

    Raises:
      InputError: it would come out wrong.
    """
    if _version() in FAULTY and _is_wrong():
        raise InputError(
            f'jaxlib {_version()} computes NaN in bfloat16 on this CPU: import codinet_jax before the '
            f'first JAX array is made, or set XLA_FLAGS={APART}, or compute in float32.'
        )


@functools.cache
def _version() -> str:
    return importlib.metadata.version('jaxlib')  # which importing jaxlib for would take longer


@functools.cache
def _is_wrong() -> bool:
    import jax
    import jax.numpy as jnp
    import numpy as np

    if jax.default_backend() != 'cpu':
        return False

    def both_positive(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sum(jax.nn.relu(x) * jax.nn.relu(y), axis=0, dtype=jnp.float32)

    ones = np.ones((64, 64), jnp.bfloat16)
    with jax.ensure_compile_time_eval():  # a network may be just being traced
        return not np.array_equal(jax.jit(both_positive)(ones, ones), np.full(64, 64.0))
