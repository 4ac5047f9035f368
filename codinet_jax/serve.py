"""Serves a finished run or another network over HTTP: images in, classes and routes out, skipping blocks:

    python -m codinet_jax.serve --pretrained=cifar10 --cost=0.44
    python -m codinet_jax.serve --exported=digits.exported --port=8000
    python -m codinet_jax.serve --workdir=runs/cifar10_r110 --operating_point=0.4
    curl --data-binary @cat.jpg 'http://127.0.0.1:8000/predict?top=5'

Requests that come together are answered in one batch. Every size of batch is compiled at the start; GET /health says
when that is done, and GET / how to ask. SIGTERM and Ctrl-C end it once what is in flight is answered. It listens on
this machine alone, unless --host says otherwise, and knows no passwords and no encryption: that is a proxy's work.
Asked by another name than localhost or its address, it answers only if --allowed_hosts has that name.
"""

import contextlib
import math
from collections.abc import Sequence

from absl import flags

from codinet_jax.runtime import command, plugins
from codinet_jax.runtime.errors import InputError

NETWORK = command.define_network()
plugins.define_import()
OPERATING_POINT, COST = command.define_operating_point()
THRESHOLD = flags.DEFINE_float(
    'threshold', None, 'A block runs where its gate reaches this, in place of --operating_point or --cost.'
)
HOST, PORT, ALLOWED_HOSTS, MAX_UPLOAD_MB = command.define_listening()
MAX_BATCH = flags.DEFINE_integer('max_batch', 16, 'Images of the largest batch.', lower_bound=1)
MAX_WAIT_MS = flags.DEFINE_float(
    'max_wait_ms', 5.0, 'How long an image waits for others to share its batch.', lower_bound=0.0
)
MAX_REQUESTS = flags.DEFINE_integer('max_requests', 256, 'Requests let in at once; more get 503.', lower_bound=1)


def main(argv: Sequence[str]) -> int:
    del argv
    command.check_serving()
    network = NETWORK.given('what to serve')
    if THRESHOLD.value is not None and (OPERATING_POINT.value, COST.value) != (None, None):
        raise InputError('--operating_point and --cost are thresholds by themselves: give one alone, or --threshold.')
    if THRESHOLD.value is not None and not math.isfinite(THRESHOLD.value):
        raise InputError(f'--threshold is {THRESHOLD.value}: give a number.')

    from codinet_jax.inference import http_server, source, trusted_hosts
    from codinet_jax.inference.serving import Batcher

    with contextlib.closing(http_server.bound(HOST.value, PORT.value)) as listening:
        hosts = trusted_hosts.of_socket(listening, HOST.value, ALLOWED_HOSTS.value)
        command.start_devices()
        predictor = source.predictor(network, operating_point=OPERATING_POINT.value, cost=COST.value)
        if THRESHOLD.value is not None:
            predictor.threshold = THRESHOLD.value
        batcher = Batcher(
            predictor, max_batch=MAX_BATCH.value, max_wait=MAX_WAIT_MS.value / 1e3, max_requests=MAX_REQUESTS.value
        )
        server = http_server.Server(batcher, network.name, round(MAX_UPLOAD_MB.value * 1e6), _report_ready, hosts)
        address = http_server.address(listening)
        print(f'{network.name} at {address}, gates held to {predictor.threshold:g}; compiling', flush=True)
        return http_server.run(server, listening)


def _report_ready(seconds: dict[int, float]) -> None:
    print(f'ready in {sum(seconds.values()):.1f} s, batches of {", ".join(map(str, seconds))}', flush=True)


if __name__ == '__main__':
    command.run(main)
