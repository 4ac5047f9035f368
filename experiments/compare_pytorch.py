"""Our static and compacted forward against PyTorch's static and gathered ones: same weights, decisions and pixels.

    python -m experiments.compare_pytorch --config=configs/cifar10_r110.py --run_rate=0.5 --batch_sizes=128
    python -m experiments.compare_pytorch --config.model.dtype=bfloat16 --batch_sizes=1,32,256,1024 --output=FILE.json

PyTorch is not a requirement of the package: pip install torch. Its network is folded and in channels_last as ours is;
"gathered" is the way a PyTorch user skips at batch: eager, block by block, the rows that run taken out by a boolean
mask, or by their numbers, and put back, routers and all. Logits are compared before anything is timed.

On a CPU both are timed in turns in one process. On CUDA each has a process of its own, one after the other, for either
takes the card's memory for itself: `--apart`. There PyTorch's static network is tried in all the ways that it has:
eager, by cuDNN's fused convolutions, those under CUDA graphs, its blocks compiled, and the whole under max-autotune.
Logits are compared in float32 without TF32; what the dtype asked for makes of them is told as an error, relative to the
largest logit. Times of float32 are of TF32 on both sides. PyTorch's numbers are written as they come.
"""

import contextlib
import functools
import gc
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from codinet_jax import doors
from codinet_jax.errors import InputError

CONFIG = config_flags.DEFINE_config_file('config', 'configs/cifar10_r110.py', 'A network with linear routers.')
RUN_RATE = flags.DEFINE_float('run_rate', 0.5, 'Share of blocks run, at random.', lower_bound=0, upper_bound=1)
BATCH_SIZES = flags.DEFINE_list('batch_sizes', None, 'Images at a time; unset: 128, or apart 1,32,256,1024.')
REPEATS = flags.DEFINE_integer('repeats', 15, 'Turns that are timed, of every program.', lower_bound=1)
APART = flags.DEFINE_bool('apart', None, 'Each framework in a process of its own; unset: where there is CUDA.')
SIDES = flags.DEFINE_list('sides', ['pytorch', 'ours'], 'Of those apart, which are timed, and in which order.')
TIME_LIMIT = flags.DEFINE_float('time_limit', 270.0, 'Seconds for each side apart.', lower_bound=1)
COMPILE_LIMIT = flags.DEFINE_float('compile_limit', 100.0, 'Seconds for a variant of PyTorch, compilation and all.')
OUTPUT = flags.DEFINE_string('output', None, 'A JSON file to write the numbers of both to.')
SIDE = flags.DEFINE_enum('side', None, ['reference', 'pytorch', 'ours'], 'Set by the command itself.')
EXCHANGE = flags.DEFINE_string('exchange', None, 'Set by the command itself: a directory for what sides tell.')

TOLERANCE = 1e-4  # of the largest logit, in float32
CHECKED = 8  # images
MAX_DRAWS = 8


def main(argv: Sequence[str]) -> None:
    del argv
    try:
        import torch
    except ImportError as error:
        raise InputError('PyTorch is not installed: pip install torch.') from error
    config, output = doors.read_config(CONFIG), doors.output_file(OUTPUT)
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
    doors.start_devices()

    import torch

    from codinet_jax import provenance
    from codinet_jax.inference import program, timing
    from codinet_jax.inference.folding import fold
    from experiments import torch_measure

    device, variables, found = torch_measure.start(), program.untrained(config), []
    for batch_size in sizes:
        draws = timing.random_draws(config, batch_size, RUN_RATE.value, min(REPEATS.value, MAX_DRAWS))
        ours = timing.contest(config, variables, [draws], repeats=3, report=_say)
        theirs = Opponent(config, fold(variables)['params'], device, draws)
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
            _say(f'--- {side}')
            told = _told(side, directory)
            told.unlink(missing_ok=True)
            ending = _run_side(side, directory)
            found[side] = json.loads(told.read_text()) if told.exists() else {}
            found[side]['ending'] = ending
            if output:
                output.write_text(json.dumps(found, indent=2) + '\n')
            if side == 'reference' and ending != 'done':
                raise SystemExit('Ours gave no logits to be compared with; what it said is above.')
    if output:
        for side in ('reference', *SIDES.value):  # it is all in the output now
            _told(side, '').unlink(missing_ok=True)
    print(_readable(found))
    disagreeing = found.get('pytorch', {}).get('agreement', {})
    if any(error > TOLERANCE for error in disagreeing.values()):
        raise SystemExit(f'In float32 the two differ by more than {TOLERANCE}: their times are of two networks.')


def refer(config: ConfigDict) -> None:
    """Our weights, folded, and our logits of some images: in float32 and whole, and in the dtype asked for."""
    from flax import traverse_util

    from codinet_jax import provenance
    from codinet_jax.inference import program, timing
    from codinet_jax.inference.folding import fold

    whole = config.copy_and_resolve_references()
    whole.model.dtype = 'float32'
    static, static_whole = config.copy_and_resolve_references(), whole.copy_and_resolve_references()
    static.model.router = static_whole.model.router = 'static'
    with jax.default_matmul_precision('highest'):
        weights = fold(program.untrained(whole))
        draws = timing.random_draws(config, CHECKED, RUN_RATE.value, 1)

        def logits(of: ConfigDict, strategy: str) -> np.ndarray:
            # One loop of blocks, which compiles soonest.
            forward = jax.jit(program.program(of, strategy, unroll=1))
            noise = draws.noise and draws.noise[0]
            return np.asarray(forward(weights, draws.images[0], np.float32(0.5), noise)[0])

        answers = {'static': logits(static_whole, 'masked'), 'compacted': logits(whole, 'compacted')}
    in_dtype = logits(static, 'masked')
    flat = traverse_util.flatten_dict(weights['params'], sep='/')
    arrays = {f'weights/{name}': leaf for name, leaf in flat.items()} | {f'logits/{k}': v for k, v in answers.items()}
    np.savez(_reference(), **arrays)
    error = relative_error(in_dtype, answers['static'])
    _say(f'ours in {config.model.dtype}, as timed: static logits are off by {error:.1e}')
    _tell('reference', {'machine': provenance.machine(), 'relative_error': {'static': error}})


def time_ours(config: ConfigDict) -> None:
    doors.start_devices()

    from codinet_jax import provenance
    from codinet_jax.inference import program, timing

    variables, contests = program.untrained(config), []
    for batch_size in batch_sizes('1,32,256,1024'):
        draws = timing.random_draws(config, batch_size, RUN_RATE.value, min(REPEATS.value, MAX_DRAWS))
        contests.append(timing.contest(config, variables, [draws], repeats=REPEATS.value, report=_say))
        print(timing.readable(contests[-1].rows), flush=True)
        told = timing.as_json(config, contests)
        for row in told['rows']:
            row['variant'] = row.pop('strategy')
        _tell('ours', {'machine': provenance.machine()} | told)


def time_pytorch(config: ConfigDict) -> None:
    """Checks PyTorch's logits against ours, then times it in all the ways it has."""
    jax.config.update('jax_platforms', 'cpu')  # it draws pixels here, and takes no memory of the card

    import torch
    from flax import traverse_util

    from codinet_jax.inference import timing
    from experiments import torch_measure

    device = torch_measure.start()
    with np.load(_reference()) as arrays:
        flat = {name.removeprefix('weights/'): arrays[name] for name in arrays if name.startswith('weights/')}
        expected = {name: arrays[f'logits/{name}'] for name in ('static', 'compacted')}
    params = traverse_util.unflatten_dict(flat, sep='/')
    whole = config.copy_and_resolve_references()
    whole.model.dtype = 'float32'
    told: dict[str, Any] = {'machine': torch_measure.machine(device), 'rows': []}

    draws = timing.random_draws(config, CHECKED, RUN_RATE.value, 1)
    checked = Opponent(whole, params, device, draws)
    torch_measure.use_tf32(False)
    told['agreement'] = {
        'static': relative_error(checked.call(checked.network)(0), expected['static']),
        'gathered': relative_error(checked.gathered(by_mask=True)(0), expected['compacted']),
        'gathered_by_numbers': relative_error(checked.gathered(by_mask=False)(0), expected['compacted']),
    }
    torch_measure.use_tf32(True)
    _say(f'float32 against ours, of the largest logit: {told["agreement"]}')
    _tell('pytorch', told)

    sizes = batch_sizes('1,32,256,1024')
    # What compiles for long comes last, so that a limit takes nothing else with it.
    for names in (EAGER, BLOCKS, LAST):
        for batch_size in sizes:
            draws = timing.random_draws(config, batch_size, RUN_RATE.value, min(REPEATS.value, MAX_DRAWS))
            torch_measure.use_tf32(False)
            plain = Opponent(whole, params, device, draws)
            expected_here = plain.call(plain.network)(0).cpu().numpy()
            torch_measure.use_tf32(True)
            del plain
            opponent = Opponent(config, params, device, draws)
            for name in names:
                if device.type != 'cuda' and name in CUDA_ONLY:
                    continue
                _say(f'batch {batch_size}, {name} ...')
                measured = torch_measure.attempt(
                    COMPILE_LIMIT.value, functools.partial(opponent.measured, name, expected_here)
                )
                told['rows'].append({'variant': name, 'batch_size': batch_size} | measured)
                _say(json.dumps(told['rows'][-1]))
                _tell('pytorch', told)
            del opponent
            gc.collect()
            if device.type == 'cuda':
                torch.cuda.empty_cache()


EAGER = ('static', 'static_graph', 'static_fused', 'static_fused_graph', 'gathered', 'gathered_by_numbers')
BLOCKS = ('static_blocks', 'static_blocks_graph')
LAST = ('static_compiled', 'gathered_tried')
CUDA_ONLY = ('static_graph', 'static_fused', 'static_fused_graph', 'static_blocks_graph')


class Opponent:
    """A folded network in PyTorch that answers the i-th of some draws, which lie on its device already."""

    def __init__(self, config: ConfigDict, params: Any, device: Any, draws: Any):
        import torch

        from codinet_jax import settings
        from experiments import torch_network

        dataset, arch = settings.dataset(config), settings.architecture(config)
        self.device, self.dtype = device, getattr(torch, config.model.dtype)
        self.network = torch_network.Network(arch, dataset.mean, dataset.std, routed=True, folded=True)
        torch_network.load(self.network, arch, params, {})
        self.network.convolve_in(self.dtype).to(device).eval()
        self.pixels = [torch.from_numpy(pixels).to(device) for pixels in draws.images]
        self.noise = [torch.from_numpy(noise).to(device) for noise in draws.noise]

    def call(self, forward: Callable[[Any], Any]) -> Callable[[int], Any]:
        import torch

        def answer(i: int) -> Any:
            with torch.inference_mode():
                return forward(self.pixels[i % len(self.pixels)])

        return answer

    def gathered(self, *, by_mask: bool) -> Callable[[int], Any]:
        import torch

        def answer(i: int) -> Any:
            k = i % len(self.pixels)
            with torch.inference_mode():
                return self.network.gathered(self.pixels[k], self.noise[k], by_mask=by_mask)

        return answer

    def measured(self, name: str, expected: np.ndarray) -> dict[str, Any]:
        """Median seconds of a variant, and the error of its static logits for the first of the draws."""
        import torch

        from experiments import torch_measure

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
            call, self.device, REPEATS.value, warm_up=MAX_DRAWS, wait_each=batch_size == 1
        )
        return {
            'median_seconds': seconds,
            'images_per_second': batch_size / seconds,
            'compile_seconds': compile_seconds,
            'relative_error': error,
        }

    def _ready(self, name: str) -> Callable[[int], Any]:
        import torch

        from experiments import torch_measure

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
        import torch

        from experiments import torch_measure

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


def _run_side(side: str, directory: str) -> str:
    """How a side ended; one that runs for too long is stopped, and the workers of its compilers with it."""
    command = [sys.executable, '-m', 'experiments.compare_pytorch', *sys.argv[1:]]
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


def _tell(side: str, told: dict[str, Any]) -> None:
    """Replaces what a side has told so far, so that a side that is stopped has told something whole."""
    path = _told(side, EXCHANGE.value or '')
    path.with_suffix('.part').write_text(json.dumps(told))
    path.with_suffix('.part').replace(path)


def _reference() -> pathlib.Path:
    return pathlib.Path(EXCHANGE.value or '', 'reference.npz')


def _told(side: str, directory: str) -> pathlib.Path:
    """What a side has told so far: beside the output if there is one, where it outlives this whole command's end."""
    if output := doors.output_file(OUTPUT):
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


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == '__main__':
    doors.open_door(main)
