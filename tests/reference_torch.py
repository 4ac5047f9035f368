"""The ImageNet ResNet in PyTorch, its modules named as torchvision and timm name them."""

import torch
from torch import nn

from codinet_jax.models.architecture import BASIC_DEPTHS, BLOCKS_PER_STAGE, StrideOn


class BasicBlock(nn.Module):
    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample(in_channels, width, stride)

    def forward(self, a_BxCxHxW: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(a_BxCxHxW)))
        shortcut = a_BxCxHxW if self.downsample is None else self.downsample(a_BxCxHxW)
        return torch.relu(shortcut + self.bn2(self.conv2(x)))


class Bottleneck(nn.Module):
    def __init__(self, in_channels: int, width: int, stride: int, stride_on: StrideOn):
        super().__init__()
        on_1x1, on_3x3 = (stride, 1) if stride_on == '1x1' else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, on_1x1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, on_3x3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = downsample(in_channels, 4 * width, stride)

    def forward(self, a_BxCxHxW: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(a_BxCxHxW)))
        x = torch.relu(self.bn2(self.conv2(x)))
        shortcut = a_BxCxHxW if self.downsample is None else self.downsample(a_BxCxHxW)
        return torch.relu(shortcut + self.bn3(self.conv3(x)))


def downsample(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


class ResNet(nn.Module):
    def __init__(self, depth: int, num_classes: int, stride_on: StrideOn):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        in_channels = 64
        for stage, num_blocks in enumerate(BLOCKS_PER_STAGE[depth], start=1):
            width, blocks = 32 * 2**stage, []
            for block in range(num_blocks):
                stride = 2 if stage > 1 and block == 0 else 1
                if depth in BASIC_DEPTHS:
                    blocks.append(BasicBlock(in_channels, width, stride))
                    in_channels = width
                else:
                    blocks.append(Bottleneck(in_channels, width, stride, stride_on))
                    in_channels = 4 * width
            self.add_module(f'layer{stage}', nn.Sequential(*blocks))
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, images_BxCxHxW: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(images_BxCxHxW)))
        x = nn.functional.max_pool2d(x, 3, 2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(x.mean((2, 3)))


def random_resnet(depth: int, num_classes: int, stride_on: StrideOn) -> ResNet:
    """One whose norms have seen data, ready to evaluate."""
    torch.manual_seed(0)
    model = ResNet(depth, num_classes, stride_on)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode='fan_out')
        elif isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.3)
            module.num_batches_tracked.fill_(7)
    return model.eval()
