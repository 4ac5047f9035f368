"""Our stage 1 step in PyTorch: the same losses, batch, views and update, on made-up pixels."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import torch
from torch.nn import functional as F

from codinet_jax.config.setup import Setup
from codinet_jax.training import profiling
from experiments.measure.torch_network import Network


class Trainer:
    """A network, its optimiser and one batch of made-up pixels, on a device."""

    def __init__(self, setup: Setup, device: torch.device):
        recipe, arch = setup.recipe, setup.model.architecture
        self.batch_size, self.num_views, self.device = recipe.batch_size, recipe.num_views, device
        self.spec, self.is_routed, self.num_blocks = setup.data.spec, setup.model.router is not None, arch.num_blocks
        # Plain numbers, which a compiler reads as such; other objects it would trace.
        self.method = SimpleNamespace(**dataclasses.asdict(setup.method))
        self.label_smoothing, self.in_bfloat16 = recipe.label_smoothing, setup.model.dtype == jnp.bfloat16
        self.network = Network(arch, *self.spec.normalisation, routed=self.is_routed).to(device)
        self.costs_n = torch.from_numpy(setup.costs.costs_n).to(device)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            recipe.stage1.learning_rate * recipe.batch_size / (recipe.base_batch_size or recipe.batch_size),
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        # Of photographs the host crops views, and they are only mirrored here, as in our step.
        images, labels_L = profiling.random_batch(setup)
        self.images, self.labels = torch.from_numpy(images).to(device), torch.from_numpy(labels_L).long().to(device)

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
            if not self.spec.flip:
                return views_BxHxWxC
            return torch.where(is_mirrored_B[:, None, None, None], views_BxHxWxC.flip(2), views_BxHxWxC)
        size, padding = images.shape[1], self.spec.crop_padding
        padded = F.pad(images, (0, 0, padding, padding, padding, padding))
        corners_2xBx1 = torch.randint(0, 2 * padding + 1, (2, num_rows, 1), device=device)
        steps_S = torch.arange(size, device=device)
        columns_BxS = steps_S.expand(num_rows, size)
        if self.spec.flip:
            columns_BxS = torch.where(is_mirrored_B[:, None], size - 1 - columns_BxS, columns_BxS)
        rows_BxS, columns_BxS = corners_2xBx1[0] + steps_S, corners_2xBx1[1] + columns_BxS
        image_B = torch.arange(num_rows, device=device) // self.num_views
        return padded[image_B[:, None, None], rows_BxS[:, :, None], columns_BxS[:, None, :]]

    def loss(self, views_BxHxWxC: Any, labels_L: Any, noise_Bxnx2: Any) -> Any:
        """Cross-entropy, and of a routed network Eq. 12 with a gamma that stays as it is."""
        method = self.method
        labels_B = labels_L[:, None].expand(-1, self.num_views).flatten()
        # No cache: a weight is read once a step, and a CUDA graph must not hold on to a cast of it.
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.in_bfloat16, cache_enabled=False)
        v_Bxn = None
        with autocast:
            if self.is_routed:
                logits_BxY, v_Bxn, _ = self.network.relaxed(views_BxHxWxC, noise_Bxnx2, method.temperature)
            else:
                logits_BxY = self.network(views_BxHxWxC)
        loss = F.cross_entropy(logits_BxY, labels_B, label_smoothing=self.label_smoothing)
        if v_Bxn is None:
            return loss
        paths_LxMxn = v_Bxn.unflatten(0, (-1, self.num_views))
        centres_Lxn = paths_LxMxn.mean(1)
        straying_LxM = torch.linalg.vector_norm(paths_LxMxn - centres_Lxn[:, None], dim=-1)
        consistency = (straying_LxM - method.consistency_margin).relu().square().mean()
        L = len(centres_Lxn)
        distance_LxL = torch.linalg.vector_norm(centres_Lxn[:, None] - centres_Lxn, dim=-1)
        missing_LxL = (method.diversity_margin - distance_LxL).relu().square()
        # An image lies nowhere from itself, so the diagonal is the margin squared, and has no gradient.
        diversity = (missing_LxL.sum() - L * method.diversity_margin**2) / max(L * (L - 1), 1)
        cost = (v_Bxn.mean(0) * self.costs_n).sum()
        return loss + method.alpha * consistency + method.beta * diversity + method.gamma * cost
