"""Soft targets: the mean logits of trained networks for every view of the pool, computed once and shared by runs.

`python -m experiments.real_accuracy.teachers --teachers=a.npz,b.npz --data_dir=DIR --cache=DIR`
"""

import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from codinet_jax.models.execution import masked
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import command
from experiments.real_accuracy import images, kept, networks
from experiments.real_accuracy.progress import log


def path(cache: pathlib.Path, teachers: Sequence[str], pool: int, cut: int, num_images: int) -> pathlib.Path:
    names = '+'.join(pathlib.Path(teacher).stem for teacher in teachers)
    return cache / f'soft_{names}_{pool}_{cut}_{num_images}.npy'


def soft_targets(
    cache: pathlib.Path, teachers: Sequence[str], train: images.Images, pool: int, cut: int, batch: int
) -> np.ndarray:
    """float16 [K, N, Y] for the views of `images.draws(pool, N)`; N must be a multiple of the batch."""
    file = path(cache, teachers, pool, cut, len(train.labels_N))
    if file.exists():
        return np.load(file)
    num_images = len(train.labels_N)
    draws_KxNx5 = jnp.asarray(images.draws(pool, num_images))
    images_NxHxWxC = jnp.asarray(train.images_NxHxWxC)
    total_KxNxY = np.zeros((pool, num_images, 10), np.float32)
    for teacher in teachers:
        start = networks.read(teacher)
        model = networks.static(start, networks.train_dtype()).clone(
            convolution=networks.convolution(),
            # XLA:CPU computes what is in a loop on one thread.
            unroll=start.architecture.num_blocks if jax.default_backend() == 'cpu' else 1,
        )
        forward = _forward(model, batch, cut)
        for k in range(pool):
            parts = [
                forward(start.variables, images_NxHxWxC, draws_KxNx5, jnp.int32(k), jnp.int32(i))
                for i in range(0, num_images, batch)
            ]
            total_KxNxY[k] += np.concatenate(jax.device_get(parts)) / len(teachers)
            log(f'{start.name} has answered view {k + 1} of {pool}')
    soft_KxNxY = total_KxNxY.astype(np.float16)
    images.save(file, soft_KxNxY)
    return soft_KxNxY


def _forward(model: RoutedResNet, batch: int, cut: int) -> Callable[..., jax.Array]:
    """The logits of `batch` images from the i-th on, in their k-th view."""

    @jax.jit
    def forward(
        variables: Any, images_NxHxWxC: jax.Array, draws_KxNx5: jax.Array, k: jax.Array, i: jax.Array
    ) -> jax.Array:
        images_BxHxWxC = jax.lax.dynamic_slice_in_dim(images_NxHxWxC, i, batch)
        draws_BxMx5 = jax.lax.dynamic_slice_in_dim(draws_KxNx5[k], i, batch)[:, None]
        is_cut_BxM = jnp.full((batch, 1), k % 2 == 1)
        views_BxHxWxC = images.views(images_BxHxWxC, draws_BxMx5, is_cut_BxM, cut)[:, 0]
        output: Any = model.apply(variables, images.normalise(views_BxHxWxC), masked(), train=False)
        return output.logits_BxY

    return forward


def main(argv: Sequence[str]) -> None:
    del argv
    begin = time.perf_counter()
    cache = pathlib.Path(flags.FLAGS.cache)
    kept.check_weights(cache, flags.FLAGS.teachers)
    train = images.read('train', flags.FLAGS.data_dir, cache).part(slice(flags.FLAGS.train_images))
    soft_targets(cache, flags.FLAGS.teachers, train, flags.FLAGS.pool, flags.FLAGS.cut, flags.FLAGS.teacher_batch)
    print(f'soft targets: {time.perf_counter() - begin:.1f} s', flush=True)


if __name__ == '__main__':
    from experiments.real_accuracy import settings

    del settings  # imported for its flags
    command.run(main)
