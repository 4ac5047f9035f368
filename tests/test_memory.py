"""Memory that a process keeps: what is freed costs nothing to have again, by the kernel's own count of pages."""

import subprocess
import sys
from typing import Any

import jax
import pytest

from codinet_jax.runtime import command, memory

OF_BUFFERS = """
import resource, sys
import numpy as np
from codinet_jax.runtime import memory

if sys.argv[1] == 'kept':
    memory.keep()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in (40, 70, 50):
        np.ones(size << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first, second = faults(), faults()
status = open('/proc/self/status').read()
peak = int(status.split('VmHWM:')[1].split()[0]) >> 10
print(first, second, peak)
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='nothing is kept elsewhere')
def test_what_is_freed_is_had_again_without_the_kernel() -> None:
    def counted(how: str) -> list[int]:
        done = subprocess.run([sys.executable, '-c', OF_BUFFERS, how], check=True, capture_output=True, text=True)
        return [int(number) for number in done.stdout.split()]

    (_, as_ever, _), (first, again, peak) = counted('given back'), counted('kept')
    assert as_ever > 160 << 20 >> 21 and again < 10
    # A machine whose kernel has large pages takes fewer; none is taken of what is only set aside.
    assert first <= 70 << 20 >> 12 and peak < 1000


@pytest.mark.parametrize(
    ('platforms', 'trains', 'is_kept'), [('cpu', True, True), ('cpu', False, False), ('cuda,cpu', True, False)]
)
def test_a_process_keeps_it_that_trains_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, platforms: str, trains: bool, is_kept: bool
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(memory, 'keep', lambda: kept.append(None))
    monkeypatch.setenv('JAX_NUM_CPU_DEVICES', '8')
    before = jax.config.jax_platforms
    jax.config.update('jax_platforms', platforms)
    try:
        command.start_devices(trains=trains)
    finally:
        jax.config.update('jax_platforms', before)
    assert bool(kept) == is_kept
