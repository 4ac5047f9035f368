"""Serves a finished run, or an exported network, over HTTP: images in, classes and routes out, skipping blocks:

    python -m codinet_jax.serve --exported=digits.exported --port=8000
    python -m codinet_jax.serve --workdir=runs/cifar10_r110 --operating_point=0.4
    curl --data-binary @cat.jpg 'http://127.0.0.1:8000/predict?top=5'

Requests that come together are answered in one batch. Every size of batch is compiled at the start; GET /health says
when that is done, and GET / how to ask. SIGTERM and Ctrl-C end it once what is in flight is answered. It listens on
this machine alone, unless --host says otherwise, and knows no passwords and no encryption: that is a proxy's work.
"""

import contextlib
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from codinet_jax.runtime import command, files
from codinet_jax.runtime.errors import InputError

if TYPE_CHECKING:
    from codinet_jax.inference.predictor import Predictor

EXPORTED = flags.DEFINE_string('exported', None, 'A directory that codinet_jax.export wrote.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run is kept, if it is not an exported network.')
PRETRAINED = flags.DEFINE_string('pretrained', None, 'In place of both: a network of the package, cifar10.')
IMPORT = flags.DEFINE_multi_string('import', [], "Modules or files that the run's routers and the like are from.")
OPERATING_POINT, COST = command.define_operating_point()
THRESHOLD = flags.DEFINE_float('threshold', None, 'A block runs where its gate reaches this.')
HOST = flags.DEFINE_string('host', '127.0.0.1', 'The address to listen at; 0.0.0.0 is every one of this machine.')
PORT = flags.DEFINE_integer(
    'port', 8000, 'The port to listen at; 0 takes a free one.', lower_bound=0, upper_bound=65535
)
MAX_BATCH = flags.DEFINE_integer('max_batch', 16, 'Images of the largest batch.', lower_bound=1)
MAX_WAIT_MS = flags.DEFINE_float(
    'max_wait_ms', 5.0, 'How long an image waits for others to share its batch.', lower_bound=0.0
)
MAX_REQUESTS = flags.DEFINE_integer('max_requests', 256, 'Requests let in at once; more get 503.', lower_bound=1)
MAX_UPLOAD_MB = flags.DEFINE_float('max_upload_mb', 20.0, 'Megabytes of a request; more get 413.', lower_bound=0.001)


def main(argv: Sequence[str]) -> int:
    del argv
    missing = [name for name in ('starlette', 'uvicorn', 'python_multipart') if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"Serving needs {', '.join(missing)}: pip install 'codinet_jax[serve]'.")
    if sum(bool(flag.value) for flag in (WORKDIR, EXPORTED, PRETRAINED)) != 1:
        raise InputError('Say what to serve: --workdir=RUN, --exported=DIRECTORY or --pretrained=cifar10.')
    if THRESHOLD.value is not None and (OPERATING_POINT.value, COST.value) != (None, None):
        raise InputError('--operating_point and --cost are thresholds by themselves: give one alone, or --threshold.')

    from codinet_jax.inference import http_server
    from codinet_jax.inference.serving import Batcher

    with contextlib.closing(http_server.bound(HOST.value, PORT.value)) as listening:
        command.start_devices()
        predictor = _predictor()
        known, own = predictor.operating_points, predictor.threshold if THRESHOLD.value is None else THRESHOLD.value
        predictor.threshold = known.threshold(OPERATING_POINT.value, COST.value, otherwise=own)
        name = PRETRAINED.value or files.expanded(EXPORTED.value or WORKDIR.value or '').absolute().name
        batcher = Batcher(
            predictor, max_batch=MAX_BATCH.value, max_wait=MAX_WAIT_MS.value / 1e3, max_requests=MAX_REQUESTS.value
        )
        server = http_server.Server(batcher, name, round(MAX_UPLOAD_MB.value * 1e6), _report_ready)
        host, port = listening.getsockname()[:2]
        address = f'http://{f"[{host}]" if ":" in host else host}:{port}'
        print(f'{name} at {address}, gates held to {predictor.threshold:g}; compiling', flush=True)
        return http_server.run(server, listening)


def _predictor() -> 'Predictor':
    if EXPORTED.value:
        from codinet_jax.inference import exported

        return exported.load(EXPORTED.value)
    if PRETRAINED.value:
        from codinet_jax.inference import shipped

        return shipped.load_pretrained(PRETRAINED.value)
    from codinet_jax.config import plugins

    plugins.load(IMPORT.value)

    from codinet_jax.inference import load

    return load.from_workdir(WORKDIR.value or '')


def _report_ready(seconds: dict[int, float]) -> None:
    print(f'ready in {sum(seconds.values()):.1f} s, batches of {", ".join(map(str, seconds))}', flush=True)


if __name__ == '__main__':
    command.run(main)
