"""What checkpoints cost a run: seconds that training waits, seconds of writing behind it, bytes, seconds to restore.

    python -m experiments.measure.checkpoint_cost --config=digits_r14

Steps are timed without checkpoints; saves and restores one by one, of the state after those steps. The share is that of
both waiting and writing, as if writing behind took all of the machine, at the config's `checkpoint_every_steps`.
"""

import contextlib
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence

from absl import flags

from codinet_jax.config import flags as config_flag
from codinet_jax.runtime import command

CONFIG = config_flag.define_config('Whose checkpoints.', 'digits_r14')
STEPS = flags.DEFINE_integer('steps', 50, 'Steps to time.', lower_bound=1)
REPEATS = flags.DEFINE_integer('repeats', 10, 'Checkpoints to save and to restore.', lower_bound=1)


def main(argv: Sequence[str]) -> None:
    del argv
    config = config_flag.read(CONFIG)
    command.start_devices(config.batch_size)

    import jax

    from codinet_jax.config import setup
    from codinet_jax.runtime import provenance
    from codinet_jax.training.checkpoint import Checkpoints
    from experiments.measure import report
    from experiments.measure.stepper import Stepper

    stepper = Stepper(setup.read(config))
    seconds: dict[str, list[float]] = {'step': [], 'save': [], 'write': [], 'restore': []}
    for _ in range(STEPS.value):
        with _timed(seconds['step']):
            stepper.step()
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary) / 'checkpoints'
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), stepper.state)
        for repeat in range(REPEATS.value):
            checkpoints = Checkpoints(root)
            with _timed(seconds['save']):
                checkpoints.save(repeat, stepper.state, {})
            with _timed(seconds['write']), checkpoints:
                pass
            with Checkpoints(root) as again, _timed(seconds['restore']):
                again.newest(lambda _: shapes)
        newest = root / str(REPEATS.value - 1)
        num_bytes = sum(path.stat().st_size for path in newest.rglob('*') if path.is_file())
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    between = config.checkpoint_every_steps * medians['step']
    numbers = {
        **report.about(config),
        'median_seconds': {name: round(value, 4) for name, value in medians.items()},
        'megabytes': round(num_bytes / 1e6, 2),
        'checkpoint_every_steps': config.checkpoint_every_steps,
        'share_of_run_time': round((medians['save'] + medians['write']) / between, 4),
    }
    report.show(numbers | provenance.machine())


@contextlib.contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - started)


if __name__ == '__main__':
    command.run(main)
