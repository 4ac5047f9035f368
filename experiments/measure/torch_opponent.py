"""A folded network in PyTorch, answering in all the ways that PyTorch has: what our forward is compared with."""

import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch

from codinet_jax.data.spec import DataSpec
from codinet_jax.inference.timing import Draws
from codinet_jax.models.network import RoutedResNet
from experiments.measure import torch_measure, torch_network

EAGER = ('static', 'static_graph', 'static_fused', 'static_fused_graph', 'gathered', 'gathered_by_numbers')
BLOCKS = ('static_blocks', 'static_blocks_graph')
LAST = ('static_compiled', 'gathered_tried')
CUDA_ONLY = ('static_graph', 'static_fused', 'static_fused_graph', 'static_blocks_graph')


class Opponent:
    """A folded network in PyTorch that answers the i-th of some draws, which lie on its device already."""

    def __init__(self, model: RoutedResNet, spec: DataSpec, params: Any, device: torch.device, draws: Draws):
        arch = model.architecture
        self.device = device
        self.network = torch_network.Network(arch, *spec.normalisation, routed=True, folded=True)
        torch_network.load(self.network, arch, params, {})
        self.network.convolve_in(getattr(torch, jnp.dtype(model.dtype).name)).to(device).eval()
        self.pixels = [torch.from_numpy(pixels).to(device) for pixels in draws.images]
        self.noise = [torch.from_numpy(noise).to(device) for noise in draws.noise or ()]

    def call(self, forward: Callable[[Any], Any]) -> Callable[[int], Any]:
        def answer(i: int) -> Any:
            with torch.inference_mode():
                return forward(self.pixels[i % len(self.pixels)])

        return answer

    def gathered(self, *, by_mask: bool) -> Callable[[int], Any]:
        def answer(i: int) -> Any:
            k = i % len(self.pixels)
            with torch.inference_mode():
                return self.network.gathered(self.pixels[k], self.noise[k], by_mask=by_mask)

        return answer

    def measured(self, name: str, expected: np.ndarray, repeats: int) -> dict[str, Any]:
        """Median seconds of a variant, and the error of its static logits for the first of the draws."""
        # Rows that run are of ever new numbers, and a trial of each costs more than it brings: but for those that come
        # back, as these draws do, it may be made.
        torch.backends.cudnn.benchmark = name not in ('gathered', 'gathered_by_numbers')
        started = time.perf_counter()
        call = self._ready(name)
        logits = call(0)
        error = None if name.startswith('gathered') else relative_error(logits, expected)
        del logits
        compile_seconds = time.perf_counter() - started
        batch_size = len(self.pixels[0])
        # One image is waited for, as who sends one waits; of larger batches the next is under way meanwhile.
        seconds = torch_measure.median_seconds(
            call, self.device, repeats, warm_up=len(self.pixels), wait_each=batch_size == 1
        )
        return {
            'median_seconds': seconds,
            'images_per_second': batch_size / seconds,
            'compile_seconds': compile_seconds,
            'relative_error': error,
        }

    def _ready(self, name: str) -> Callable[[int], Any]:
        if name.startswith('gathered'):
            return self.gathered(by_mask=name == 'gathered')
        forward: Callable[[Any], Any] = self.network.fused if 'fused' in name else self.network
        if name.startswith('static_blocks') and not self._has_compiled_blocks():
            torch_measure.compile_afresh()
            # The trial of kernels is worth it where there is a card; CUDA graphs are ours to make.
            mode = 'max-autotune-no-cudagraphs' if self.device.type == 'cuda' else None
            for block in self.network.blocks:
                block.forward = torch.compile(block.forward, dynamic=False, mode=mode)
        if name == 'static_compiled':
            torch_measure.compile_afresh()
            mode = 'max-autotune' if self.device.type == 'cuda' else None
            forward = torch.compile(self.network, dynamic=False, mode=mode)
        if name.endswith('graph'):
            return self._in_a_graph(forward)

        def answer(i: int) -> Any:
            with torch.no_grad():
                return forward(self.pixels[i % len(self.pixels)])

        return answer if name in (*BLOCKS, *LAST) else self.call(forward)

    def _has_compiled_blocks(self) -> bool:
        return 'forward' in vars(self.network.blocks[0])

    def _in_a_graph(self, forward: Callable[[Any], Any]) -> Callable[[int], Any]:
        pixels = self.pixels[0].clone()
        with torch.no_grad():
            replay, logits = torch_measure.captured(lambda: forward(pixels))

        def answer(i: int) -> Any:
            pixels.copy_(self.pixels[i % len(self.pixels)])
            replay()
            return logits

        return answer


def relative_error(logits: Any, expected: np.ndarray) -> float:
    """The largest difference, of the largest logit."""
    logits = np.asarray(logits.float().cpu() if hasattr(logits, 'cpu') else logits)
    return float(np.abs(logits - expected).max() / np.abs(expected).max())
