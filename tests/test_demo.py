"""The demo tells a page what the predictor and the record say, whatever the network, and refuses what is no image."""

import base64
import collections
import contextlib
import dataclasses
import io
import re
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import jax.numpy as jnp
import numpy as np
import pytest
import uvicorn
from PIL import Image

import helpers
from codinet_jax.data.augmentations import AUGMENTATIONS
from codinet_jax.demonstration import dial as dials
from codinet_jax.demonstration import page_server
from codinet_jax.demonstration.examples import Examples
from codinet_jax.demonstration.page_server import PageServer
from codinet_jax.demonstration.subject import subject
from codinet_jax.evaluation.record import read_routes, write_routes, write_thumbnails
from codinet_jax.inference import http_server
from codinet_jax.inference.operating_points import OperatingPoints, Point
from codinet_jax.inference.predictor import NetworkSpec, Predictor
from codinet_jax.runtime.command import NamedNetwork
from demo_run import NUM_IMAGES, NUM_PICTURES, POINT, POINT_THRESHOLD, DemoRun, demo_run

# --- The dial, of networks that are functions. ---

SPEC = NetworkSpec(
    classes=('cat', 'dog'),
    image_size=2,
    num_channels=1,
    center_crop=1.0,
    blocks_per_stage=(2,),
    blocks_macs=(40, 50),
    fixed_macs=20,
    static_macs=100,
)


CASCADE = {'blocks_macs': (40, 100), 'fixed_macs': 30}


def network(
    gates: tuple[float, ...],
    threshold: float = 0.5,
    curve: tuple[Point, ...] = (),
    decides: bool = True,
    **changes: Any,
) -> Predictor:
    def forward(images: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        del threshold
        return np.zeros((len(images), 2)), np.tile(gates, (len(images), 1))

    known = OperatingPoints(curve=curve)
    return Predictor(NetworkSpec(**(vars(SPEC) | changes)), forward, threshold, operating_points=known, decides=decides)


def curve_of(*points: tuple[float, float, float]) -> tuple[Point, ...]:
    return tuple(Point(*point, 1.0) for point in points)


SMOOTH = curve_of((0.2, 1.0, 0.9), (0.5, 0.95, 0.8), (0.8, 0.9, 0.6))
STEP = curve_of((0.2, 1.0, 0.9), (0.8, 0.4, 0.6))


def test_a_network_without_routers_has_no_dial_and_one_that_runs_all_has() -> None:
    static = network((1.0, 1.0), decides=False, fixed_macs=10)
    assert dials.kind(static) == 'static'
    assert dials.dial(static, '') == ((), 0, dials.NO_DIAL)
    assert dials.kind(network((1.0, 1.0), fixed_macs=10)) == 'routed', 'routers that cost nothing, and skip nothing'
    assert dials.kind(network((0.4, 0.8), **CASCADE)) == 'cascade'


def test_a_dial_of_costs_stops_where_a_cost_would_be_and_tells_what_was_measured() -> None:
    stops, start, sentence = dials.dial(network((0.4, 0.8), curve=SMOOTH), '7 images')
    known = OperatingPoints(curve=SMOOTH)
    assert {known.threshold(cost=cost) for cost in (0.9, 0.91, 0.95, 0.98, 1.0)} <= {stop.threshold for stop in stops}
    assert (stops[start].threshold, stops[start].name, sentence) == (0.5, 'as trained', 'Measured on 7 images.')
    shares = [stop.macs_share for stop in stops]
    assert shares == sorted(shares) and (shares[0], shares[-1]) == (0.9, 1.0)
    # Halfway in the logits between two measured thresholds is halfway between what they were measured to be.
    halfway = 1 / (1 + np.exp(-(np.log(0.8 / 0.2) + 0) / 2))
    found = dials.dial(network((0.4, 0.8), halfway, SMOOTH), '')
    at = found.stops[found.start]
    assert (at.threshold, at.name) == (halfway, 'as given')
    assert (at.macs_share, at.top1) == (pytest.approx(0.925), pytest.approx(0.7))


def test_in_a_step_of_the_curve_the_dial_does_not_stop() -> None:
    stops = dials.dial(network((0.4, 0.8), 0.2, STEP, **CASCADE), '').stops
    assert [(stop.threshold, stop.macs_share) for stop in stops] == [(0.8, 0.4), (0.2, 1.0)]


def test_without_a_curve_the_dial_moves_the_threshold_and_says_so() -> None:
    predictor = network((0.4, 0.8), 0.123)
    predictor.operating_points = OperatingPoints({'mine': {'threshold': 0.77}})
    stops, start, sentence = dials.dial(predictor, '')
    thresholds = [stop.threshold for stop in stops]
    assert thresholds == sorted(thresholds, reverse=True) and thresholds[-1] == 0 and len(thresholds) > 40
    assert stops[start].threshold == 0.123 and sentence == dials.NO_CURVE
    assert {stop.name: stop.threshold for stop in stops if stop.name} == {
        'as given': 0.123,
        'as trained': 0.5,
        'mine': 0.77,
    }
    assert all(stop.macs_share is None and stop.top1 is None for stop in stops)


# --- The server, of a run. ---


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    return demo_run(tmp_path_factory.mktemp('demo'))


@pytest.fixture(scope='module')
def client(run: DemoRun) -> Iterator[httpx.Client]:
    server = PageServer(subject(run.predictor, NamedNetwork(str(run.workdir))), 20_000, lambda seconds: None)
    listening = http_server.bound('127.0.0.1', 0)
    running = uvicorn.Server(uvicorn.Config(server.application, log_level='warning'))
    thread = threading.Thread(target=running.run, kwargs={'sockets': [listening]})
    thread.start()
    try:
        with contextlib.closing(httpx.Client(base_url=http_server.address(listening), timeout=60)) as client:
            end = time.monotonic() + 120
            while client.get('/about').status_code == 503:
                assert time.monotonic() < end and server.failure is None
                time.sleep(0.02)
            yield client
    finally:
        running.should_exit = True
        thread.join()
        listening.close()


def pixels(file: bytes) -> np.ndarray:
    image = np.asarray(Image.open(io.BytesIO(file)))
    return image.reshape(*image.shape[:2], -1)


def told_pixels(told: dict[str, Any]) -> np.ndarray:
    return pixels(base64.b64decode(told['picture'].removeprefix('data:image/png;base64,')))


def test_the_page_is_told_of_the_network(client: httpx.Client, run: DemoRun) -> None:
    about, spec = client.get('/about').json(), run.predictor.spec
    assert (about['name'], about['kind'], about['blocksMacs']) == ('drawn', 'routed', list(spec.blocks_macs))
    assert (about['fixedMacs'], about['staticMacs']) == (spec.fixed_macs, spec.static_macs)
    stops = about['dial']['stops']
    assert about['dial']['sentence'] == f'Measured on {NUM_IMAGES} images of the train split.'
    assert stops[about['dial']['start']]['threshold'] == 0.5
    assert {stop['name']: stop['threshold'] for stop in stops if stop['name']} == {
        'as trained': 0.5,
        POINT: POINT_THRESHOLD,
    }
    curve = run.predictor.operating_points.curve
    assert about['curve'] == [[point.macs_share, point.top1] for point in curve]
    cost = curve[4].macs_share
    assert run.predictor.operating_points.threshold(cost=cost) in {stop['threshold'] for stop in stops}


@pytest.mark.parametrize('threshold', [None, 0.2, 0.85])
def test_an_image_and_its_views_are_answered_as_the_predictor_answers(
    client: httpx.Client, run: DemoRun, threshold: float | None
) -> None:
    query = '' if threshold is None else f'?threshold={threshold}'
    for i in range(4):
        image = run.images_NxHxWxC[i]
        told = client.post(f'/look{query}', content=page_server.png(image)).json()
        assert told['threshold'] == (threshold or 0.5) and 0 < told['seconds'] < 60
        names = [view['name'] for view in told['views']]
        assert names == list(AUGMENTATIONS)
        assert told_pixels(told['image']).tolist() == image.tolist()
        mirrored = told_pixels(told['views'][names.index('horizontal flip')])
        assert mirrored.tolist() == image[:, ::-1].tolist()
        for each in (told['image'], *told['views']):
            found = run.predictor(told_pixels(each)[None], threshold)
            assert each['route'] == found.decisions_Bxn[0].astype(int).tolist()
            assert (each['label'], each['macs']) == (found.labels_B[0], found.macs_B[0])
            assert each['probability'] == pytest.approx(found.probabilities_BxY.max(), abs=1e-4)
            assert each['gates'] == pytest.approx(found.run_probability_Bxn[0], abs=1e-4)
        top = [each['probability'] for each in told['image']['top']]
        assert len(top) == page_server.MOST_CLASSES and top == sorted(top, reverse=True)


def test_views_are_those_of_evaluation_and_always_the_same(run: DemoRun) -> None:
    image, other = run.images_NxHxWxC[:2]
    views = page_server.views_of(image)
    again = page_server.views_of(image)
    assert all((views[name] == again[name]).all() for name in AUGMENTATIONS)
    crops = {AUGMENTATIONS['crop'](image[None], jnp.asarray([position]))[0].tobytes() for position in range(40)}
    assert views['crop'].tobytes() in crops
    assert (page_server.views_of(other)['vertical flip'] == other[::-1]).all()


def test_test_images_are_grouped_by_their_routes(client: httpx.Client, run: DemoRun) -> None:
    about, record = client.get('/about').json(), run.record
    routes = collections.Counter(map(tuple, record.decisions_Nxn.astype(int).tolist()))
    groups = about['groups']
    assert {tuple(group['route']): round(group['share'] * NUM_IMAGES) for group in groups} == routes
    assert [group['macs'] for group in groups] == sorted(group['macs'] for group in groups)
    assert f'by the {len(routes)} routes' in about['examples'] and len(routes) > 2
    seen = set()
    for group in groups:
        members = [i for i in range(NUM_IMAGES) if tuple(record.decisions_Nxn[i].astype(int)) == tuple(group['route'])]
        assert [image['number'] for image in group['images']] == [i for i in members if i < NUM_PICTURES][:16]
        right = np.mean([record.labels_N[i] == record.predictions_N[i] for i in members])
        assert group['top1'] == pytest.approx(right)
        for image in group['images']:
            i = image['number']
            assert (image['label'], image['prediction']) == (record.labels_N[i], record.predictions_N[i])
            seen.add(i)
    for i in list(seen)[:5]:
        assert pixels(client.get(f'/picture/{i}').content).tolist() == run.images_NxHxWxC[i].tolist()
        told = client.post(f'/look?number={i}').json()['image']
        assert told['route'] == record.decisions_Nxn[i].astype(int).tolist()
        assert told_pixels(told).tolist() == run.images_NxHxWxC[i].tolist()
    for number in (NUM_PICTURES, 'x', '-1'):
        assert client.post(f'/look?number={number}').status_code == 404
    assert client.get(f'/picture/{"9" * 5000}').status_code == 404
    assert client.get(f'/picture/{NUM_PICTURES}').json() == {'error': f'No picture is kept of image {NUM_PICTURES}.'}


def bomb() -> bytes:
    """A small file that says it has forty thousand million pixels."""
    file = io.BytesIO()
    Image.new('L', (1, 1)).save(file, 'PNG')
    content = bytearray(file.getvalue())
    content[16:24] = (200_000).to_bytes(4, 'big') * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, 'big')
    return bytes(content)


@pytest.mark.parametrize(
    ('content', 'query', 'status', 'sentence'),
    [
        (b'no image', '', 422, 'The image is not an image that can be read here'),
        (b'', '', 422, 'The image is empty'),
        (bytes(30_000), '', 413, 'The image has more than 0.02 MB: send it smaller.'),
        (bomb(), '', 422, 'too many to be safe to read'),
        (b'x', '?threshold=nan', 400, '?threshold=nan cannot be'),
        (b'x', '?cost=9', 400, 'cannot cost 9 of the static network'),
    ],
)
def test_what_is_no_image_is_one_sentence(
    client: httpx.Client, content: bytes, query: str, status: int, sentence: str
) -> None:
    response = client.post(f'/look{query}', content=content)
    assert response.status_code == status and sentence in response.json()['error']


def test_a_run_that_was_not_evaluated_is_shown_without_its_images(tmp_path: Path) -> None:
    workdir = helpers.write_workdir(tmp_path / 'bare', helpers.tiny_config())
    predictor = network((0.4, 0.8))
    shown = subject(predictor, NamedNetwork(str(workdir)))
    assert isinstance(shown.examples, str) and 'make it with codinet_jax.evaluate' in shown.examples
    about = page_server.about(shown)
    assert about['groups'] == [] and about['curve'] == [] and about['dial']['sentence'] == dials.NO_CURVE


def test_small_copies_of_photographs_are_enlarged_and_said_to_be_small(tmp_path: Path, run: DemoRun) -> None:
    workdir = helpers.write_workdir(tmp_path / 'small', helpers.tiny_config())
    write_routes(workdir, 'test', *read_routes(run.workdir, 'test'))
    write_thumbnails(workdir, 'test', run.images_NxHxWxC[:, ::2, ::2])
    spec = dataclasses.replace(run.predictor.spec, center_crop=0.5)
    shown = subject(Predictor(spec, run.predictor.forward), NamedNetwork(str(workdir)))
    assert isinstance(shown.examples, Examples) and 'Only small copies were kept' in shown.examples.sentence
    seen = PageServer(shown, 1, lambda seconds: None).at_hand('3')
    small = Image.fromarray(run.images_NxHxWxC[3, ::2, ::2, 0]).resize((8, 8), Image.Resampling.BICUBIC)
    assert seen[..., 0].tolist() == np.asarray(small).tolist(), 'whole, for it was cropped when it was kept'


# --- The page. ---


def test_the_page_has_all_its_files_and_names_no_other_machine(client: httpx.Client) -> None:
    page = client.get('/')
    policy = page.headers['content-security-policy']
    assert "default-src 'none'" in policy and '*' not in policy and 'http' not in policy and 'unsafe' not in policy
    named = set(re.findall(r'(?:href|src)="(page/[^"]*)"', page.text))
    files = {name: client.get(f'/page/{name}').text for name in page_server.FILES}
    for name, text in files.items():
        named |= {f'page/{other}' for other in re.findall(r"from '\./([^']*)'", text)}
        assert 'http' not in text.replace('http://www.w3.org/2000/svg', ''), name
    assert named == {f'page/{name}' for name in files}
    assert 'http' not in page.text and 'style=' not in page.text and '<script>' not in page.text
    assert client.get('/page/page_server.py').status_code == 404


def test_a_page_of_another_site_sees_nothing(client: httpx.Client) -> None:
    for path in ('/', '/about', '/picture/0', '/page/page.js'):
        response = client.get(path, headers={'host': 'evil.example'})
        assert response.status_code == 400 and '--allowed_hosts' in response.json()['error']


def test_what_the_scripts_look_for_is_on_the_page() -> None:
    directory = resources.files('codinet_jax.demonstration')
    page, script = ((directory / name).read_text() for name in ('page.html', 'page.js'))
    names = re.findall(r'id="([^"]*)"', page)
    assert len(names) == len(set(names))
    assert set(re.findall(r"element\('([^']*)'\)", script)) <= set(names)


# --- The command. ---


def test_the_command_says_where_the_page_is_and_ends_when_told_to(run: DemoRun) -> None:
    flags = (f'--workdir={run.workdir}', '--port=0', '--allowed_hosts=demo.example.org')
    process = subprocess.Popen(
        [sys.executable, '-W', 'error', '-m', 'codinet_jax', 'demo', *flags],
        cwd=helpers.REPOSITORY,
        env=helpers.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(2)]
    asked = said[0].split(' at ')[1].split(';')[0]
    assert httpx.get(asked, headers={'host': 'demo.example.org'}).status_code == 200
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (128 + signal.SIGTERM, '', '')
    assert re.fullmatch(r'drawn at http://127\.0\.0\.1:\d+; compiling\n', said[0])
    address = said[0].split(' at ')[1].split(';')[0]
    assert re.fullmatch(rf'ready in \d+\.\d s: open {address} in a browser\n', said[1])


@pytest.mark.parametrize(
    ('flags', 'sentence'),
    [
        ([], 'Say what to show: --workdir=RUN, --exported=DIRECTORY or --pretrained=cifar10.'),
        (
            ['--pretrained=cifar10', '--cost=0.2', '--port=0'],
            'Network cifar10 cannot cost 0.2 of the static network: ask for a cost from 0.323 to 1.008.',
        ),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(flags: list[str], sentence: str) -> None:
    said = helpers.run_command('demo', *flags)
    helpers.assert_refused(said, f'error: {sentence}')
