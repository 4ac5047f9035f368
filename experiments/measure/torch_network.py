"""This project's networks in PyTorch, to be compared with: same wiring, same weights, channels_last throughout.

A trained one has batch norms; a folded one has them in its convolutions. Pixels come in as they lie in a data set and
are normalised inside, as ours are. Routers and the head compute in float32 whatever the convolutions do.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from codinet_jax.models import architecture
from codinet_jax.models.architecture import Architecture

EPSILON = 1e-5  # of batch norm, as ours


class Block(nn.Module):
    """F and S of one block, and its router if it is routed."""

    def __init__(self, shape: architecture.Block, *, routed: bool, folded: bool):
        super().__init__()
        in_channels, convs, norms = shape.in_channels, [], []
        for conv in shape.convs:
            convs.append(_conv(in_channels, conv.features, conv.kernel, conv.stride, folded=folded))
            norms.append(_norm(conv.features, folded=folded))
            in_channels = conv.features
        self.convs, self.norms = nn.ModuleList(convs), nn.ModuleList(norms)
        self.kind, self.stride = shape.shortcut, shape.stride
        self.padding = shape.channels - shape.in_channels
        if self.kind == 'projection':
            self.shortcut_conv = _conv(shape.in_channels, shape.channels, 1, shape.stride, folded=folded)
            self.shortcut_norm = _norm(shape.channels, folded=folded)
        if routed:
            self.hidden, self.decide = nn.Linear(shape.in_channels, shape.in_channels), nn.Linear(shape.in_channels, 2)

    def forward(self, a: Any) -> Any:
        """The block where it is run."""
        return self.run(a, self.shortcut(a))

    def relaxed(self, a: Any, noise_Bx2: Any, temperature: float) -> tuple[Any, Any]:
        """v F(a) + (1 - v) S(a), and the router's logits (Eq. 6, 7)."""
        shortcut, logits_Bx2 = self.shortcut(a), self.router(a)
        v_B = torch.sigmoid(_margin(logits_Bx2 + noise_Bx2) / temperature)
        ran = self.run(a, shortcut)
        v_Bx1x1x1 = v_B[:, None, None, None].to(ran.dtype)
        return v_Bx1x1x1 * ran + (1 - v_Bx1x1x1) * self.skip(a, shortcut), logits_Bx2

    def shortcut(self, a: Any) -> Any:
        if self.kind == 'identity':
            return a
        if self.kind == 'projection':
            return self.shortcut_norm(self.shortcut_conv(a))
        half = self.padding // 2
        return F.pad(a[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.padding - half))

    def run(self, a: Any, shortcut: Any) -> Any:
        x, last = a, len(self.convs) - 1
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            if i < last:
                x = F.relu(x, inplace=True)
        return F.relu(shortcut + x, inplace=True)

    def run_fused(self, a: Any, shortcut: Any) -> Any:
        """`run` of a folded block by cuDNN's fused convolutions, which PyTorch has and does not choose by itself."""
        x, last = a, self.convs[-1]
        for conv in list(self.convs)[:-1]:
            x = cudnn_relu(conv, x)
        ones = (1, 1)
        return torch.cudnn_convolution_add_relu(
            x, last.weight, shortcut, 1.0, last.bias, last.stride, last.padding, ones, 1
        )

    def skip(self, a: Any, shortcut: Any) -> Any:
        return a if self.kind == 'identity' else F.relu(shortcut)

    def router(self, a: Any) -> Any:
        """[skip, run] in float32, under autocast too."""
        with torch.autocast(a.device.type, enabled=False):
            return self.decide(F.relu(self.hidden(a.mean((2, 3), dtype=torch.float32))))


class Network(nn.Module):
    """The residual classifier of an architecture; its blocks are callables, so that they can be compiled apart."""

    def __init__(
        self, arch: Architecture, mean: Sequence[float], std: Sequence[float], *, routed: bool, folded: bool = False
    ):
        super().__init__()
        kernel, stride = (3, 1) if arch.stem == 'cifar' else (7, 2)
        self.stem_conv = _conv(arch.image_channels, arch.stem_channels, kernel, stride, folded=folded)
        self.stem_norm = _norm(arch.stem_channels, folded=folded)
        self.has_pool = arch.stem == 'imagenet'
        self.blocks = nn.ModuleList(Block(block, routed=routed, folded=folded) for block in arch.blocks)
        self.head = nn.Linear(arch.out_channels, arch.num_classes)
        scale_C, shift_C = 1 / (255 * np.asarray(std)), -np.asarray(mean) / np.asarray(std)
        self.register_buffer('scale_C', torch.from_numpy(scale_C.astype(np.float32)))
        self.register_buffer('shift_C', torch.from_numpy(shift_C.astype(np.float32)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out')
        self.to(memory_format=torch.channels_last)

    def convolve_in(self, dtype: torch.dtype) -> 'Network':
        """Convolutions, and so all activations, in another type."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.to(dtype)
        return self

    def forward(self, pixels_BxHxWxC: Any) -> Any:
        """Every block run: logits [B, Y]."""
        a = self._stem(pixels_BxHxWxC)
        for block in self.blocks:
            a = block(a)
        return self._head(a)

    def fused(self, pixels_BxHxWxC: Any) -> Any:
        """`forward` of a folded network by cuDNN's fused convolutions."""
        a = self._pool(cudnn_relu(self.stem_conv, self._normalised(pixels_BxHxWxC)))
        for block in self.blocks:
            a = block.run_fused(a, block.shortcut(a))
        return self._head(a)

    def relaxed(self, pixels_BxHxWxC: Any, noise_Bxnx2: Any, temperature: float) -> tuple[Any, Any, Any]:
        """Logits [B, Y], v [B, n] and router logits [B, n, 2] of stage 1."""
        a, router_logits = self._stem(pixels_BxHxWxC), []
        for k, block in enumerate(self.blocks):
            a, logits_Bx2 = block.relaxed(a, noise_Bxnx2[:, k], temperature)
            router_logits.append(logits_Bx2)
        logits_Bxnx2 = torch.stack(router_logits, 1)
        return self._head(a), torch.sigmoid(_margin(logits_Bxnx2 + noise_Bxnx2) / temperature), logits_Bxnx2

    def gathered(self, pixels_BxHxWxC: Any, noise_Bxnx2: Any, *, by_mask: bool) -> Any:
        """Logits where each row runs the blocks that it should: taken out by a boolean mask, or by their numbers."""
        a = self._stem(pixels_BxHxWxC)
        for k, block in enumerate(self.blocks):
            shortcut, u_B = block.shortcut(a), _margin(block.router(a) + noise_Bxnx2[:, k]) >= 0
            skipped = block.skip(a, shortcut)
            if by_mask:
                if u_B.any():
                    taken = a[u_B]
                    skipped[u_B] = block.run(taken, taken if shortcut is a else shortcut[u_B])
            elif len(rows := u_B.nonzero()[:, 0]):
                taken = _rows(a, rows)
                ran = block.run(taken, taken if shortcut is a else _rows(shortcut, rows))
                skipped.permute(0, 2, 3, 1).index_copy_(0, rows, ran.permute(0, 2, 3, 1))
            a = skipped
        return self._head(a)

    def _stem(self, pixels_BxHxWxC: Any) -> Any:
        return self._pool(F.relu(self.stem_norm(self.stem_conv(self._normalised(pixels_BxHxWxC)))))

    def _normalised(self, pixels_BxHxWxC: Any) -> Any:
        normalised_BxHxWxC = torch.addcmul(self.shift_C, pixels_BxHxWxC.float(), self.scale_C)
        return normalised_BxHxWxC.permute(0, 3, 1, 2).to(self.stem_conv.weight.dtype)

    def _pool(self, a: Any) -> Any:
        return F.max_pool2d(a, 3, 2, padding=1) if self.has_pool else a

    def _head(self, a: Any) -> Any:
        with torch.autocast(a.device.type, enabled=False):
            return self.head(a.mean((2, 3), dtype=torch.float32))


def load(network: Network, arch: Architecture, params: Mapping[str, Any], statistics: Mapping[str, Any]) -> None:
    """Our variables into a network; a folded one has no statistics."""
    with torch.no_grad():
        _load_conv(network.stem_conv, params['stem_conv'])
        _load_norm(network.stem_norm, params, statistics, 'stem_norm')
        _load_dense(network.head, params['head'])
        ours = zip(_of_blocks(arch, params), _of_blocks(arch, statistics), strict=True)
        for block, (own, seen) in zip(network.blocks, ours, strict=True):
            residual, residual_seen = own['residual'], seen.get('residual', {})
            for i, (conv, norm) in enumerate(zip(block.convs, block.norms, strict=True), start=1):
                _load_conv(conv, residual[f'conv{i}'])
                _load_norm(norm, residual, residual_seen, f'norm{i}')
            if block.kind == 'projection':
                _load_conv(block.shortcut_conv, own['shortcut']['conv'])
                _load_norm(block.shortcut_norm, own['shortcut'], seen.get('shortcut', {}), 'norm')
            if hasattr(block, 'hidden'):
                _load_dense(block.hidden, own['router']['hidden'])
                _load_dense(block.decide, own['router']['decide'])


def cudnn_relu(conv: nn.Conv2d, x: Any) -> Any:
    return torch.cudnn_convolution_relu(x, conv.weight, conv.bias, conv.stride, conv.padding, (1, 1), 1)


def _conv(in_channels: int, channels: int, kernel: int, stride: int, *, folded: bool) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=folded)


def _norm(channels: int, *, folded: bool) -> nn.Module:
    if folded:
        return nn.Identity()
    norm = nn.BatchNorm2d(channels, EPSILON, momentum=0.1)  # what is new counts a tenth: flax's momentum of 0.9
    norm.num_batches_tracked = None  # nobody reads it, and counting is a launch a norm and step
    return norm


def _rows(a: Any, rows: Any) -> Any:
    """Some rows, still channels_last, which index_select itself is not careful of."""
    return a.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)


def _margin(logits: Any) -> Any:
    return logits[..., 1] - logits[..., 0]


def _of_blocks(arch: Architecture, tree: Mapping[str, Any]) -> Iterator[Any]:
    """A tree's parts, block by block in the order in which they run; empty where it has none."""
    for i, stage in enumerate(arch.stages, start=1):
        if stage.transition:
            yield tree.get(f'stage{i}_transition', {})
        for k in range(stage.repeats):
            yield jax.tree.map(lambda leaf, k=k: leaf[k], tree.get(f'stage{i}_blocks', {}))


def _load_conv(conv: nn.Conv2d, ours: Mapping[str, Any]) -> None:
    conv.weight.copy_(torch.from_numpy(np.array(ours['kernel']).transpose(3, 2, 0, 1).copy()))
    if conv.bias is not None:
        conv.bias.copy_(torch.from_numpy(np.array(ours['bias'])))


def _load_norm(norm: nn.Module, params: Mapping[str, Any], statistics: Mapping[str, Any], name: str) -> None:
    if isinstance(norm, nn.BatchNorm2d):
        for tensor, value in (
            (norm.weight, params[name]['scale']),
            (norm.bias, params[name]['bias']),
            (norm.running_mean, statistics[name]['mean']),
            (norm.running_var, statistics[name]['var']),
        ):
            tensor.copy_(torch.from_numpy(np.array(value)))


def _load_dense(dense: nn.Linear, ours: Mapping[str, Any]) -> None:
    dense.weight.copy_(torch.from_numpy(np.array(ours['kernel']).T.copy()))
    dense.bias.copy_(torch.from_numpy(np.array(ours['bias'])))
