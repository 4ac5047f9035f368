"""Commands as forks of one interpreter that has imported the package: importing takes longer than most of them run.

A fork is a process like one of `python -m codinet_jax.NAME`: it has its own directory, variables, arguments and
streams, and is a child of this process, which waits for it, sends it signals and kills it. Where a test is about how a
command starts, as by what is installed or where it is found, it is to be started afresh.
"""

import atexit
import ctypes
import functools
import gc
import importlib
import inspect
import json
import os
import pkgutil
import runpy
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

REPOSITORY = str(Path(__file__).parent.parent)
# Variables that a fork can be given; others may have been read when the interpreter imported what reads them.
VARIABLES = frozenset({'JAX_NUM_CPU_DEVICES', 'TFDS_DATA_DIR', 'CAREFUL_STEPS'})  # the last: see quick_runs
REQUEST_BYTES = 1 << 17
PR_SET_CHILD_SUBREAPER = 36

_one_at_a_time = threading.Lock()


class Fork(subprocess.Popen[str]):
    """`Popen` of `[sys.executable, '-m', MODULE, ...]`, which forks where that would start Python."""

    def _execute_child(self, *given: Any) -> None:
        call = inspect.signature(super()._execute_child).bind(*given).arguments  # type: ignore[misc]
        pipes = {end: call[end] for end in ('p2cread', 'p2cwrite', 'c2pread', 'c2pwrite', 'errread', 'errwrite')}
        ends = pipes['p2cread'], pipes['c2pwrite'], pipes['errwrite']
        streams = [number if end == -1 else end for number, end in enumerate(ends)]
        _, _, module, *flags = call['args']
        what = {'module': module, 'flags': flags, 'directory': str(call['cwd']), 'variables': dict(call['env'])}
        with _one_at_a_time:
            interpreter, channel = _interpreter()
            socket.send_fds(channel, [json.dumps(what).encode()], streams)
            answer = channel.recv(REQUEST_BYTES)
        if not answer:
            raise AssertionError(interpreter.communicate()[0])
        self.pid = int(answer)
        self._child_created = True
        self._close_pipe_fds(*pipes.values())  # type: ignore[attr-defined]


@functools.cache
def _interpreter() -> tuple[subprocess.Popen[str], socket.socket]:
    """An interpreter that ends with this process, and the channel to it. This process becomes the parent of those whose
    parents have ended, as those of its forks have.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        interpreter = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            cwd=REPOSITORY,
            env=own_variables() | {'PYTHONPATH': REPOSITORY, 'JAX_PLATFORMS': 'cpu'},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # as of the forks: a stream of what can seek cannot become one of what cannot
            stderr=subprocess.STDOUT,
            text=True,
        )

    @atexit.register
    def end() -> None:
        ours.close()
        interpreter.communicate()

    return interpreter, ours


def own_variables() -> dict[str, str]:
    """This process's; pytest takes one of them away between tests, while a test file's threads start commands."""
    found = ((name, os.environ.get(name)) for name in os.environ)
    return {name: value for name, value in found if value is not None}


def import_package() -> None:
    """Every module but the commands, for these define flags."""
    import codinet_jax
    from codinet_jax.__main__ import COMMANDS

    commands = {f'codinet_jax.{name}' for name in (*COMMANDS, '__main__')}
    for found in pkgutil.walk_packages(codinet_jax.__path__, 'codinet_jax.'):
        if found.name not in commands:
            importlib.import_module(found.name)
    import quick_runs

    quick_runs.begin()
    gc.collect()
    gc.freeze()  # a fork that collected all of it would copy it first


def fork_for_each(channel: socket.socket) -> dict[str, Any]:
    """Forks for each that is asked for, until nobody is left to ask; returns in the fork, with what it is to be."""
    while True:
        what, streams, _, _ = socket.recv_fds(channel, REQUEST_BYTES, 3)
        if not what:
            sys.exit()
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            between = os.getpid()
            if os.fork() != 0:
                os._exit(0)
            while os.getppid() == between:  # until who asked has adopted it
                time.sleep(0.001)
            os.write(writing, str(os.getpid()).encode())
            channel.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            for each in (reading, writing, *streams):
                os.close(each)
            return dict(json.loads(what))
        os.waitpid(between, 0)
        channel.send(os.read(reading, REQUEST_BYTES))
        for each in (reading, writing, *streams):
            os.close(each)


def become(module: str, flags: list[str], directory: str, variables: dict[str, str]) -> None:
    """Does what `python -m` does in that directory and under these variables."""
    import jax

    os.chdir(directory)
    os.environ.clear()
    os.environ.update(variables)
    if devices := variables.get('JAX_NUM_CPU_DEVICES'):
        jax.config.update('jax_num_cpu_devices', int(devices))
    if 'CAREFUL_STEPS' in variables:
        import quick_runs

        quick_runs.end()
    sys.path[0] = os.getcwd()
    sys.argv = ['-m', *flags]
    runpy.run_module(module, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
    import_package()
    become(**fork_for_each(socket.socket(fileno=int(sys.argv[1]))))
