"""What scripts that check and time kernels of our own share."""

import json
import time
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from codinet_jax.runtime import command, provenance

OUTPUT = flags.DEFINE_string('output', None, 'JSON file for all that is measured.')
REHEARSE = flags.DEFINE_bool('rehearse', False, 'On the CPU, thread by thread, to try the command and no kernel.')
TIME_ANYWAY = flags.DEFINE_bool('time_anyway', False, 'Time what is wrong, too.')
STARTED = time.perf_counter()


class Report:
    """All that is measured, written to the output as it comes."""

    def __init__(self, **numbers: Any):
        self._output = command.output_file(OUTPUT)
        self.checks: list[dict[str, Any]] = []
        self.numbers = {'machine': provenance.machine(), **numbers, 'checks': self.checks, 'times': []}

    def add(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Adds to a list of rows, and saves."""
        self.numbers[name] += rows
        self.save()

    def save(self) -> None:
        self.numbers['seconds'] = seconds()
        if self._output:
            self._output.write_text(json.dumps(self.numbers, indent=1))


def seconds() -> float:
    """Since the start."""
    return time.perf_counter() - STARTED


def log(line: str) -> None:
    print(f'{seconds():6.1f} s  {line}', flush=True)


def platform() -> Any:
    """Whose kernels are tried."""
    return 'cpu' if REHEARSE.value else 'CUDA'


def spoil_memory() -> None:
    """Fills the memory that outputs will be given: what a kernel leaves out is then NaN, and no number by luck."""
    jax.block_until_ready([jnp.full((1 << 20,), jnp.nan) for _ in range(1 if REHEARSE.value else 64)])
