"""Before anything asks JAX for a device: eight of them, so that sharding is real; no silent rank promotion; and less
care in compiling, which is most of what tests do. The README's commands, which CI runs too, compile as they should."""

import os
from collections.abc import Iterator

os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_backend_optimization_level=0'

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')

CACHE = {'jax_compilation_cache_dir': None, 'jax_persistent_cache_min_compile_time_secs': 0.0}


@pytest.fixture(scope='module')
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what is compiled for a file's other tests, which train the same network again and again."""
    before = {name: getattr(jax.config, name) for name in CACHE}
    for name, value in (CACHE | {'jax_compilation_cache_dir': str(tmp_path_factory.mktemp('compiled'))}).items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
