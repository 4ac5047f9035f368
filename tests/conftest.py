"""Before anything asks JAX for a device: eight of them, so that sharding is real; and no silent rank promotion."""

import jax

jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
