"""Our stage 1 step in PyTorch: the same losses, batch, views and update, on made-up pixels."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict
from torch.nn import functional as F

from codinet_jax import settings
from experiments.torch_network import Network


class Trainer:
    """A network, its optimiser and one batch of made-up pixels, on a device."""

    def __init__(self, config: ConfigDict, device: torch.device):
        self.batch_size, self.device = config.batch_size, device
        self.dataset = settings.dataset(config)
        arch, self.is_routed = settings.architecture(config), config.model.router != settings.STATIC
        self.num_blocks, self.num_views = arch.num_blocks, config.num_views
        # Plain numbers, which a compiler reads as such; a config it would trace.
        self.terms = SimpleNamespace(**config.loss.to_dict())
        self.temperature, self.in_bfloat16 = config.routing.temperature, config.model.dtype == 'bfloat16'
        self.network = Network(arch, self.dataset.mean, self.dataset.std, routed=self.is_routed).to(device)
        self.costs_n = torch.from_numpy(settings.costs(config).costs_n).to(device)
        base = config.optimizer.base_batch_size or config.batch_size
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            config.stage1.learning_rate * config.batch_size / base,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )
        rng = np.random.default_rng(config.seed)
        # Of photographs the host crops views, and they are only mirrored here, as in our step.
        views = (config.num_views,) if self.dataset.is_streamed else ()
        shape = (config.batch_size, *views, *self.dataset.image_shape)
        self.images = torch.from_numpy(rng.integers(0, 256, shape, np.uint8)).to(device)
        self.labels = torch.from_numpy(rng.integers(0, self.dataset.num_classes, config.batch_size)).to(device)

    def step(self) -> Any:
        """Takes one; its loss."""
        noise_Bxnx2 = None
        if self.is_routed:
            shape = (self.batch_size * self.num_views, self.num_blocks, 2)
            noise_Bxnx2 = -torch.empty(shape, device=self.device).exponential_().log()  # Gumbel's
        return self.step_on(self.views(), self.labels, noise_Bxnx2)

    def step_on(self, views_BxHxWxC: Any, labels_L: Any, noise_Bxnx2: Any) -> Any:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(views_BxHxWxC, labels_L, noise_Bxnx2)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def views(self) -> Any:
        """M of each image, as `augment.make_views` draws them, image by image: uint8 [L * M, H, W, C]."""
        images, device = self.images, self.device
        num_rows = self.batch_size * self.num_views
        is_mirrored_B = torch.rand(num_rows, device=device) < 0.5
        if images.ndim == 5:
            views_BxHxWxC = images.flatten(0, 1)
            if not self.dataset.flip:
                return views_BxHxWxC
            return torch.where(is_mirrored_B[:, None, None, None], views_BxHxWxC.flip(2), views_BxHxWxC)
        size, padding = self.dataset.image_size, self.dataset.crop_padding
        padded = F.pad(images, (0, 0, padding, padding, padding, padding))
        corners_2xBx1 = torch.randint(0, 2 * padding + 1, (2, num_rows, 1), device=device)
        steps_S = torch.arange(size, device=device)
        columns_BxS = steps_S.expand(num_rows, size)
        if self.dataset.flip:
            columns_BxS = torch.where(is_mirrored_B[:, None], size - 1 - columns_BxS, columns_BxS)
        rows_BxS, columns_BxS = corners_2xBx1[0] + steps_S, corners_2xBx1[1] + columns_BxS
        image_B = torch.arange(num_rows, device=device) // self.num_views
        return padded[image_B[:, None, None], rows_BxS[:, :, None], columns_BxS[:, None, :]]

    def loss(self, views_BxHxWxC: Any, labels_L: Any, noise_Bxnx2: Any) -> Any:
        """Cross-entropy, and of a routed network Eq. 12 with a gamma that stays as it is."""
        terms = self.terms
        labels_B = labels_L[:, None].expand(-1, self.num_views).flatten()
        # No cache: a weight is read once a step, and a CUDA graph must not hold on to a cast of it.
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bfloat16, cache_enabled=False)
        v_Bxn = None
        with autocast:
            if self.is_routed:
                logits_BxY, v_Bxn, _ = self.network.relaxed(views_BxHxWxC, noise_Bxnx2, self.temperature)
            else:
                logits_BxY = self.network(views_BxHxWxC)
        loss = F.cross_entropy(logits_BxY, labels_B, label_smoothing=terms.label_smoothing)
        if v_Bxn is None:
            return loss
        paths_LxMxn = v_Bxn.unflatten(0, (-1, self.num_views))
        centres_Lxn = paths_LxMxn.mean(1)
        straying_LxM = torch.linalg.vector_norm(paths_LxMxn - centres_Lxn[:, None], dim=-1)
        consistency = (straying_LxM - terms.consistency_margin).relu().square().mean()
        L = len(centres_Lxn)
        distance_LxL = torch.linalg.vector_norm(centres_Lxn[:, None] - centres_Lxn, dim=-1)
        missing_LxL = (terms.diversity_margin - distance_LxL).relu().square()
        # An image lies nowhere from itself, so the diagonal is the margin squared, and has no gradient.
        diversity = (missing_LxL.sum() - L * terms.diversity_margin**2) / max(L * (L - 1), 1)
        cost = (v_Bxn.mean(0) * self.costs_n).sum()
        return loss + terms.alpha * consistency + terms.beta * diversity + terms.gamma * cost
