"""The demo as whoever opens it meets it: in a browser that reaches no other machine, by hand, finger and keys."""

import base64
import contextlib
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import helpers
from browsing import DESK, PHONE, expect
from codinet_jax.data import image_files
from codinet_jax.demonstration.page_server import png
from codinet_jax.inference.predictor import Predictor
from codinet_jax.inference.shipped import load_pretrained
from demo_run import POINT, POINT_THRESHOLD, DemoRun, demo_run
from test_demo import bomb

pytestmark = pytest.mark.browser

READY = 120_000  # milliseconds, in which a network compiles on a busy machine

# As a hand does it: a file is dropped on the page, or pasted from the clipboard.
BRINGS = """([kind, name, type, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, {type}));
  const settings = {bubbles: true, cancelable: true};
  document.body.dispatchEvent(
    kind === 'drop'
      ? new DragEvent(kind, {...settings, dataTransfer: data})
      : new ClipboardEvent(kind, {...settings, clipboardData: data}),
  );
}"""


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> DemoRun:
    return demo_run(tmp_path_factory.mktemp('demo'))


@contextlib.contextmanager
def demo(*flags: str) -> Iterator[str]:
    """The command at work, as soon as it has an address; it may be compiling yet."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'codinet_jax', 'demo', '--port=0', *flags],
        cwd=helpers.REPOSITORY,
        env=helpers.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split(' at ')[1].split(';')[0]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope='module')
def of_run(run: DemoRun) -> Iterator[str]:
    with demo(f'--workdir={run.workdir}', '--max_upload_mb=0.1') as address:
        yield address


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a demo on some device; in the end nothing may have been complained of, or asked of another machine."""
    seen: list[str] = []

    def open_page(address: str, **device: Any) -> Any:
        page = stack.enter_context(contextlib.closing(browser.new_context(**device))).new_page()
        # That the server refuses is seen on the page, and the browser writes it down as well.
        page.on('console', lambda message: 'Failed to load resource' in message.text or seen.append(message.text))
        page.on('pageerror', lambda error: seen.append(str(error)))
        page.on('request', lambda asked: asked.url.startswith((f'{address}/', 'data:')) or seen.append(asked.url))
        page.goto(f'{address}/')
        expect(page.locator('#work')).to_be_visible(timeout=READY)
        return page

    with contextlib.ExitStack() as stack:
        yield open_page
    assert not seen


def bring(page: Any, kind: str, name: str, content: bytes) -> None:
    page.evaluate(BRINGS, [kind, name, 'image/png', base64.b64encode(content).decode()])


def assert_lit(page: Any, route: list[int]) -> None:
    """These blocks come to be lit, to the eye and in words."""
    run, n = [str(k + 1) for k, runs in enumerate(route) if runs], len(route)
    blocks = 'block' if len(run) == 1 else 'blocks'
    words = f'runs all {n} blocks' if len(run) == n else f'runs {blocks} {", ".join(run)} of {n}'
    expect(page.locator('#route')).to_have_attribute('aria-label', words if run else f'runs none of {n} blocks')
    is_lit = "(all) => all.map((each) => Number(each.classList.contains('runs')))"
    assert page.locator('.cell').evaluate_all(is_lit) == route


def threshold_of(page: Any) -> float:
    """Where the dial is, as the server told the page that it may be."""
    return page.evaluate(
        "fetch('about').then((told) => told.json())"
        ".then((about) => about.dial.stops[document.getElementById('turn').valueAsNumber].threshold)"
    )


def assert_shows(page: Any, predictor: Predictor, image: np.ndarray, threshold: float) -> None:
    """The page shows what the predictor says of this image: class, cost, blocks and route."""
    found, spec = predictor(image[None], threshold), predictor.spec
    route = found.decisions_Bxn[0].astype(int).tolist()
    expect(page.locator('#macs')).to_have_text(f'{found.macs_B[0] / 1e6:.3g}')
    share = f'{100 * found.macs_B[0] / spec.static_macs:.1f}'.removesuffix('.0')
    expect(page.locator('#share')).to_have_text(f'{share}%')
    expect(page.locator('#blocks')).to_have_text(f'{sum(route)} of {len(route)}')
    expect(page.locator('#class')).to_have_text(spec.classes[found.labels_B[0]])
    assert_lit(page, route)


@pytest.mark.parametrize('way', ['drop', 'paste', 'choose'])
def test_an_image_is_answered_and_the_dial_changes_its_route(
    opened: Callable[..., Any], of_run: str, run: DemoRun, way: str
) -> None:
    predictor = run.predictor
    dialled = [predictor(run.images_NxHxWxC, threshold).macs_B for threshold in (POINT_THRESHOLD, 0.5)]
    i = int(np.argmax(dialled[0] - dialled[1]))
    assert dialled[0][i] > dialled[1][i], 'an image whose route the dial changes'
    image = run.images_NxHxWxC[i]
    page = opened(of_run, **DESK)
    expect(page.locator('#caption')).to_contain_text('Image ')  # which it begins with
    if way == 'choose':
        with page.expect_file_chooser() as chooser:
            page.get_by_role('button', name='Choose an image').press('Enter')
        chooser.value.set_files({'name': 'mine.png', 'mimeType': 'image/png', 'buffer': png(image)})
    else:
        bring(page, way, 'mine.png', png(image))
    expect(page.locator('#caption')).to_have_text('mine.png, as the network sees it.')
    assert threshold_of(page) == 0.5
    assert_shows(page, predictor, image, 0.5)
    page.get_by_role('button', name=POINT).click()
    expect(page.get_by_role('button', name=POINT)).to_have_attribute('aria-pressed', 'true')
    assert threshold_of(page) == POINT_THRESHOLD
    assert_shows(page, predictor, image, POINT_THRESHOLD)
    page.get_by_role('slider').press('Home')
    expect(page.locator('#blocks')).to_have_text(f'0 of {len(predictor.spec.blocks_macs)}')
    assert_shows(page, predictor, image, threshold_of(page))
    page.get_by_role('slider').press('End')
    assert_shows(page, predictor, image, threshold_of(page))


def test_views_and_classes_are_shown(opened: Callable[..., Any], of_run: str, run: DemoRun) -> None:
    page = opened(of_run, **DESK)
    image = run.images_NxHxWxC[8]
    bring(page, 'drop', 'mine.png', png(image))
    expect(page.locator('#caption')).to_contain_text('mine.png')
    assert page.locator('.view b').all_inner_texts() == ['cropped', 'mirrored', 'upside down', 'rotated']
    found = run.predictor(np.stack([image, image[:, ::-1], image[::-1]]))
    routes = found.decisions_Bxn.astype(int).tolist()
    for view, route in ((1, routes[1]), (2, routes[2])):
        squares = page.locator('.view').nth(view).locator('.small i')
        assert squares.evaluate_all("(all) => all.map((each) => Number(each.className === 'runs'))") == route
        alike = sum(u == v for u, v in zip(route, routes[0], strict=True))
        wanted = 'same route' if alike == len(route) else f'{alike} of {len(route)} blocks alike'
        expect(page.locator('.view').nth(view)).to_contain_text(wanted)
    bars = page.locator('#bars li').all_inner_texts()
    order = np.argsort(-found.probabilities_BxY[0], kind='stable')[: len(bars)]
    assert [bar.split('\n')[0] for bar in bars] == [run.predictor.spec.classes[label] for label in order]


def test_a_test_image_is_looked_at_by_a_finger(opened: Callable[..., Any], of_run: str, run: DemoRun) -> None:
    page = opened(of_run, **PHONE)
    button = page.get_by_role('button', name='Image 17:')
    button.tap()
    label = run.predictor.spec.classes[run.record.labels_N[17]]
    expect(page.locator('#caption')).to_have_text(f'Image 17, of class {label}.')
    assert_shows(page, run.predictor, run.images_NxHxWxC[17], 0.5)
    assert_lit(page, run.record.decisions_Nxn[17].astype(int).tolist())


def test_what_is_no_image_is_refused_in_a_sentence_and_what_was_shown_stays(
    opened: Callable[..., Any], of_run: str, run: DemoRun
) -> None:
    page = opened(of_run, **DESK)
    bring(page, 'drop', 'mine.png', png(run.images_NxHxWxC[3]))
    expect(page.locator('#caption')).to_contain_text('mine.png')
    refused = [
        (b'no image', 'The image is not an image that can be read here'),
        (bytes(200_000), 'The image has more than 0.1 MB: send it smaller.'),
        (bomb(), 'too many to be safe to read'),
    ]
    for content, sentence in refused:
        bring(page, 'drop', 'bad.png', content)
        expect(page.get_by_role('alert')).to_contain_text(sentence)
        assert_shows(page, run.predictor, run.images_NxHxWxC[3], 0.5)
    page.get_by_role('button', name=POINT).click()
    expect(page.get_by_role('alert')).to_be_hidden()
    assert_shows(page, run.predictor, run.images_NxHxWxC[3], POINT_THRESHOLD)


@pytest.mark.parametrize('device', [DESK, PHONE, PHONE | {'viewport': {'width': 360, 'height': 640}}])
def test_nothing_is_wider_than_the_screen_and_every_picture_is_described(
    opened: Callable[..., Any], of_run: str, device: dict[str, Any]
) -> None:
    page = opened(of_run, **device)
    expect(page.locator('#found')).to_be_visible()
    bring(page, 'drop', f'{"a_name_without_an_end" * 4}.png', png(np.zeros((8, 8, 1), np.uint8)))
    expect(page.locator('#caption')).to_contain_text('a_name')
    assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
    assert page.evaluate('innerWidth') == device['viewport']['width']
    named = page.locator('img').evaluate_all(
        "(all) => all.every((each) => each.alt || each.closest('button').ariaLabel)"
    )
    assert named and page.locator('[role=img]:not([aria-label])').count() == 0


def test_the_page_follows_the_colour_scheme(opened: Callable[..., Any], of_run: str) -> None:
    page = opened(of_run, **DESK, color_scheme='light')
    background = 'getComputedStyle(document.documentElement).backgroundColor'
    light = page.evaluate(background)
    page.emulate_media(color_scheme='dark')
    assert (light, page.evaluate(background)) == ('rgb(245, 245, 243)', 'rgb(14, 16, 19)')


def test_a_server_that_is_gone_is_a_sentence(opened: Callable[..., Any], run: DemoRun) -> None:
    with demo(f'--workdir={run.workdir}') as address:
        page = opened(address, **DESK)
        expect(page.locator('#found')).to_be_visible()
    page.get_by_role('button', name=POINT).click()
    expect(page.get_by_role('alert')).to_have_text('The server does not answer: start codinet demo again.')


def test_the_network_of_the_package_runs_more_blocks_for_who_turns_the_dial(
    opened: Callable[..., Any], tmp_path: Path
) -> None:
    predictor = load_pretrained()
    generator = np.random.default_rng(4)
    photo = Image.fromarray(generator.integers(0, 256, (9, 12, 3), np.uint8)).resize(
        (120, 90), Image.Resampling.BICUBIC
    )
    file = io.BytesIO()
    photo.save(file, 'JPEG')
    (tmp_path / 'photo.jpg').write_bytes(file.getvalue())
    image = image_files.read_image(tmp_path / 'photo.jpg', 32, 3)
    with demo('--pretrained=cifar10') as address:
        page = opened(address, **DESK)
        expect(page.locator('#no-answer')).to_be_visible()
        page.set_input_files('#file', tmp_path / 'photo.jpg')
        expect(page.locator('#found')).to_be_visible()
        for key in ('End', 'Home'):  # every block, and those that run for all
            page.get_by_role('slider').press(key)
            threshold = threshold_of(page)
            found = predictor(image[None], threshold)
            expect(page.locator('#blocks')).to_have_text(f'{27 if key == "End" else 9} of 27')
            assert found.decisions_Bxn.sum() == (27 if key == 'End' else 9)
            expect(page.locator('#macs')).to_have_text(f'{found.macs_B[0] / 1e6:.3g}')
            expect(page.locator('#class')).to_have_text(predictor.spec.classes[found.labels_B[0]])
        curve = page.get_by_role('img', name='the dial is at 32.3% of the static network and 92.2% right')
        expect(curve).to_be_visible()
