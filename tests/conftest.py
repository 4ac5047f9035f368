"""Before anything asks JAX for a device: eight of them, so that sharding is real; no silent rank promotion; and less
care in compiling, which is most of what tests do. The README's commands, which CI runs too, compile as they should."""

import os

os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_backend_optimization_level=0'

import jax

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
