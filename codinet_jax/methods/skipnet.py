"""SkipNet, supervised (Wang et al., arXiv 1711.09485; ucbdrive/skipnet): gates round forward and are soft backward.

A gate reads the input of its block: an LSTM that all blocks share (RNNGate, router 'lstm') or one
or two convolutions (FFGate-II and -I, routers 'feedforward2' and 'feedforward1'). The first block always runs, so that
there are n - 1 gates. A block runs where p is at least a half; the gradient is that of p ("SP" in their Table 3;
`relaxation.rounded`). Cross-entropy is all that is minimised. `routing.relaxation=softmax` is their soft training: its
networks lose most of their accuracy under hard gates (their Table 3), unless a second stage trains them under these.

Here and there: their code skips where p is a half, and we run, as in their paper. Their blocks have no ReLU where a
transition is skipped; ours have. How the mixture's gradient differs is told in `convnet_aig`. Cell and last layer of
the LSTM gate begin as Flax's do; the 400 steps at a low rate that they advise for ResNet-110 are left out of the
variant. They keep the epoch that is best on test data, and we the last one. Their second stage, by reinforcement, is
`skipnet_hrl`.
"""

import dataclasses
from typing import ClassVar

from codinet_jax.methods.method import (
    PLAIN,
    Method,
    Rules,
    Variants,
    cifar_epochs,
    priced_classification,
    relaxed_then_hard,
)
from codinet_jax.routing import relaxation
from codinet_jax.runtime import checks

RELAXATIONS = ('rounded', 'softmax')

_OURS = {
    'method': 'skipnet',
    'model.router': 'lstm',
    'routing.relaxation': 'rounded',
    'loss.alpha': 0.0,
    'loss.beta': 0.0,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkipNet(Method):
    """SkipNet's supervised training.

    Attributes:
      relaxation: 'rounded', or 'softmax' for soft gates.
      temperature: of the gradient, and of soft gates.
    """

    variants: ClassVar[Variants] = {
        'skipnet': _OURS,
        'skipnet_feedforward1': _OURS | {'model.router': 'feedforward1'},
        'skipnet_feedforward2': _OURS | {'model.router': 'feedforward2'},
        'skipnet_authors': PLAIN
        | _OURS
        | {
            'batch_size': 128,
            'model.shortcut': 'projection',
            'routing.initial_run_rate': 0.5,
            'optimizer.weight_decay': 1e-4,
            'stage1.epochs': cifar_epochs(64_000),
            'stage1.learning_rate': 0.1,
            'stage1.decay_epochs': (cifar_epochs(32_000), cifar_epochs(48_000)),
        },
    }

    relaxation: str = 'rounded'
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of('relaxation', self.relaxation, RELAXATIONS)
        checks.above_zero('temperature', self.temperature)

    def stages(self) -> tuple[Rules, Rules]:
        return relaxed_then_hard(relaxation.RELAXATIONS[self.relaxation], self.temperature, priced_classification)
