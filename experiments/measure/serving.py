"""What a served network answers in a second, and how long one waits: static against skipping half of the blocks.

    python -m experiments.measure.serving --results=serving.json

An untrained ResNet-18, once without routers and once with linear ones whose threshold is moved until half of the blocks
run, is exported, and served by `codinet_jax.serve` in a process of its own. Clients are threads of this one that ask
again as soon as they are answered: one of them, of a server that makes no batches, and several, of one that does. The
first answer of an exported predictor is timed in a fresh process, as it is and after `warm_up`.
"""

import contextlib
import http.client
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from codinet_jax.runtime import command, provenance
from experiments.measure import report

IMAGE_SIZE = flags.DEFINE_integer('image_size', 64, 'Pixels a side.', lower_bound=32)
RUN_RATE = flags.DEFINE_float('run_rate', 0.5, 'Share of the blocks that the routed network runs.', 0.0, 1.0)
CLIENTS = flags.DEFINE_integer('clients', 16, 'That ask at once, where requests are batched.', lower_bound=1)
MAX_BATCH = flags.DEFINE_integer('max_batch', 16, 'Images of the largest batch, where they are.', lower_bound=1)
SECONDS = flags.DEFINE_float('seconds', 10.0, 'That each server is asked for.', lower_bound=0.1)
RESULTS = flags.DEFINE_string('results', None, 'A JSON file to keep the numbers.')

NUM_IMAGES, SEED, HALVINGS = 64, 0, 30
FIRST = """
import sys, time
import numpy as np
import codinet_jax
from codinet_jax.runtime import command
command.start_devices()
predictor = codinet_jax.load_exported(sys.argv[1])
if sys.argv[2] == 'warm':
    predictor.warm_up([1])
started = time.perf_counter()
predictor(np.zeros((1, *predictor.spec.image_shape), np.uint8))
print(time.perf_counter() - started)
"""


def main(argv: Sequence[str]) -> None:
    del argv
    command.output_file(RESULTS)  # refused before anything is measured
    command.start_devices()
    load_before = os.getloadavg()[0]
    images = np.random.default_rng(SEED).integers(0, 256, (NUM_IMAGES, IMAGE_SIZE.value, IMAGE_SIZE.value, 3), np.uint8)
    rows: list[dict[str, Any]] = []
    first: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for name, macs_share in _exported(pathlib.Path(directory), images).items():
            path = pathlib.Path(directory, name)
            first[name] = _first_answers(path)
            for clients, max_batch in ((1, 1), (CLIENTS.value, MAX_BATCH.value)):
                rows.append(
                    {'network': name, 'macs_share': round(macs_share, 4), 'clients': clients, 'max_batch': max_batch}
                    | _asked(path, images, clients, max_batch)
                )
    numbers = {
        'network': f'untrained ResNet-18, {IMAGE_SIZE.value} pixels',
        'rows': rows,
        'first_answer_seconds': first,
        'load_before': round(load_before, 2),
    }
    report.show(numbers | provenance.machine(), RESULTS.value)


def _exported(directory: pathlib.Path, images: np.ndarray) -> dict[str, float]:
    """Writes both networks; by name what they spend on these images, as a share of the static MACs."""
    from codinet_jax.data.spec import DataSpec
    from codinet_jax.inference import load
    from codinet_jax.models.architecture import imagenet_resnet
    from codinet_jax.models.network import RoutedResNet, drawn

    architecture = imagenet_resnet(18, image_size=IMAGE_SIZE.value, num_classes=10)
    spec = DataSpec(classes=10, mean=0.5, std=0.25)
    network = RoutedResNet(architecture)
    variables = drawn(network, SEED)
    load.from_network(network.static, spec, variables).export(directory / 'static')

    routed = load.from_network(network, spec, variables)
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        routed.threshold = (low + high) / 2
        answers = routed.in_batches(images, NUM_IMAGES)
        is_more = answers.decisions_Bxn.mean() > RUN_RATE.value
        low, high = (routed.threshold, high) if is_more else (low, routed.threshold)
    routed.export(directory / 'routed')
    return {'static': 1.0, 'routed': float(answers.macs_B.mean()) / routed.spec.static_macs}


def _first_answers(path: pathlib.Path) -> dict[str, float]:
    return {
        state: round(
            float(subprocess.run([sys.executable, '-c', FIRST, path, state], check=True, capture_output=True).stdout), 4
        )
        for state in ('cold', 'warm')
    }


def _asked(path: pathlib.Path, images: np.ndarray, clients: int, max_batch: int) -> dict[str, float]:
    """What clients see of a server, once each has been answered a few times."""
    files = [_png(image) for image in images]
    with _served(path, max_batch) as (host, port), ThreadPoolExecutor(clients) as threads:

        def ask(client: int, seconds: float) -> list[float]:
            connection = http.client.HTTPConnection(host, port, timeout=60)
            latencies: list[float] = []
            until = time.perf_counter() + seconds
            while (started := time.perf_counter()) < until:
                connection.request('POST', '/predict', files[(client + len(latencies)) % len(files)])
                response = connection.getresponse()
                if response.read() and response.status != 200:
                    raise SystemExit(f'the server answered {response.status}')
                latencies.append(time.perf_counter() - started)
            connection.close()
            return latencies

        list(threads.map(ask, range(clients), [1.0] * clients))
        started = time.perf_counter()
        latencies = np.concatenate(list(threads.map(ask, range(clients), [SECONDS.value] * clients)))
        elapsed = time.perf_counter() - started
    return {
        'requests': len(latencies),
        'requests_per_second': round(len(latencies) / elapsed, 1),
        'median_ms': round(1e3 * float(np.median(latencies)), 2),
        'p99_ms': round(1e3 * float(np.quantile(latencies, 0.99)), 2),
    }


@contextlib.contextmanager
def _served(path: pathlib.Path, max_batch: int) -> Iterator[tuple[str, int]]:
    """The address of a server that has compiled its batches."""
    flags_ = (f'--exported={path}', f'--max_batch={max_batch}', '--port=0', '--max_wait_ms=5')
    process = subprocess.Popen([sys.executable, '-m', 'codinet_jax.serve', *flags_], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        host, _, port = process.stdout.readline().split(' at http://')[1].split(',')[0].rpartition(':')
        if not process.stdout.readline().startswith('ready'):
            raise SystemExit('the server could not compile the network')
        yield host, int(port)
    finally:
        process.terminate()
        process.communicate()


def _png(image_HxWx3: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image_HxWx3).save(file, 'PNG')
    return file.getvalue()


if __name__ == '__main__':
    command.run(main)
