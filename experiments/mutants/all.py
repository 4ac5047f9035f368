"""All mutants there are."""

from experiments.mutants.data import DATA
from experiments.mutants.fused_cpu import FUSED_CPU
from experiments.mutants.inference import INFERENCE
from experiments.mutants.kernels import KERNELS
from experiments.mutants.models import MODELS
from experiments.mutants.routing import ROUTING
from experiments.mutants.training import TRAINING

MUTANTS = (*ROUTING, *MODELS, *KERNELS, *FUSED_CPU, *TRAINING, *INFERENCE, *DATA)
