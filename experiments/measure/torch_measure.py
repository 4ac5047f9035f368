"""Timing PyTorch on whatever device there is: bursts, CUDA graphs, compilation that may not last for ever."""

import contextlib
import os
import platform
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from codinet_jax.runtime import provenance

BURST_SECONDS = 0.1
WARM_UP = 3
NAGGING = 5.0  # seconds until a limit is held up again, should its exception have been swallowed

Call = Callable[[int], Any]


class TooLong(BaseException):
    """Not an Exception, so that no compiler takes it for a failure of its own and falls back."""


def start() -> torch.device:
    """The device to be on; float32 in TF32 there, as JAX's is by default, and the fastest convolutions that exist."""
    torch.backends.cudnn.benchmark = True
    use_tf32(True)
    if torch.cuda.is_available():
        return torch.device('cuda')
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch.device('cpu')


def use_tf32(is_used: bool) -> None:
    torch.backends.cudnn.allow_tf32 = is_used
    torch.backends.cuda.matmul.allow_tf32 = is_used


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """In whole float32 meanwhile."""
    use_tf32(False)
    yield
    use_tf32(True)


def machine(device: torch.device) -> dict[str, Any]:
    is_cuda = device.type == 'cuda'
    return {
        'commit': provenance.commit(),
        'platform': 'gpu' if is_cuda else 'cpu',
        'device': torch.cuda.get_device_name() if is_cuda else platform.processor() or platform.machine(),
        'cpu_cores': os.cpu_count(),
        'python': platform.python_version(),
        'threads': torch.get_num_threads(),
        'tf32': {'convolutions': torch.backends.cudnn.allow_tf32, 'products': torch.backends.cuda.matmul.allow_tf32},
        'cudnn_benchmark': torch.backends.cudnn.benchmark,
        'versions': {
            'torch': torch.__version__,
            'cuda': torch.version.cuda,
            'cudnn': torch.backends.cudnn.version() if is_cuda else None,
        },
    }


def wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize()


def median_seconds(
    call: Call, device: torch.device, repeats: int, *, warm_up: int = WARM_UP, wait_each: bool = False
) -> float:
    """Of bursts of calls, after some to warm up; a burst is waited for at its end, or after each of its calls."""

    def burst(numbers: range) -> float:
        wait(device)
        started = time.perf_counter()
        for i in numbers:
            call(i)
            if wait_each:
                wait(device)
        wait(device)
        return (time.perf_counter() - started) / len(numbers)

    burst(range(warm_up))
    length = max(1, round(BURST_SECONDS / burst(range(2))))
    return statistics.median(burst(range(turn * length, (turn + 1) * length)) for turn in range(repeats))


def captured(step: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """A CUDA graph of a step, to be replayed, and what the step returned, which each replay overwrites."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    return graph.replay, result


def compile_afresh() -> None:
    """Forgets what was compiled; each shape is compiled for itself, a block once for all that are like it."""
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.config.automatic_dynamic_shapes = False
    torch._dynamo.config.recompile_limit = 64


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Ends what is inside by `TooLong`, as soon as Python is asked again.

    Raises:
      TooLong: the seconds have passed.
    """

    def stop(number: int, frame: Any) -> None:
        del number, frame
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01), NAGGING)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(seconds: float, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What some work found, or the reason why it found nothing; one variant's failure costs no other."""
    started = time.perf_counter()
    try:
        with limit(seconds):
            return work()
    except TooLong:
        return {'failed': f'stopped after {time.perf_counter() - started:.0f} s'}
    except Exception as error:  # whatever a compiler or a driver may raise
        first_line = next(iter(str(error).splitlines()), '')
        return {'failed': f'{type(error).__name__}: {first_line}'[:300]}
