"""Images from many callers are answered in few batches, each as if it were alone; by hand, then by a real server."""

import asyncio
import contextlib
import io
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request

import codinet_jax
import helpers
from codinet_jax.config import setup
from codinet_jax.data import datasets
from codinet_jax.inference import http_server, load, serving, trusted_hosts
from codinet_jax.inference.answers import Answer
from codinet_jax.inference.predictor import NetworkSpec, Prediction, Predictor
from codinet_jax.inference.serving import Batcher, Overloaded
from codinet_jax.inference.trusted_hosts import TrustedHosts
from codinet_jax.runtime.errors import InputError

# --- Batches, by hand. ---

SPEC = NetworkSpec(
    classes=('cat', 'dog', 'elk'),
    image_size=2,
    num_channels=1,
    center_crop=1.0,
    blocks_per_stage=(2,),
    blocks_macs=(10, 20),
    fixed_macs=100,
    static_macs=125,
)
FOREVER = 60.0


class Network:
    """Tells an image by its first pixel, which is its class too; notes what it is given, and waits where it is told."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[int], float]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.fails = False

    def __call__(self, images_BxHxWxC: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        numbers_B = images_BxHxWxC[:, 0, 0, 0]
        self.batches.append((numbers_B.tolist(), threshold))
        assert self.may_go_on.wait(FOREVER)
        if self.fails:
            raise MemoryError('no room for it')
        return 5.0 * np.eye(3)[numbers_B % 3], np.tile([0.4, 0.8], (len(numbers_B), 1))


def numbered(number: int) -> np.ndarray:
    return np.full(SPEC.image_shape, number, np.uint8)


def with_batcher(
    network: Network, use: Callable[[Batcher], Awaitable[Any]], max_batch: int = 4, max_wait: float = 0.05
) -> Any:
    async def run() -> Any:
        predictor = Predictor(SPEC, network)
        async with Batcher(predictor, max_batch=max_batch, max_wait=max_wait, max_requests=3) as batcher:
            return await asyncio.wait_for(use(batcher), 20)

    return asyncio.run(run())


def all_of(batcher: Batcher, numbers: Any, threshold: float | None = None) -> Awaitable[list[Answer]]:
    return asyncio.gather(*(batcher.answer(numbered(number), threshold) for number in numbers))


@pytest.mark.parametrize(
    ('max_batch', 'sizes'), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (4, (1, 2, 4)), (9, (1, 2, 4, 8, 9))]
)
def test_sizes_double_up_to_the_largest(max_batch: int, sizes: tuple[int, ...]) -> None:
    assert serving.ladder(max_batch) == sizes


@pytest.mark.parametrize('count', range(1, 12))
def test_images_that_come_together_share_batches_of_few_sizes(count: int) -> None:
    network = Network()
    answers = with_batcher(network, lambda batcher: all_of(batcher, range(count)), max_wait=0.01)
    assert [answer.label for answer in answers] == [number % 3 for number in range(count)]
    asked = [numbers for numbers, _ in network.batches]
    assert {len(numbers) for numbers in asked} <= {1, 2, 4}
    assert len(asked) == -(-count // 4)
    assert [number for numbers in asked for number in sorted(set(numbers))] == list(range(count))


def test_a_full_batch_waits_for_nobody_and_a_lone_image_not_for_long() -> None:
    network = Network()
    with_batcher(network, lambda batcher: all_of(batcher, range(8)), max_wait=FOREVER)  # else it would time out
    started = time.perf_counter()
    with_batcher(network, lambda batcher: all_of(batcher, [5]), max_wait=0.2)
    assert 0.2 <= time.perf_counter() - started < 5
    assert [numbers for numbers, _ in network.batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [5]]


def test_images_of_two_thresholds_share_no_batch() -> None:
    async def use(batcher: Batcher) -> list[list[Answer]]:
        return await asyncio.gather(
            all_of(batcher, [0, 1], 0.3),
            all_of(batcher, [2, 3, 4], 0.7),
            all_of(batcher, [5]),
            all_of(batcher, [6], 0.5),
        )

    network = Network()
    low, high, default, half = with_batcher(network, use)
    assert network.batches == [([0, 1], 0.3), ([2, 3, 4, 4], 0.7), ([5, 6], 0.5)]
    assert {tuple(answer.decisions_n) for answer in low} == {(True, True)}
    assert {tuple(answer.decisions_n) for answer in [*high, *default, *half]} == {(False, True)}
    assert [answer.macs for answer in low + high] == [130] * 2 + [120] * 3


def test_who_comes_while_a_batch_is_computed_shares_the_next() -> None:
    network = Network()

    async def use(batcher: Batcher) -> None:
        network.may_go_on.clear()
        first = asyncio.ensure_future(all_of(batcher, [0]))
        while not network.batches:
            await asyncio.sleep(0.001)
        others = [asyncio.ensure_future(all_of(batcher, [number])) for number in (1, 2, 3)]
        await asyncio.sleep(0.01)
        network.may_go_on.set()
        await asyncio.gather(first, *others)

    with_batcher(network, use, max_wait=0)
    assert [numbers for numbers, _ in network.batches] == [[0], [1, 2, 3, 3]]


def test_what_befalls_one_batch_is_told_to_those_in_it() -> None:
    network = Network()

    async def use(batcher: Batcher) -> list[Answer]:
        network.fails = True
        for outcome in await asyncio.gather(*(batcher.answer(numbered(i)) for i in range(2)), return_exceptions=True):
            assert isinstance(outcome, MemoryError)
        network.fails = False
        return await all_of(batcher, [1, 2])

    assert [answer.label for answer in with_batcher(network, use)] == [1, 2]


def test_an_image_that_is_none_and_a_caller_who_leaves_harm_no_other() -> None:
    network = Network()

    async def use(batcher: Batcher) -> list[Any]:
        leaving = asyncio.ensure_future(batcher.answer(numbered(9)))
        await asyncio.sleep(0)
        leaving.cancel()
        return await asyncio.gather(
            batcher.answer(numbered(1)),
            batcher.answer(np.zeros((3, 3, 1), np.uint8)),
            batcher.answer(np.full(SPEC.image_shape, np.nan)),
            batcher.answer(numbered(2)),
            return_exceptions=True,
        )

    first, *wrong, last = with_batcher(network, use)
    assert (first.label, last.label) == (1, 2)
    assert all(isinstance(error, InputError) for error in wrong)
    assert [numbers for numbers, _ in network.batches] == [[1, 2]]


def test_those_who_wait_at_the_end_are_answered_and_nobody_comes_after() -> None:
    network = Network()

    async def run() -> list[Answer]:
        async with Batcher(Predictor(SPEC, network), max_batch=4, max_wait=FOREVER, max_requests=9) as batcher:
            waiting = asyncio.ensure_future(all_of(batcher, [1, 2, 4]))
            await asyncio.sleep(0.01)
            assert network.batches == []
        with pytest.raises(RuntimeError, match='no more'):
            await batcher.answer(numbered(0))
        return await waiting

    assert [answer.label for answer in asyncio.run(run())] == [1, 2, 1]


def test_no_more_requests_are_let_in_than_may_be() -> None:
    async def use(batcher: Batcher) -> dict[str, int]:
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(batcher.admitted())
            with pytest.raises(Overloaded), batcher.admitted():
                pass
        for _ in range(4):
            with batcher.admitted():
                pass
        return batcher.counts

    assert with_batcher(Network(), use) == {'images': 0, 'batches': 0, 'refused': 1}


def test_a_request_that_fails_makes_room_for_the_next() -> None:
    batcher = Batcher(Predictor(SPEC, Network()), max_batch=1, max_wait=0.0, max_requests=1)
    for _ in range(3):
        with pytest.raises(ConnectionError), batcher.admitted():
            raise ConnectionError
    assert batcher.counts['refused'] == 0


def test_warming_up_compiles_every_size() -> None:
    async def use(batcher: Batcher) -> dict[int, float]:
        assert not batcher.is_ready
        seconds = await batcher.warm_up()
        assert batcher.is_ready
        return seconds

    network = Network()
    assert list(with_batcher(network, use, max_batch=6)) == [1, 2, 4, 6]
    assert [len(numbers) for numbers, _ in network.batches] == [1, 2, 4, 6]


def asked(content: bytes, headers: dict[str, str], max_bytes: int = 5_000_000) -> bytes:
    """What the server takes for the image of a request."""

    async def receive() -> dict[str, Any]:
        return {'type': 'http.request', 'body': content, 'more_body': False}

    async def image() -> bytes:
        batcher = Batcher(Predictor(SPEC, Network()), max_batch=1, max_wait=0.0, max_requests=1)
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        server = http_server.Server(batcher, 'mine', max_bytes, lambda _: None)
        return await server._image(Request({'type': 'http', 'headers': encoded}, receive))

    return asyncio.run(image())


def test_a_form_needs_no_room_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, 'tempdir', '/nowhere')
    image = np.random.default_rng(0).bytes(2_000_000)
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    assert asked(head + image + b'\r\n--b--\r\n', {'content-type': 'multipart/form-data; boundary=b'}) == image


def test_a_length_of_thousands_of_digits_is_too_much() -> None:
    with pytest.raises(HTTPException, match='The image has more than 5 MB: send it smaller') as refusal:
        asked(b'x', {'content-length': 5000 * '9'})
    assert refusal.value.status_code == 413


def test_an_answer_from_afar() -> None:
    answer = Answer(2, np.array([0.25, 0.25, 0.5]), np.array([0.4, 0.8]), np.array([False, True]), 120)
    assert answer.as_json(SPEC) == {
        'label': 2,
        'class': 'elk',
        'probability': 0.5,
        'route': [0, 1],
        'macs': 120,
        'static_macs': 125,
        'macs_share': 0.96,
    }
    assert all(f' {key}' in http_server.USAGE for key in answer.as_json(SPEC))
    top = answer.as_json(SPEC, top=2)['top']
    assert top == [
        {'label': 2, 'class': 'elk', 'probability': 0.5},
        {'label': 0, 'class': 'cat', 'probability': 0.25},
    ]


# --- A real server. ---

# Of this package the server of an exported network imports no model, and of others neither Flax nor what trains.
BARRIER = """
import sys

PARTS = ('routing', 'models', 'methods', 'config', 'workdir', 'evaluation', 'training', 'inference.program')
BARRED = (*(f'codinet_jax.{part}' for part in PARTS), 'flax', 'orbax', 'optax', 'ml_collections')

class Barrier:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(tuple(f'{barred}.' for barred in BARRED)) or name in BARRED:
            raise ImportError(f'{name} is not to be had')

sys.meta_path.insert(0, Barrier())
"""
SEED, OTHER_THRESHOLD, NUM_IMAGES = 415, 0.65, 40  # images part ways under it, and no gate is near these thresholds


class Trained(NamedTuple):
    """A network as a workdir, exported, and in this process; with images, and as the PNG files they are."""

    workdir: Path
    exported: Path
    predictor: Predictor
    images: np.ndarray
    files: list[bytes]


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp('serving')
    config = helpers.tiny_config(**{'model.router': 'conv'})
    workdir = helpers.write_workdir(root / 'run', config, SEED)
    workdir.write_operating_point('other', {'threshold': OTHER_THRESHOLD})
    named = setup.read(config)
    made = load.from_network(named.model, named.data.spec, helpers.random_variables(named.model, SEED))
    made.export(root / 'conv.exported')
    images = datasets.source('digits', root / 'tfds').open('test').images_NxHxWxC[:NUM_IMAGES]
    exported = codinet_jax.load_exported(root / 'conv.exported')
    return Trained(workdir.path, root / 'conv.exported', exported, images, [png(image) for image in images])


def png(image_HxWx1: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image_HxWx1[..., 0]).save(file, 'PNG')
    return file.getvalue()


class Served(NamedTuple):
    """A server process that is ready, and its address."""

    process: subprocess.Popen[str]
    address: str
    said: list[str]


@contextlib.contextmanager
def serving_of(*flags: str, **variables: str) -> Iterator[Served]:
    process = subprocess.Popen(
        [sys.executable, '-W', 'error', '-m', 'codinet_jax', 'serve', '--port=0', *flags],
        cwd=helpers.REPOSITORY,
        env=helpers.environment(JAX_NUM_CPU_DEVICES='2', **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        said = [process.stdout.readline()]
        if not said[0]:
            raise AssertionError(process.stderr.read())
        address = said[0].split(' at ')[1].split(',')[0]
        said.append(process.stdout.readline())
        yield Served(process, address, said)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope='module')
def served(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    barrier = tmp_path_factory.mktemp('barrier')
    (barrier / 'sitecustomize.py').write_text(BARRIER)
    flags = (f'--exported={trained.exported}', '--max_batch=8', '--max_upload_mb=0.01')
    with serving_of(*flags, PYTHONPATH=str(barrier), JAX_ENABLE_COMPILATION_CACHE='false') as server:
        yield server


def expected(prediction: Prediction, i: int) -> tuple[Any, ...]:
    return int(prediction.labels_B[i]), prediction.decisions_Bxn[i].astype(int).tolist(), int(prediction.macs_B[i])


def found(answer: dict[str, Any]) -> tuple[Any, ...]:
    return answer['label'], answer['route'], answer['macs']


@pytest.mark.long
def test_eight_clients_are_answered_as_the_predictor_answers(served: Served, trained: Trained) -> None:
    alone = {None: trained.predictor.in_batches(trained.images, 8)}
    alone[OTHER_THRESHOLD] = trained.predictor.in_batches(trained.images, 8, OTHER_THRESHOLD)
    assert len({str(expected(alone[None], i)) for i in range(NUM_IMAGES)}) >= 3
    assert (alone[None].decisions_Bxn != alone[OTHER_THRESHOLD].decisions_Bxn).any()
    before = httpx.get(f'{served.address}/health').json()

    def ask(client: int) -> list[tuple[int, float | None, httpx.Response]]:
        answers = []
        with httpx.Client(base_url=served.address) as session:
            for k in range(25):
                i, threshold = (25 * client + k) % NUM_IMAGES, OTHER_THRESHOLD if k % 5 == 4 else None
                query = {'top': 3} | ({'threshold': threshold} if threshold else {})
                if k % 2:
                    sent = session.post('/predict', params=query, files={'image': ('x.png', trained.files[i])})
                else:
                    headers = {'content-type': 'image/png'}
                    sent = session.post('/predict', params=query, content=trained.files[i], headers=headers)
                answers.append((i, threshold, sent))
        return answers

    with ThreadPoolExecutor(8) as clients:
        answers = [answer for each in clients.map(ask, range(8)) for answer in each]
    assert len(answers) == 200
    for i, threshold, response in answers:
        assert response.status_code == 200, response.text
        answer = response.json()
        assert found(answer) == expected(alone[threshold], i)
        probabilities_Y = alone[threshold].probabilities_BxY[i]
        assert answer['probability'] == pytest.approx(probabilities_Y.max(), abs=1e-4)
        assert answer['class'] == trained.predictor.spec.classes[answer['label']]
        assert answer['macs_share'] == answer['macs'] / answer['static_macs']
        assert [each['probability'] for each in answer['top']] == pytest.approx(
            sorted(probabilities_Y)[:-4:-1], abs=1e-4
        )
    after = httpx.get(f'{served.address}/health').json()
    gone = {name: after[name] - before[name] for name in ('requests', 'images', 'batches', 'errors', 'refused')}
    assert gone['requests'] == gone['images'] == 200 and gone['errors'] == gone['refused'] == 0
    assert 25 <= gone['batches'] < 200, 'some shared a batch'


@pytest.mark.long
def test_health_and_usage(served: Served, trained: Trained) -> None:
    assert served.said[0] == f'conv.exported at {served.address}, gates held to 0.5; compiling\n'
    assert served.said[1].startswith('ready in ') and served.said[1].endswith(' s, batches of 1, 2, 4, 8\n')
    health = httpx.get(f'{served.address}/health')
    about = health.json()
    assert (health.status_code, about['status'], about['network']) == (200, 'ready', 'conv.exported')
    assert (about['blocks'], about['static_macs']) == (3, trained.predictor.spec.static_macs)
    usage = httpx.get(served.address).text
    assert f"curl --data-binary @cat.jpg '{served.address}/predict'" in usage and '8x8 pixels and 10 classes' in usage


@pytest.mark.long
def test_a_bad_image_among_good_ones_is_one_sentence_and_harms_no_other(served: Served, trained: Trained) -> None:
    bad = [b'no image', b'', trained.files[0][:60], png(np.zeros((1, 9000, 1), np.uint8))[:50]]

    def ask(k: int) -> httpx.Response:
        content = bad[k // 3 % len(bad)] if k % 3 == 0 else trained.files[k]
        return httpx.post(f'{served.address}/predict', content=content)

    alone = trained.predictor.in_batches(trained.images, 8)
    with ThreadPoolExecutor(12) as clients:
        for k, response in enumerate(clients.map(ask, range(24))):
            if k % 3:
                assert found(response.json()) == expected(alone, k)
            else:
                assert response.status_code == 422
                assert response.json()['error'].startswith('The image ') and response.json()['error'].endswith('.')


@pytest.mark.long
@pytest.mark.parametrize(
    ('query', 'options', 'status', 'sentence'),
    [
        ('?top=11', {}, 400, '?top=11 cannot be: give 1 to 10.'),
        ('?treshold=0.9', {}, 400, '?treshold= is nothing that can be asked for: give ?top=, ?threshold=, ?cost=. Did'),
        ('?top=0', {}, 400, '?top=0 cannot be: give 1 to 10.'),
        ('?threshold=nan', {}, 400, '?threshold=nan cannot be: give a number, as 0.5.'),
        ('?threshold=half', {}, 400, '?threshold=half cannot be: give a number, as 0.5.'),
        ('?cost=0.5&threshold=0.5', {}, 400, 'A cost is a threshold by itself: ask for one of them.'),
        ('?cost=0.5', {}, 400, 'has no accuracy-cost curve to find a cost of 0.5 on'),
        ('', {'data': {'image': 'text'}, 'files': {}}, 422, 'The image is not an image that can be read here'),
        ('', {'files': {'image': (None, 'text')}}, 400, 'The form has no file'),
        ('', {'content': b'x', 'headers': {'content-type': 'multipart/form-data; boundary=a'}}, 400, 'Invalid'),
    ],
)
def test_a_request_that_cannot_be_is_one_sentence(
    served: Served, query: str, options: dict[str, Any], status: int, sentence: str
) -> None:
    response = httpx.post(f'{served.address}/predict{query}', **options)
    assert response.status_code == status and sentence in response.json()['error']


def hosts_of(host: str, *more: str) -> TrustedHosts:
    with contextlib.closing(http_server.bound(host, 0)) as listening:
        return trusted_hosts.of_socket(listening, host, more)


@pytest.mark.parametrize(
    ('hosts', 'trusted', 'others'),
    [
        (('127.0.0.1',), ['127.0.0.1:8000', 'LocalHost', '[::1]:80'], ['evil.example:8000', '10.0.0.5', '', '[::1']),
        (('127.0.0.2',), ['127.0.0.2:1', 'localhost:1'], ['127.0.0.3:1', 'localhost.evil.example']),
        (
            ('127.0.0.1', 'Demo.example.org'),
            ['demo.example.org:443', 'localhost'],
            ['x.demo.example.org', 'example.org'],
        ),
        (('0.0.0.0',), ['10.0.0.5:8000', '[fe80::1]:8000', 'localhost'], ['evil.example', '10.0.0.5.evil.example']),
        (('127.0.0.1', '*'), ['evil.example', ''], []),
    ],
)
def test_a_server_goes_by_its_own_names_and_those_it_was_given(
    hosts: tuple[str, ...], trusted: list[str], others: list[str]
) -> None:
    found = hosts_of(*hosts)
    assert [found.have(header) for header in [*trusted, *others]] == [True] * len(trusted) + [False] * len(others)


@pytest.mark.long
@pytest.mark.parametrize('path', ['/', '/health', '/predict', '/nowhere'])
def test_a_page_of_another_site_is_told_nothing(served: Served, path: str) -> None:
    before = httpx.get(f'{served.address}/health').json()
    port = served.address.rpartition(':')[2]
    response = httpx.get(f'{served.address}{path}', headers={'host': f'evil.example:{port}'})
    assert response.status_code == 400
    assert response.json() == {
        'error': f"This server does not go by 'evil.example:{port}': ask at its own address, or start it with "
        '--allowed_hosts.'
    }
    assert httpx.get(f'http://localhost:{port}/health').json()['errors'] == before['errors'] + 1


@pytest.mark.long
def test_too_large_an_upload_is_refused_before_it_has_arrived(served: Served) -> None:
    """Its length is known, or found out when the limit is passed; no more is sent, so no more can have been read."""
    host, port = served.address.removeprefix('http://').split(':')
    chunk = b'2000\r\n' + bytes(0x2000) + b'\r\n'
    for framing, sent in ((b'Content-Length: 10000000000', b'x'), (b'Transfer-Encoding: chunked', chunk * 2)):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b'POST /predict HTTP/1.1\r\nHost: localhost\r\n' + framing + b'\r\n\r\n' + sent)
            answer = connection.makefile('rb').read()  # to the end: the server closes
        assert answer.startswith(b'HTTP/1.1 413 ')
        assert json.loads(answer.split(b'\r\n\r\n')[1])['error'] == (
            'The image has more than 0.01 MB: send it smaller.'
        )


def test_who_comes_too_many_is_told_to_come_again_and_who_is_in_flight_is_answered_after_sigterm(
    trained: Trained,
) -> None:
    flags = (f'--workdir={trained.workdir}', '--operating_point=other', '--max_batch=4', '--max_wait_ms=1500')
    with serving_of(*flags, '--max_requests=3') as server, ThreadPoolExecutor(3) as clients:
        assert server.said[0].startswith('run at ') and 'gates held to 0.65;' in server.said[0]

        def ask(i: int) -> httpx.Response:
            return httpx.post(f'{server.address}/predict', content=trained.files[i], timeout=30)

        waiting = [clients.submit(ask, i) for i in range(3)]
        deadline = time.monotonic() + 20
        while httpx.get(f'{server.address}/health').json()['requests'] < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        one_more = ask(3)
        server.process.send_signal(signal.SIGTERM)
        assert (one_more.status_code, one_more.headers['retry-after']) == (503, '1')
        assert one_more.json()['error'] == '3 images are being answered already: try again in a second.'
        answers = [each.result() for each in waiting]
        out, errors = server.process.communicate(timeout=30)
        with pytest.raises(httpx.ConnectError):
            ask(4)
    alone = trained.predictor.in_batches(trained.images, 8, OTHER_THRESHOLD)
    assert [found(answer.json()) for answer in answers] == [expected(alone, i) for i in range(3)]
    assert (server.process.returncode, out, errors) == (128 + signal.SIGTERM, '', '')


@pytest.mark.parametrize(
    ('flags', 'sentence'),
    [
        ([], 'Say what to serve: --workdir=RUN, --exported=DIRECTORY or --pretrained=cifar10.'),
        (['--exported=x', '--cost=1', '--threshold=1'], '--operating_point and --cost are thresholds by themselves'),
        (['--exported=nowhere', '--port=0'], 'nowhere holds no exported network'),
        (['--exported=x', '--port=0', '--allowed_hosts=http://a.b'], "--allowed_hosts has 'http://a.b': give names or"),
        (['--exported=x', '--host=192.0.2.1'], '192.0.2.1:8000 cannot be listened at (Cannot assign'),
    ],
)
def test_what_cannot_be_served_is_one_sentence(flags: list[str], sentence: str) -> None:
    said = helpers.run_command('serve', *flags)
    helpers.assert_refused(said, f'error: {sentence}')


@pytest.mark.long
def test_a_port_that_is_taken_is_one_sentence_and_so_is_what_is_not_installed(served: Served) -> None:
    port = served.address.rpartition(':')[2]
    said = helpers.run_command('serve', '--exported=x', f'--port={port}')
    assert (said.returncode, said.stdout) == (2, '')
    assert said.stderr == (
        f'error: 127.0.0.1:{port} cannot be listened at (Address already in use): give another --host or --port.\n'
    )
    program = (
        'import runpy, sys; sys.modules["uvicorn"] = None; sys.argv = ["serve", "--exported=x"]; '
        'runpy.run_module("codinet_jax.serve", run_name="__main__")'
    )
    said = subprocess.run(
        [sys.executable, '-c', program],
        cwd=helpers.REPOSITORY,
        env=helpers.environment(),
        text=True,
        capture_output=True,
    )
    assert (said.returncode, said.stdout) == (2, '')
    assert said.stderr == "error: Serving needs uvicorn: pip install 'codinet_jax[serve]'.\n"
