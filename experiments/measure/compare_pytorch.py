"""Our static and compacted forward against PyTorch's static and gathered ones: same weights, decisions and pixels.

    python -m experiments.measure.compare_pytorch --config=cifar10_r110 --run_rate=0.5 --batch_sizes=128
    python -m experiments.measure.compare_pytorch --config.model.dtype=bfloat16 --batch_sizes=1,32,256,1024 \\
        --output=FILE.json

PyTorch is not a requirement of the package: pip install torch. Its network is folded and in channels_last as ours is;
"gathered" is the way a PyTorch user skips at batch: eager, block by block, the rows that run taken out by a boolean
mask, or by their numbers, and put back, routers and all. Logits are compared before anything is timed.

On a CPU both are timed in turns in one process. On CUDA each has a process of its own, one after the other, for either
takes the card's memory for itself: `--apart`. There PyTorch's static network is tried in all the ways that it has:
eager, by cuDNN's fused convolutions, those under CUDA graphs, its blocks compiled, and the whole under max-autotune.
Logits are compared in float32 without TF32; what the dtype asked for makes of them is reported as an error, relative to
the largest logit. Times of float32 are of TF32 on both sides. PyTorch's numbers are written as they come.
"""

import contextlib
import functools
import gc
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import command
from codinet_jax.runtime.errors import InputError

if TYPE_CHECKING:
    from experiments.measure.torch_opponent import Opponent

CONFIG = config_flag.define_config('A network with linear routers.', 'cifar10_r110')
RUN_RATE = flags.DEFINE_float('run_rate', 0.5, 'Share of blocks run, at random.', lower_bound=0, upper_bound=1)
BATCH_SIZES = flags.DEFINE_list('batch_sizes', None, 'Images at a time; unset: 128, or apart 1,32,256,1024.')
REPEATS = flags.DEFINE_integer('repeats', 15, 'Turns that are timed, of every program.', lower_bound=1)
APART = flags.DEFINE_bool('apart', None, 'Each framework in a process of its own; unset: where there is CUDA.')
SIDES = flags.DEFINE_list('sides', ['pytorch', 'ours'], 'Of those apart, which are timed, and in which order.')
TIME_LIMIT = flags.DEFINE_float('time_limit', 270.0, 'Seconds for each side apart.', lower_bound=1)
COMPILE_LIMIT = flags.DEFINE_float('compile_limit', 100.0, 'Seconds for a variant of PyTorch, compilation and all.')
OUTPUT = flags.DEFINE_string('output', None, 'A JSON file to write the numbers of both to.')
SIDE = flags.DEFINE_enum('side', None, ['reference', 'pytorch', 'ours'], 'Set by the command itself.')
EXCHANGE = flags.DEFINE_string('exchange', None, 'Set by the command itself: a directory for what sides report.')

TOLERANCE = 1e-4  # of the largest logit, in float32
CHECKED = 8  # images
MAX_DRAWS = 8


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        import torch
    except ImportError as error:
        raise InputError('PyTorch is not installed: pip install torch.') from error
    config, output = config_flag.read(CONFIG), command.output_file(OUTPUT)
    if config.model.router != 'linear':
        raise InputError(f'model.router is {config.model.router!r}; PyTorch has linear ones here, and no others.')
    if SIDE.value:
        {'reference': refer, 'ours': time_ours, 'pytorch': time_pytorch}[SIDE.value](config)
    elif torch.cuda.is_available() if APART.value is None else APART.value:
        compare_apart(config, output)
    else:
        compare_in_turns(config, output)


def batch_sizes(default: str) -> list[int]:
    given = BATCH_SIZES.value or default.split(',')
    if not all(text.isdecimal() and int(text) for text in given):
        raise InputError(f'--batch_sizes is {",".join(given)}; give numbers above 0, as 1,128.')
    return [int(text) for text in given]


def compare_in_turns(config: ConfigDict, output: pathlib.Path | None) -> None:
    """Both in this process, one after the other in turns, so that a machine that slows down slows both."""
    sizes = batch_sizes('128')
    command.start_devices()

    import torch

    from codinet_jax.config import setup
    from codinet_jax.inference import timing
    from codinet_jax.inference.folding import fold
    from codinet_jax.models.network import drawn
    from codinet_jax.runtime import provenance
    from experiments.measure import torch_measure
    from experiments.measure.torch_opponent import Opponent

    named = setup.read(config)
    model, seed = named.model, named.recipe.seed
    device, variables, found = torch_measure.start(), drawn(model, seed), []
    for batch_size in sizes:
        draws = timing.random_draws(model, batch_size, RUN_RATE.value, min(REPEATS.value, MAX_DRAWS), seed)
        ours = timing.contest(model, named.data.spec, variables, [draws], repeats=3, report=_log)
        theirs = Opponent(model, named.data.spec, fold(variables)['params'], device, draws)
        calls: dict[str, Callable[[int], Any]] = {
            'codinet_jax static': ours.programs['static'].on(draws),
            'codinet_jax compacted': ours.programs['compacted'].on(draws),
            'PyTorch static': theirs.call(theirs.network),
            'PyTorch gathered': theirs.gathered(by_mask=True),
        }
        for ours_name, theirs_name in (list(calls)[::2], list(calls)[1::2]):
            logits, expected = np.asarray(calls[ours_name](0)[0]), calls[theirs_name](0).numpy()
            np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
        medians = timing.interleaved(calls, REPEATS.value)
        found.append(
            {
                'machine': provenance.machine() | {'torch': torch.__version__, 'threads': torch.get_num_threads()},
                'network': f'{config.model.backbone} {config.model.depth}, batch {batch_size}',
                'run_rate': RUN_RATE.value,
                'repeats': REPEATS.value,
                'median_seconds': medians,
                'compacted_over_static': medians['codinet_jax compacted'] / medians['codinet_jax static'],
                'static_over_PyTorch_static': medians['codinet_jax static'] / medians['PyTorch static'],
                'compacted_over_PyTorch_gathered': medians['codinet_jax compacted'] / medians['PyTorch gathered'],
            }
        )
        print(json.dumps(found[-1], indent=2))
    if output:
        output.write_text(json.dumps(found, indent=2) + '\n')


def compare_apart(config: ConfigDict, output: pathlib.Path | None) -> None:
    """A process each: ours answers in float32, PyTorch answers, is checked and timed, then ours is timed."""
    if unknown := [side for side in SIDES.value if side not in ('pytorch', 'ours')]:
        raise InputError(f'There is no side {unknown[0]!r}: --sides takes pytorch, ours or both.')
    batch_sizes('1')
    found: dict[str, Any] = {
        'network': f'{config.model.backbone} {config.model.depth}, {config.model.dtype}',
        'run_rate': RUN_RATE.value,
        'repeats': REPEATS.value,
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no side outlives this process
    with tempfile.TemporaryDirectory() as directory:
        for side in ('reference', *SIDES.value):
            _log(f'--- {side}')
            report = _report_file(side, directory)
            report.unlink(missing_ok=True)
            ending = _run_side(side, directory)
            found[side] = json.loads(report.read_text()) if report.exists() else {}
            found[side]['ending'] = ending
            if output:
                output.write_text(json.dumps(found, indent=2) + '\n')
            if side == 'reference' and ending != 'done':
                raise SystemExit('Ours gave no logits to be compared with; its output is above.')
    if output:
        for side in ('reference', *SIDES.value):  # it is all in the output now
            _report_file(side, '').unlink(missing_ok=True)
    print(_readable(found))
    disagreeing = found.get('pytorch', {}).get('agreement', {})
    if any(error > TOLERANCE for error in disagreeing.values()):
        raise SystemExit(f'In float32 the two differ by more than {TOLERANCE}: their times are of two networks.')


def refer(config: ConfigDict) -> None:
    """Our weights, folded, and our logits of some images: in float32 and whole, and in the dtype asked for."""
    from flax import traverse_util

    from codinet_jax.config import setup
    from codinet_jax.inference import program, timing
    from codinet_jax.inference.folding import fold
    from codinet_jax.models.network import RoutedResNet, drawn
    from codinet_jax.runtime import provenance
    from experiments.measure.torch_opponent import relative_error

    named = setup.read(config)
    model, seed = named.model, named.recipe.seed
    whole, static = model.clone(dtype=jax.numpy.float32), model.static
    with jax.default_matmul_precision('highest'):
        weights = fold(drawn(whole, seed))
        draws = timing.random_draws(model, CHECKED, RUN_RATE.value, 1, seed)

        def logits(of: RoutedResNet, strategy: str) -> np.ndarray:
            # One loop of blocks, which compiles soonest.
            forward = jax.jit(program.program(of, named.data.spec, strategy, unroll=1))
            noise = draws.noise and draws.noise[0]
            return np.asarray(forward(weights, draws.images[0], np.float32(0.5), noise)[0])

        answers = {'static': logits(whole.static, 'masked'), 'compacted': logits(whole, 'compacted')}
    in_dtype = logits(static, 'masked')
    flat = traverse_util.flatten_dict(weights['params'], sep='/')
    arrays = {f'weights/{name}': leaf for name, leaf in flat.items()} | {f'logits/{k}': v for k, v in answers.items()}
    np.savez(_reference(), **arrays)
    error = relative_error(in_dtype, answers['static'])
    _log(f'ours in {config.model.dtype}, as timed: static logits are off by {error:.1e}')
    _report('reference', {'machine': provenance.machine(), 'relative_error': {'static': error}})


def time_ours(config: ConfigDict) -> None:
    command.start_devices()

    from codinet_jax.config import setup
    from codinet_jax.inference import timing, timing_report
    from codinet_jax.models.network import drawn
    from codinet_jax.runtime import provenance

    named = setup.read(config)
    model, spec, seed = named.model, named.data.spec, named.recipe.seed
    variables, contests = drawn(model, seed), []
    for batch_size in batch_sizes('1,32,256,1024'):
        draws = timing.random_draws(model, batch_size, RUN_RATE.value, min(REPEATS.value, MAX_DRAWS), seed)
        contests.append(timing.contest(model, spec, variables, [draws], repeats=REPEATS.value, report=_log))
        print(timing_report.readable(contests[-1].rows), flush=True)
        numbers = timing_report.as_json({'dataset': config.dataset, **config.model.to_dict()}, contests)
        for row in numbers['rows']:
            row['variant'] = row.pop('strategy')
        _report('ours', {'machine': provenance.machine()} | numbers)


def time_pytorch(config: ConfigDict) -> None:
    """Checks PyTorch's logits against ours, then times it in all the ways it has."""
    jax.config.update('jax_platforms', 'cpu')  # it draws pixels here, and takes no memory of the card

    import torch

    from codinet_jax.config import setup
    from codinet_jax.inference import timing
    from experiments.measure import torch_measure
    from experiments.measure.torch_opponent import BLOCKS, CUDA_ONLY, EAGER, LAST, Opponent

    named, device = setup.read(config), torch_measure.start()
    model, params = named.model, _weights()
    whole = model.clone(dtype=jax.numpy.float32)
    numbers: dict[str, Any] = {'machine': torch_measure.machine(device), 'rows': []}

    def opponent(of: Any, batch_size: int, num_draws: int) -> Opponent:
        draws = timing.random_draws(model, batch_size, RUN_RATE.value, num_draws, config.seed)
        return Opponent(of, named.data.spec, params, device, draws)

    with torch_measure.without_tf32():
        numbers['agreement'] = _agreement(opponent(whole, CHECKED, 1))
    _log(f'float32 against ours, of the largest logit: {numbers["agreement"]}')
    _report('pytorch', numbers)

    sizes, num_draws = batch_sizes('1,32,256,1024'), min(REPEATS.value, MAX_DRAWS)
    # What compiles for long comes last, so that a limit takes nothing else with it.
    for names, batch_size in itertools.product((EAGER, BLOCKS, LAST), sizes):
        with torch_measure.without_tf32():
            plain = opponent(whole, batch_size, num_draws)
            expected = plain.call(plain.network)(0).cpu().numpy()
        del plain
        timed = opponent(model, batch_size, num_draws)
        for name in names:
            if device.type != 'cuda' and name in CUDA_ONLY:
                continue
            _log(f'batch {batch_size}, {name} ...')
            work = functools.partial(timed.measured, name, expected, REPEATS.value)
            measured = torch_measure.attempt(COMPILE_LIMIT.value, work)
            numbers['rows'].append({'variant': name, 'batch_size': batch_size} | measured)
            _log(json.dumps(numbers['rows'][-1]))
            _report('pytorch', numbers)
        del timed
        gc.collect()
        if device.type == 'cuda':
            torch.cuda.empty_cache()


def _weights() -> Any:
    """Our folded parameters, which `refer` wrote."""
    from flax import traverse_util

    with np.load(_reference()) as arrays:
        flat = {name.removeprefix('weights/'): arrays[name] for name in arrays if name.startswith('weights/')}
    return traverse_util.unflatten_dict(flat, sep='/')


def _agreement(checked: 'Opponent') -> dict[str, float]:
    """How far PyTorch's logits are from ours, which `refer` wrote, of the largest."""
    from experiments.measure.torch_opponent import relative_error

    with np.load(_reference()) as arrays:
        static, compacted = arrays['logits/static'], arrays['logits/compacted']
    return {
        'static': relative_error(checked.call(checked.network)(0), static),
        'gathered': relative_error(checked.gathered(by_mask=True)(0), compacted),
        'gathered_by_numbers': relative_error(checked.gathered(by_mask=False)(0), compacted),
    }


def _run_side(side: str, directory: str) -> str:
    """How a side ended; one that runs for too long is stopped, and the workers of its compilers with it."""
    command = [sys.executable, '-m', 'experiments.measure.compare_pytorch', *sys.argv[1:]]
    process = subprocess.Popen([*command, f'--side={side}', f'--exchange={directory}'], start_new_session=True)
    try:
        status = process.wait(TIME_LIMIT.value)
        return 'done' if status == 0 else f'failed with status {status}'
    except subprocess.TimeoutExpired:
        return f'stopped after {TIME_LIMIT.value:.0f} s'
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _report(side: str, numbers: dict[str, Any]) -> None:
    """Replaces what a side has reported so far, so that the report of a side that is stopped is whole."""
    path = _report_file(side, EXCHANGE.value or '')
    path.with_suffix('.part').write_text(json.dumps(numbers))
    path.with_suffix('.part').replace(path)


def _reference() -> pathlib.Path:
    return pathlib.Path(EXCHANGE.value or '', 'reference.npz')


def _report_file(side: str, directory: str) -> pathlib.Path:
    """What a side has reported so far: beside the output if there is one, where it outlives this whole command."""
    if output := command.output_file(OUTPUT):
        return output.with_name(f'{output.stem}.{side}.json')
    return pathlib.Path(directory, f'{side}.json')


def _readable(found: dict[str, Any]) -> str:
    lines = [f'{found["network"]}, run rate {found["run_rate"]}']
    rows = [(side, row) for side in ('ours', 'pytorch') for row in found.get(side, {}).get('rows', [])]
    for side, row in sorted(rows, key=lambda each: each[1]['batch_size']):
        what = f'  {row["batch_size"]:5}  {side:7}  {row["variant"]:20}'
        if 'failed' in row:
            lines.append(f'{what}  {row["failed"]}')
            continue
        error = f'  error {row["relative_error"]:.1e}' if row.get('relative_error') is not None else ''
        lines.append(f'{what}  {1e3 * row["median_seconds"]:9.3f} ms  {row["images_per_second"]:11.1f} images/s{error}')
    lines += [
        f'{side} {each["ending"]}'
        for side, each in found.items()
        if isinstance(each, dict) and each['ending'] != 'done'
    ]
    return '\n'.join(lines)


def _log(line: str) -> None:
    print(line, flush=True)


if __name__ == '__main__':
    command.run(main)
