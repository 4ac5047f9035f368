"""Signals that ask a run to stop, collected until the steps that the devices were given are done."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import jax

from codinet_jax.runtime.console import log


class Stopped(Exception):
    """The run was asked to stop, and has saved its state."""

    def __init__(self, step: int, signal_number: int):
        super().__init__(f'stopped and saved at step {step}; the same command goes on from there.')
        self.signal_number = signal_number


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of dying of them; a second one kills as usual.

    Of several hosts none may stop alone: there JAX takes SIGTERM, and the checkpoints tell when to stop together.
    """
    received: list[int] = []
    if jax.process_count() > 1:
        with _interrupt_terminates():
            yield received
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.getsignal(number) for number in numbers]

    def receive(number: int, _: Any) -> None:
        received.append(number)
        log('stopping: what is on its way is finished and saved; once more stops at once.')
        for each, handler in zip(numbers, previous, strict=True):
            signal.signal(each, handler)

    for number in numbers:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def _interrupt_terminates() -> Iterator[None]:
    """Lets the first SIGINT count as SIGTERM."""
    previous = signal.getsignal(signal.SIGINT)

    def receive(_number: int, _frame: Any) -> None:
        log('stopping all hosts: what is on its way is finished and saved; once more stops at once.')
        signal.signal(signal.SIGINT, previous)
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGINT, receive)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
