"""Compiles a program for a target, and finds out about the result: memory, collectives, loops, launches, time."""

import contextlib
import importlib.metadata
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from codinet_jax.compiling import hlo, thunks
from codinet_jax.compiling.targets import Target
from codinet_jax.runtime import sharding

COMPILERS = ('jaxlib', 'libtpu', 'jax-cuda13-plugin', 'nvidia-cudnn-cu13', 'nvidia-cuda-nvcc')
# Of what XLA:TPU says where memory runs out: 'Used 20.1G of 15.75G hbm', '(400.00G) exceeds available HBM (15.75G)'.
NEEDED = re.compile(r'Used ([\d.]+)([MGT]) of|\(([\d.]+)([MGT])\) exceeds')
UNITS = {'M': 2**20, 'G': 2**30, 'T': 2**40}


def compiled(lowered: Any, target: Target, lower_seconds: float) -> dict[str, Any]:
    """Compiles a lowered program and reads the result.

    Args:
      lowered: for the devices of `targets.mesh(target)`.
      target: what it is compiled for.
      lower_seconds: what tracing and lowering it took, to be told beside the compiler's time.

    Returns:
      Everything found, as JSON takes it. Bytes are a chip's, counts those of one run of the program. 'launches' is
      None but on GPUs; all but memory, time and target is None where the program does not fit and none was compiled.
    """
    found: dict[str, Any] = {
        'target': _about(target),
        'seconds': {'lower': lower_seconds},
        'collectives': None,
        'loops': None,
        'conditionals': None,
        'pallas_kernels': None,
        'launches': None,
        'compilers': _versions(),
        'flags': {name: os.environ.get(name) for name in ('XLA_FLAGS', 'LIBTPU_INIT_ARGS')},
    }
    with _dump(target) as (options, read):
        started = time.perf_counter()
        try:
            executable = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            if 'RESOURCE_EXHAUSTED' not in str(error):
                raise
            return found | {'memory': _too_much(target, str(error))}
        finally:
            found['seconds']['compile'] = time.perf_counter() - started
        structure = hlo.structure(executable.as_text())
        dumped = read()
    return found | {
        'memory': _memory(target, executable),
        'collectives': _by_kind(structure.collectives),
        'loops': [loop._asdict() for loop in structure.loops],
        'conditionals': structure.conditionals,
        'pallas_kernels': structure.pallas_kernels,
        'launches': _launches(dumped[0], dumped[1], structure.loops) if dumped else None,
    }


def _about(target: Target) -> dict[str, Any]:
    return {
        'topology': target.name,
        'num_chips': target.num_chips,
        'memory_bytes': target.chip.memory if target.chip else None,
        'usable_bytes': target.chip.usable if target.chip else None,
    }


def _memory(target: Target, executable: Any) -> dict[str, Any]:
    memory = executable.memory_analysis()
    parts = {
        'arguments': memory.argument_size_in_bytes,
        'outputs': memory.output_size_in_bytes,
        'of_them_in_place': memory.alias_size_in_bytes,
        'temporaries': memory.temp_size_in_bytes,
        'code': memory.generated_code_size_in_bytes,
    }
    total = sharding.peak_bytes(executable) + memory.generated_code_size_in_bytes
    fits = total <= target.chip.usable if target.chip else None
    return {'total_bytes': total, 'fits': fits, 'usable_bytes': _usable(target), 'parts': parts, 'message': None}


def _too_much(target: Target, message: str) -> dict[str, Any]:
    found = NEEDED.search(message)
    number, unit = [group for group in found.groups() if group] if found else (None, None)
    return {
        'total_bytes': int(float(number) * UNITS[unit]) if number and unit else None,
        'fits': False,
        'usable_bytes': _usable(target),
        'parts': None,
        'message': message.splitlines()[0],
    }


def _usable(target: Target) -> int | None:
    return target.chip.usable if target.chip else None


def _by_kind(collectives: Sequence[hlo.Collective]) -> dict[str, dict[str, Any]]:
    kinds: dict[str, dict[str, Any]] = {}
    for each in collectives:
        totals = kinds.setdefault(each.kind, {'in_program': 0, 'runs': 0, 'largest_bytes': 0, 'bytes': {}})
        totals['in_program'] += 1
        totals['runs'] += each.runs
        totals['largest_bytes'] = max(totals['largest_bytes'], sum(each.bytes.values()))
        for dtype, num_bytes in each.bytes.items():
            totals['bytes'][dtype] = totals['bytes'].get(dtype, 0) + each.runs * num_bytes
    return kinds


def _launches(sequence: str, metadata: str, loops: Sequence[hlo.Loop]) -> dict[str, Any]:
    names, turns = thunks.names(metadata), {loop.name: loop.turns for loop in loops}
    counted = thunks.launches(
        thunks.parse(sequence), {number: turns.get(name) for number, name in names.items()}, names
    )
    return {
        'fixed': _counts(counted.fixed),
        'open_loops': [loop._asdict() | {'each_turn': _counts(loop.each_turn)} for loop in counted.open_loops],
    }


def _counts(counts: thunks.Counts) -> dict[str, int]:
    return counts._asdict() | {'launches': counts.launches}


@contextlib.contextmanager
def _dump(target: Target) -> Iterator[tuple[dict[str, Any], Callable[[], tuple[str, str] | None]]]:
    """Options that let XLA dump its thunks, and a function that reads sequence and metadata, None where there are none.

    Who has XLA dump to a directory of his own keeps it.
    """
    if target.platform != 'cuda':
        yield {}, lambda: None
        return
    own = re.search(r'--xla_dump_to=(\S+)', os.environ.get('XLA_FLAGS', ''))
    with tempfile.TemporaryDirectory() as temporary:
        directory, started = Path(own.group(1) if own else temporary), time.time()

        def read() -> tuple[str, str] | None:
            # The passes that form graphs dump nothing where there is nothing to form.
            for ending in ('thunk_sequence_after_thunk_passes', 'thunk_sequence'):
                written = [file for file in directory.glob(f'*.{ending}.txt') if file.stat().st_mtime >= started - 1]
                if written:
                    sequence = max(written, key=lambda file: file.stat().st_mtime)
                    metadata = sequence.with_name(sequence.name.replace(f'.{ending}.', '.thunk_metadata.'))
                    return sequence.read_text(), metadata.read_text() if metadata.exists() else ''
            return None

        yield {'xla_dump_hlo_as_text': True} | ({} if own else {'xla_dump_to': temporary}), read


def _versions() -> dict[str, str]:
    versions = {}
    for package in COMPILERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
