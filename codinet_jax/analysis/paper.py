"""What the paper and those it compares itself with report, as data: one row a network, by data set.

GFLOPs are as the paper counts them: 2 MACs on CIFAR and SVHN, MACs on ImageNet.
"""

from typing import NamedTuple


class Reported(NamedTuple):
    """A published result: top-1 in per cent, GFLOPs an image, and where it stands."""

    method: str
    backbone: str
    gflops: float
    top1: float
    source: str


REPORTED: dict[str, tuple[Reported, ...]] = {
    'cifar10': (
        Reported('CoDiNet', 'ResNet-110', 0.29, 94.47, 'Table 5'),
        Reported('CoDiNet', 'ResNet-110', 0.27, 94.30, 'Table 5'),
        Reported('CoDiNet', 'ResNet-110', 0.22, 93.94, 'Table 5'),
        Reported('CoDiNet', 'ResNet-110', 0.20, 93.71, 'Table 5'),
        Reported('CoDiNet', 'ResNet-110', 0.10, 92.45, 'Table 5'),
        Reported('static', 'ResNet-110', 0.50, 93.60, 'Table 7'),
        Reported('SkipNet', 'ResNet-110', 0.09, 92.38, 'Table 7'),
        Reported('BlockDrop', 'ResNet-110', 0.17, 93.60, 'Table 7'),
        Reported('Conv-AIG', 'ResNet-110', 0.41, 94.24, 'Table 7'),
    ),
    'svhn': (
        Reported('CoDiNet', 'ResNet-110', 0.39, 94.28, 'Table 4'),
        Reported('vanilla', 'ResNet-110', 0.38, 93.15, 'Table 4'),
        Reported('static', 'ResNet-110', 0.50, 94.19, 'Table 4'),
    ),
    'imagenet2012': (
        Reported('CoDiNet', 'ResNet-50', 3.1, 76.63, 'Table 3'),
        Reported('vanilla', 'ResNet-50', 3.0, 75.46, 'Table 3'),
        Reported('static', 'ResNet-50', 3.8, 77.15, 'Table 3'),
    ),
}

# Other skip units, backbones and exits that Table 7 sets beside those above, on CIFAR-10.
COMPARED = (
    Reported('IamNN', 'ResNet-101', 1.10, 94.60, 'Table 7'),
    Reported('CGap', 'ResNet-110', 0.19, 93.43, 'Table 7'),
    Reported('ACT', 'ResNet-110', 0.38, 93.50, 'Table 7'),
    Reported('SACT', 'ResNet-110', 0.31, 93.40, 'Table 7'),
    Reported('DDI', 'ResNet-74', 0.14, 93.88, 'Table 7'),
    Reported('DG-Net', 'ResNet-101', 3.20, 93.99, 'Table 7'),
    Reported('DG-Net (light)', 'ResNet-101', 2.22, 91.99, 'Table 7'),
)

# Fig. 8 is a picture alone. PFEC itself tells of 2.13e8 and 1.55e8 MACs at errors of 6.45 and 6.70 %; for LCCL, the
# other method in it, no numbers were found.
PRUNED = (
    Reported('PFEC', 'ResNet-110', 0.426, 93.55, 'arXiv:1608.08710, Table 1'),
    Reported('PFEC', 'ResNet-110', 0.310, 93.30, 'arXiv:1608.08710, Table 1'),
)

# Images of 10,000 that take the route of their augmentation (section 4.4.1: ResNet-110 on CIFAR-10).
SAME_ROUTE = {'CoDiNet': 5342 / 10_000, 'vanilla': 2265 / 10_000}

# FLOPs that the paper counts for one multiply-accumulate.
FLOPS_PER_MAC = {'imagenet2012': 1}


def gflops(dataset: str, macs: float) -> float:
    """MACs of an image as the paper would state them for this data set."""
    return FLOPS_PER_MAC.get(dataset, 2) * macs / 1e9
