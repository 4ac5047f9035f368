"""Runs pytest over and over, each time in a process born with what all of them import: most of a short test's time.

Started in the tree that is tested, as `python -m experiments.mutants.server`. A line of its input is a JSON object:
`arguments` of pytest, `log`, where what it prints goes, and `seconds` that it may take. It is answered by a line: its
exit status, or null where it took longer and was killed.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import warnings

# What others wrote, and nothing of the tree: that is what changes.
PRELOADED = (
    *('numpy', 'jax', 'jax.numpy', 'jax.export', 'flax.linen', 'flax.struct', 'optax', 'orbax.checkpoint'),
    *('ml_collections', 'absl.flags', 'absl.app', 'PIL.Image', 'etils.epath', 'tensorflow_datasets', 'pytest'),
)


def main() -> None:
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    warnings.simplefilter('ignore')  # JAX warns of forks, for it has threads once it is used, and here nobody used it
    for line in sys.stdin:
        print(json.dumps(_status(**json.loads(line))), flush=True)


def _status(arguments: list[str], log: str, seconds: float) -> int | None:
    child = os.fork()
    if not child:
        _test(arguments, log)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)  # and what a test has started
    os.waitpid(child, 0)
    return None


def _test(arguments: list[str], log: str) -> None:
    """What the child does; it never returns."""
    status = 3
    try:
        os.setpgid(0, 0)
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for number, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
            os.dup2(file, number)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        warnings.resetwarnings()
        import pytest

        status = int(pytest.main(arguments))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == '__main__':
    main()
