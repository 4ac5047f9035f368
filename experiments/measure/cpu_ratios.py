"""All our times on a CPU against PyTorch's and against each other's, in turns: a line for each ratio, and its goal.

    JAX_NUM_CPU_DEVICES=2 python -m experiments.measure.cpu_ratios
    python -m experiments.measure.cpu_ratios --parts=training --repeats=30 --output=FILE.json

Inference is of a folded ResNet-110 with linear routers, untrained, on random pixels: 128 images over all devices at one
half and at all of the blocks, and one image; by the fused kernel and by XLA. Training is stage 1's step of a ResNet-32,
64 views, routed and static, by the convolutions that a run takes here, and by XLA's. With --parts=training the process
keeps its memory, as one that trains does; PyTorch then has it too.
Every turn calls each of what is compared; a ratio is of medians, with that of the fastest turns beside it, which other
work on the machine sways less. On a machine that is busy, --seconds=cpu counts the process's own seconds; give one
device then, for threads that wait for one another count as well.

PyTorch is not a requirement of the package: pip install torch.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import flags

from codinet_jax.runtime import command
from codinet_jax.runtime.errors import InputError

PARTS = flags.DEFINE_list('parts', ['batch', 'one', 'training'], 'What is timed, of batch, one and training.')
REPEATS = flags.DEFINE_integer('repeats', 15, 'Turns of every part; one of one image is of ten calls.', lower_bound=1)
SECONDS = flags.DEFINE_enum('seconds', 'wall', ['wall', 'cpu'], 'By the clock, or those that this process worked.')
BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Images of a batch, over all devices.', lower_bound=1)
OUTPUT = flags.DEFINE_string('output', None, 'A JSON file to write the numbers to.')

BATCH_SIZE_TRAINED, NUM_VIEWS = 16, 4
GOALS: dict[str, dict[tuple[str, str], float | None]] = {
    'batch': {
        ('static', 'PyTorch static'): 1.0,
        ('fused 0.5', 'PyTorch gathered'): 0.95,
        ('fused 0.5', 'static'): 0.53,
        ('fused 1', 'static'): 1.04,
        ('static', 'static by XLA'): None,
        ('fused 0.5', 'compacted 0.5'): None,
    },
    'one': {
        ('fused 0.5', 'static'): 0.55,
        ('static', 'PyTorch static'): None,
        ('static', 'static by XLA'): None,
        ('fused 0.5', 'conditional 0.5'): None,
    },
    'training': {
        ('routed', 'PyTorch routed'): 1.2,
        ('static', 'PyTorch static'): 1.2,
        ('routed', 'routed by XLA'): None,
        ('static', 'static by XLA'): None,
    },
}


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        import torch
    except ImportError as error:
        raise InputError('PyTorch is not installed: pip install torch.') from error
    if unknown := [part for part in PARTS.value if part not in GOALS]:
        raise InputError(f'There is no part {unknown[0]!r}: --parts takes some of {", ".join(GOALS)}.')
    output = command.output_file(OUTPUT)
    command.start_devices(trains=PARTS.value == ['training'])
    from codinet_jax.runtime import provenance
    from experiments.measure import report, torch_measure

    torch_measure.start()
    torch.set_num_threads(jax.device_count())
    found: dict[str, Any] = {
        'machine': provenance.machine() | {'torch': torch.__version__, 'threads': torch.get_num_threads()},
        'seconds': SECONDS.value,
    }
    makers = {'batch': of_a_batch, 'one': of_one, 'training': of_training}
    for part in PARTS.value:
        seconds = in_turns(makers[part](), REPEATS.value, burst=10 if part == 'one' else 1)
        found[part] = {name: summary(times) for name, times in seconds.items()}
        for (ours, theirs), goal in GOALS[part].items():
            print(ratio(part, ours, theirs, seconds, goal), flush=True)
    report.show(found, str(output) if output else None)


def of_a_batch() -> dict[str, Callable[[int], Any]]:
    model, contestant, opponent = _inference(BATCH_SIZE.value)
    half, whole = (_draws(model, BATCH_SIZE.value, rate) for rate in (0.5, 1.0))
    fused, theirs = contestant(model, 'fused', half), opponent(half)
    return {
        'static': contestant(model.static, 'fused', half).on(half),
        'fused 0.5': fused.on(half),
        'fused 1': fused.on(whole),
        'static by XLA': contestant(model.static, 'masked', half).on(half),
        'compacted 0.5': contestant(model, 'compacted', half).on(half),
        'PyTorch static': theirs.call(theirs.network),
        'PyTorch gathered': theirs.gathered(by_mask=True),
    }


def of_one() -> dict[str, Callable[[int], Any]]:
    model, contestant, opponent = _inference(1)
    half = _draws(model, 1, 0.5)
    theirs = opponent(half)
    return {
        'static': contestant(model.static, 'fused', half).on(half),
        'fused 0.5': contestant(model, 'fused', half).on(half),
        'static by XLA': contestant(model.static, 'masked', half).on(half),
        'conditional 0.5': contestant(model, 'conditional', half).on(half),
        'PyTorch static': theirs.call(theirs.network),
    }


def of_training() -> dict[str, Callable[[int], Any]]:
    from codinet_jax.config import default, setup
    from configs import cifar10_r32
    from experiments.measure.stepper import Stepper
    from experiments.measure.torch_trainer import Trainer

    config = cifar10_r32.get_config()
    config.batch_size, config.num_views = BATCH_SIZE_TRAINED, NUM_VIEWS
    static = default.with_variant(config.copy_and_resolve_references(), 'static')
    calls: dict[str, Callable[[int], Any]] = {}
    for name, each in (('routed', setup.read(config)), ('static', setup.read(static))):
        by_xla = Stepper(dataclasses.replace(each, convolution='xla'))
        steppers: dict[str, Any] = {
            name: Stepper(each),
            f'{name} by XLA': by_xla,
            f'PyTorch {name}': Trainer(each, _device()),
        }
        calls |= {whose: _ignoring_turns(stepper.step) for whose, stepper in steppers.items()}
    return calls


def _ignoring_turns(step: Callable[[], Any]) -> Callable[[int], Any]:
    return lambda turn: step()


def in_turns(calls: Mapping[str, Callable[[int], Any]], repeats: int, burst: int) -> dict[str, list[float]]:
    """The seconds of each call, turn by turn and a burst of them at a time, after a turn that is not counted."""
    clock = time.perf_counter if SECONDS.value == 'wall' else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            started = clock()
            for i in range(turn * burst, (turn + 1) * burst):
                jax.block_until_ready(call(i))
            seconds[name].append((clock() - started) / burst)
    return {name: times[1:] for name, times in seconds.items()}


def ratio(part: str, ours: str, theirs: str, seconds: Mapping[str, Sequence[float]], goal: float | None) -> str:
    medians, fastest = ((of(seconds[ours]), of(seconds[theirs])) for of in (statistics.median, min))
    wanted = '' if goal is None else f', wanted {goal:.2f}'
    return (
        f'{part:8}  {ours} / {theirs}: {medians[0] / medians[1]:.3f} ({1e3 * medians[0]:.1f} / {1e3 * medians[1]:.1f} '
        f'ms), of the fastest turns {fastest[0] / fastest[1]:.3f}{wanted}'
    )


def summary(times: Sequence[float]) -> dict[str, float]:
    return {'median': statistics.median(times), 'fastest': min(times)}


def _inference(batch_size: int) -> Any:
    """A network, and makers of contestants: ours of a strategy, and PyTorch's."""
    from codinet_jax.config import setup
    from codinet_jax.inference import program, timing
    from codinet_jax.inference.folding import fold
    from codinet_jax.models.network import drawn
    from configs import cifar10_r110
    from experiments.measure.torch_opponent import Opponent

    named = setup.read(cifar10_r110.get_config())
    model, spec = named.model, named.data.spec
    variables = drawn(model, 0)
    spread_over = max(d for d in range(1, jax.device_count() + 1) if batch_size % d == 0)

    def contestant(of: Any, strategy: str, draws: Any) -> Any:
        return timing.Contestant(*program.ready(of, spec, strategy, variables), spread_over, draws, 0.5)

    def opponent(draws: Any) -> Any:
        return Opponent(model, spec, fold(variables)['params'], _device(), draws)

    return model, contestant, opponent


def _draws(model: Any, batch_size: int, run_rate: float) -> Any:
    from codinet_jax.inference import timing

    return timing.random_draws(model, batch_size, run_rate, 8, 0)


def _device() -> Any:
    import torch

    return torch.device('cpu')


if __name__ == '__main__':
    command.run(main)
