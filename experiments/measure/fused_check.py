"""What the fused kernels are checked against: networks of random folded weights, and the arithmetic of that for CUDA
devices in plain JAX."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codinet_jax.data import augment
from codinet_jax.data.spec import DataSpec
from codinet_jax.models import execution
from codinet_jax.models.architecture import Block
from codinet_jax.models.network import RoutedResNet

CASES = (None, 0.0, 0.5, 1.0)  # run rates that noise dictates; None leaves it to the routers


def random_folded(model: RoutedResNet, seed: int = 0) -> dict[str, Any]:
    """Folded float32 weights whose activations keep their size however deep, and routers of two minds."""
    arch, rng = model.architecture, np.random.default_rng(seed)
    folded = model.clone(folded=True, unroll=1)
    images_1xHxWxC = jnp.zeros((1, arch.image_size, arch.image_size, arch.image_channels))
    shapes = jax.eval_shape(lambda: folded.init(jax.random.key(0), images_1xHxWxC, execution.masked(), train=False))

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        *_, layer, kind = (key.key for key in path)
        if kind == 'bias':
            values = 0.1 * rng.normal(size=leaf.shape)
            if layer == 'decide':
                # As many blocks run as not: a decision hangs on the image, and not on the block alone.
                values = values - np.mean(values, axis=-1, keepdims=True)
        else:
            fan_in = np.prod(leaf.shape[-4:-1] if 'conv' in layer else leaf.shape[-2:-1])
            gain = {'conv2': 2.0 / np.sqrt(arch.num_blocks), 'decide': 0.5, 'head': 0.3}.get(layer, 1.4)
            values = gain * rng.normal(size=leaf.shape) / np.sqrt(fan_in)
        return values.astype(np.float32)

    return {'params': jax.tree_util.tree_map_with_path(draw, shapes['params'])}


def random_inputs(
    model: RoutedResNet, count: int, run_rate: float | None, seed: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """uint8 images [count, H, W, C], each of its own brightness and contrast, and noise [count, n, 2], if any."""
    rng, arch = np.random.default_rng(seed), model.architecture
    n, size, channels = arch.num_blocks, arch.image_size, arch.image_channels
    centres = rng.uniform(20, 235, (count, 1, 1, channels))
    images = centres + rng.uniform(5, 90, (count, 1, 1, 1)) * rng.normal(size=(count, size, size, channels))
    noise = None if run_rate is None else np.asarray(execution.dictated(rng.random((count, n)) < run_rate))
    return np.clip(images, 0, 255).astype(np.uint8), noise


def twin(
    model: RoutedResNet,
    spec: DataSpec,
    folded: Any,
    images_BxHxWxC: jax.Array,
    threshold: jax.Array,
    noise_Bxnx2: jax.Array | None,
) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
    """Float32, rounded to bfloat16 exactly where the kernel rounds; to be jitted.

    Returns:
      logits [B, Y], v [B, n], and the pooled input of every block and of the head: n + 1 arrays [B, C].
    """
    arch, params, routed = model.architecture, folded['params'], model.router is not None
    noise_Bxnx2 = jnp.zeros((len(images_BxHxWxC), arch.num_blocks, 2)) if noise_Bxnx2 is None else noise_Bxnx2
    noise_nxBx2 = jnp.swapaxes(noise_Bxnx2, 0, 1)

    def step(block: Block, a: jax.Array, own: Any, noise_Bx2: jax.Array) -> tuple[jax.Array, Any]:
        z_BxC, shortcut, v_B = jnp.mean(a, axis=(1, 2)), a, jnp.ones(len(a))
        if block.shortcut == 'pad':
            pad = (block.channels - block.in_channels) // 2
            shortcut = jnp.pad(a[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (pad, pad)))
        x = rounded(jax.nn.relu(_conv(a, own['residual']['conv1'], block.stride)))
        ran = rounded(jax.nn.relu(shortcut + _conv(x, own['residual']['conv2'], 1)))
        if routed:
            h_BxC = jax.nn.relu(_dense(z_BxC, own['router']['hidden']))
            decided_Bx2 = _dense(h_BxC, own['router']['decide']) + noise_Bx2
            v_B = jax.nn.sigmoid(decided_Bx2[:, 1] - decided_Bx2[:, 0])
        return jnp.where((v_B >= threshold)[:, None, None, None], ran, shortcut), (v_B, z_BxC)

    def equal_step(block: Block, a: jax.Array, each: tuple[Any, jax.Array]) -> tuple[jax.Array, Any]:
        return step(block, a, *each)

    means, gates, k = [], [], 0
    with jax.default_matmul_precision('highest'):
        x = rounded(augment.normalise(images_BxHxWxC, *spec.normalisation))
        a = rounded(jax.nn.relu(_conv(x, params['stem_conv'], 1)))
        for i, stage in enumerate(arch.stages, start=1):
            if stage.transition:
                a, (v_B, z_BxC) = step(stage.transition, a, params[f'stage{i}_transition'], noise_nxBx2[k])
                gates.append(v_B[None])
                means.append(z_BxC)
                k += 1
            if stage.repeats:
                a, (v_kxB, z_kxBxC) = jax.lax.scan(
                    partial(equal_step, stage.block),
                    a,
                    (params[f'stage{i}_blocks'], noise_nxBx2[k : k + stage.repeats]),
                )
                gates.append(v_kxB)
                means += list(z_kxBxC)
                k += stage.repeats
        means.append(jnp.mean(a, axis=(1, 2)))
        return _dense(means[-1], params['head']), jnp.concatenate(gates).T, means


def rounded(x: jax.Array) -> jax.Array:
    """To bfloat16 and back; XLA takes a pair of casts away, and leaves this."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def agreement(ours: tuple[Any, ...], theirs: tuple[Any, ...], threshold: float) -> dict[str, float]:
    """How far (logits, v, ...) are apart, of images whose every decision is the same in both.

    `logits` is the largest difference as a share of the largest logit, `v` the largest difference as it is; `same` is
    the share of such images.
    """
    logits, v = (np.asarray(x, np.float64) for x in ours[:2])
    true_logits, true_v = (np.asarray(x, np.float64) for x in theirs[:2])
    same_B = np.all((v >= threshold) == (true_v >= threshold), axis=1)
    if not np.isfinite(logits).all() or not np.isfinite(v).all():
        return {'same': 0.0, 'logits': np.inf, 'v': np.inf}
    if not same_B.any():
        return {'same': 0.0, 'logits': np.nan, 'v': np.nan}
    return {
        'same': float(np.mean(same_B)),
        'logits': float(np.max(np.abs(logits - true_logits)[same_B]) / np.max(np.abs(true_logits))),
        'v': float(np.max(np.abs(v - true_v)[same_B])),
    }


def _conv(x: jax.Array, layer: Any, stride: int) -> jax.Array:
    kernel = rounded(layer['kernel'])
    y = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    return y + layer['bias'][None, None, None]


def _dense(x: jax.Array, layer: Any) -> jax.Array:
    return x @ layer['kernel'] + layer['bias'][None]
