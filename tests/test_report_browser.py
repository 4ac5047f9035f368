"""The report page as a reader meets it: in a browser with no network, pointed at, tapped and stepped through."""

import base64
import contextlib
import io
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from browsing import DESK, PHONE, expect
from codinet_jax.analysis import report, style
from codinet_jax.analysis.report import Page, Shown
from codinet_jax.analysis.route_map import route_map_html
from codinet_jax.analysis.tables import Table
from synthetic_run import CLASSES, grid_positions, synthetic_run

pytestmark = pytest.mark.browser

SMALL = PHONE | {'viewport': {'width': 360, 'height': 640}}

RUN, P = synthetic_run(), 60
POSITIONS_Px2 = grid_positions(P)
BETWEEN = POSITIONS_Px2[(POSITIONS_Px2 > 0).all(axis=1)] - 0.5
ON_SCREEN = """(places) => {
  const view = Bokeh.index.get_one(Bokeh.documents[0].roots()[0]);
  const corner = view.canvas_view.events_el.getBoundingClientRect();
  const {x_scale, y_scale} = view.frame;
  return places.map(([x, y]) => [corner.x + x_scale.compute(x), corner.y + y_scale.compute(y)]);
}"""


@pytest.fixture(scope='session')
def report_html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    plate = {name: Image.new('RGB', (900, 300), colour) for name, colour in (('light', 'white'), ('dark', 'black'))}
    files = {name: io.BytesIO() for name in plate}
    for name, image in plate.items():
        image.save(files[name], 'PNG')
    pngs = files['light'].getvalue(), files['dark'].getvalue()
    page = Page(
        title='A_run_with_a_name_that_does_not_end_where_a_telephone_does',
        subtitle='70 images',
        remarks=['These are only 70 images.'],
        headlines=[(f'Measure {i}', '80.0%', 'a note of several words') for i in range(6)],
        findings=['Block 1 always runs, and so it goes on in a sentence that is longer than a telephone is wide.'],
        shown=[
            Shown('wide', 'Wide', 'Caption', 'A plate', True, *pngs),
            Shown('narrow', 'Narrow', 'Caption', 'Another', False, *pngs),
        ],
        tables=[Table('Many', tuple(f'Column {i}' for i in range(18)), (tuple('100.00%' for _ in range(18)),) * 3)],
        footer=['seed 0'],
    )
    path = tmp_path_factory.mktemp('report') / 'report.html'
    path.write_text(report.page_html(page, route_map_html(RUN, POSITIONS_Px2)), encoding='utf-8')
    return path


@pytest.fixture
def opened(browser: Any, report_html: Path) -> Iterator[Callable[..., Any]]:
    """Opens the report on some device; in the end nothing may have been complained of or asked of a network."""
    seen: list[str] = []
    allowed = (report_html.as_uri(), 'data:', 'blob:')

    def open_page(**device: Any) -> Any:
        page = stack.enter_context(contextlib.closing(browser.new_context(offline=True, **device))).new_page()
        page.on('console', lambda message: message.type in ('error', 'warning') and seen.append(message.text))
        page.on('pageerror', lambda error: seen.append(str(error)))
        page.on('request', lambda request: request.url.startswith(allowed) or seen.append(request.url))
        page.goto(report_html.as_uri())
        expect(page.locator('#route-map-position')).to_have_text('Image 0')
        page.locator('.controls').evaluate('(controls) => controls.scrollIntoView()')
        return page

    with contextlib.ExitStack() as stack:
        yield open_page
    assert not seen


def on_screen(page: Any, image: int) -> tuple[float, float]:
    return page.evaluate(ON_SCREEN, [POSITIONS_Px2[image].tolist()])[0]


def pixels(page: Any, places_Px2: np.ndarray) -> np.ndarray:
    """The colours on screen at places of the map: [P, 3]."""
    screen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert('RGB'))
    x_P, y_P = np.round(page.evaluate(ON_SCREEN, places_Px2.tolist())).astype(int).T
    return screen[y_P, x_P]


def shows(page: Any, colours: Sequence[Any], places_Px2: np.ndarray = POSITIONS_Px2) -> bool:
    """Whether the map comes to show these colours at these places, within what blending does to them."""
    wanted_Px3 = 255 * np.array([to_rgb(colour) for colour in colours])
    end = time.monotonic() + 5
    while time.monotonic() < end:
        if np.all(np.abs(pixels(page, places_Px2) - wanted_Px3) < 12):
            return True
        page.wait_for_timeout(50)
    return False


def assert_card(page: Any, image: int) -> None:
    """The card shows this image: its texts, its route, and its pixels as they are on screen."""
    record, decisions_n = RUN.record, RUN.record.decisions_Nxn[image]
    card = page.locator('#route-map-card')
    expect(card.locator('h3 b')).to_have_text(f'Image {image}')
    label, prediction = CLASSES[record.labels_N[image]], CLASSES[record.predictions_N[image]]
    assert page.inner_text('#route-map-label') == label
    assert page.inner_text('#route-map-prediction') == (prediction if image % 5 else f'{prediction} ✗ wrong')
    assert page.inner_text('#route-map-blocks') == f'{decisions_n.sum()} of 11'
    squares = page.locator('#route-map-route i').evaluate_all('(all) => all.map((each) => each.className)')
    assert squares == ['runs' if runs else '' for runs in decisions_n]
    macs, share = re.fullmatch(r'([\d.]+) MMACs, ([\d.]+)% of static', page.inner_text('#route-map-cost')).groups()
    assert float(macs) == pytest.approx(RUN.macs_N[image] / 1e6, rel=5e-3)
    assert float(share) == pytest.approx(100 * RUN.macs_N[image] / RUN.costs.static_macs, abs=0.051)
    rendered = Image.open(io.BytesIO(page.locator('#route-map-picture').screenshot())).convert('RGB')
    # The middle of every pixel, away from the card's rounded corners and from edges between pixels.
    size_8 = (np.arange(8) + 0.5) / 8
    y_8, x_8 = (size_8 * rendered.height).astype(int), (size_8 * rendered.width).astype(int)
    middle = np.asarray(rendered)[np.ix_(y_8, x_8)].astype(int)
    assert np.abs(middle - RUN.thumbnails_SxhxwxC[image]).max() <= 2


def from_uri(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(',')[2]))))


def class_colours(is_dark: bool = False) -> list[str]:
    return [style.theme(is_dark).classes[RUN.record.labels_N[image]] for image in range(P)]


def test_every_image_is_at_its_place_in_the_colour_of_its_class(opened: Callable[..., Any]) -> None:
    page = opened(**DESK, color_scheme='light')
    assert shows(page, class_colours())
    assert shows(page, ['white'] * len(BETWEEN), BETWEEN)
    assert page.locator('#route-map-legend li').all_inner_texts() == list(CLASSES)


def test_pointing_at_an_image_shows_it(opened: Callable[..., Any]) -> None:
    page = opened(**DESK)
    for image in (7, 40, 49):
        page.mouse.move(*on_screen(page, image))
        assert_card(page, image)


def test_pointing_beside_images_keeps_the_last(opened: Callable[..., Any]) -> None:
    page = opened(**DESK)
    page.mouse.move(*on_screen(page, 7))
    assert_card(page, 7)
    x, y = on_screen(page, 20)
    page.mouse.move(x + 20, y + 20)
    page.wait_for_timeout(200)
    assert_card(page, 7)


def test_tapping_an_image_shows_it(opened: Callable[..., Any]) -> None:
    page = opened(**PHONE)
    for image in (12, 33):
        page.touchscreen.tap(*on_screen(page, image))
        assert_card(page, image)
    chart, card = (page.locator(name).bounding_box() for name in ('#route-map-chart', '#route-map-card'))
    assert card['y'] > chart['y'] + chart['height']


def test_a_finger_on_the_map_scrolls_the_page(opened: Callable[..., Any]) -> None:
    page = opened(**PHONE)
    before, (x, y) = page.evaluate('scrollY'), on_screen(page, 12)
    touch = page.context.new_cdp_session(page)
    for kind, moved in [('touchStart', 0), *(('touchMove', 20 * i) for i in range(1, 9)), ('touchEnd', None)]:
        points = [] if moved is None else [{'x': x, 'y': y - moved}]
        touch.send('Input.dispatchTouchEvent', {'type': kind, 'touchPoints': points})
        page.wait_for_timeout(20)
    page.wait_for_timeout(300)
    assert page.evaluate('scrollY') > before + 80


def test_an_image_that_was_not_kept_has_no_picture(opened: Callable[..., Any]) -> None:
    page = opened(**DESK)
    page.mouse.move(*on_screen(page, 55))
    expect(page.locator('#route-map-position')).to_have_text('Image 55')
    expect(page.get_by_text('No picture was kept of this image.')).to_be_visible()
    assert not page.locator('#route-map-picture').is_visible()
    page.mouse.move(*on_screen(page, 7))
    assert_card(page, 7)


def test_the_map_can_be_had_of_one_class(opened: Callable[..., Any]) -> None:
    page = opened(**DESK, color_scheme='light')
    page.get_by_label('Show').select_option(label='dog (20)')
    assert page.inner_text('#route-map-count') == '20 of 60 images'
    faint = style.theme(False).others
    assert shows(page, [colour if image % 3 == 1 else faint for image, colour in enumerate(class_colours())])
    assert_card(page, 1)
    page.mouse.move(*on_screen(page, 40))
    assert_card(page, 40)
    page.mouse.move(*on_screen(page, 41))
    page.wait_for_timeout(200)
    assert_card(page, 40)
    page.get_by_label('Show').select_option(label='all classes')
    assert shows(page, class_colours())


def test_the_map_can_be_had_of_what_was_wrong(opened: Callable[..., Any]) -> None:
    page = opened(**DESK, color_scheme='light')
    page.get_by_label('Answers').select_option('wrong')
    assert page.inner_text('#route-map-count') == '12 of 60 images'
    faint = style.theme(False).others
    assert shows(page, [faint if image % 5 else colour for image, colour in enumerate(class_colours())])
    assert_card(page, 0)
    page.get_by_role('button', name='Next').click()
    assert_card(page, 5)
    page.get_by_label('Show').select_option(label='dog (20)')
    assert page.inner_text('#route-map-count') == '4 of 60 images'
    page.get_by_label('Answers').select_option('right')
    assert page.inner_text('#route-map-count') == '16 of 60 images'


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_a_figure_can_be_had_as_a_file_for_a_white_page(opened: Callable[..., Any], scheme: str) -> None:
    page = opened(**DESK, color_scheme=scheme)
    with page.expect_download() as started:
        page.get_by_role('button', name='PNG').first.click()
    assert started.value.suggested_filename == 'wide.png'
    with Image.open(started.value.path()) as image:
        assert image.size == (900, 300) and image.convert('L').getextrema() == (255, 255)


def test_a_table_can_be_had_as_a_file(opened: Callable[..., Any]) -> None:
    page = opened(**DESK)
    with page.expect_download() as started:
        page.get_by_role('link', name='CSV').click()
    lines = Path(started.value.path()).read_text().splitlines()
    assert lines[0].split(',') == [f'Column {i}' for i in range(18)] and len(lines) == 4


def test_a_wide_table_takes_the_room_of_a_wide_screen(opened: Callable[..., Any]) -> None:
    widths = []
    for width in (1280, 1900):
        page = opened(viewport={'width': width, 'height': 900})
        widths.append(page.locator('.tables .scroller').bounding_box()['width'])
        assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
    assert widths[1] > widths[0] + 100


def test_colours_can_say_what_was_right(opened: Callable[..., Any]) -> None:
    page = opened(**DESK)
    page.get_by_label('Colour by').select_option('correctness')
    assert page.locator('#route-map-legend li').all_inner_texts() == ['right (48)', 'wrong (12)']
    assert shows(page, ['#0072b2' if image % 5 else '#d55e00' for image in range(P)])


def test_colours_can_say_what_an_image_costs(opened: Callable[..., Any]) -> None:
    page = opened(**DESK)
    page.get_by_label('Colour by').select_option('cost')
    macs_P = RUN.macs_N[:P]
    least, most, unit = page.inner_text('#route-map-legend').split()
    assert [float(least), float(most)] == pytest.approx([macs_P.min() / 1e6, macs_P.max() / 1e6], rel=5e-3)
    assert unit == 'MMACs'
    steps_P = np.round(31 * (macs_P - macs_P.min()) / np.ptp(macs_P)).astype(int)
    assert shows(page, [style.theme(False).sequential(step / 31) for step in steps_P])


def test_images_can_be_stepped_through_by_keys(opened: Callable[..., Any]) -> None:
    page = opened(**DESK)
    page.get_by_role('button', name='Next').focus()
    page.keyboard.press('Enter')
    assert_card(page, 1)
    page.keyboard.press('Shift+Tab')
    for _ in range(2):
        page.keyboard.press('Enter')
    expect(page.locator('#route-map-position')).to_have_text('Image 59')
    page.get_by_label('Show').select_option(label='cow (20)')
    page.get_by_role('button', name='Next').press('Enter')
    assert_card(page, 2)


def test_the_page_follows_the_colour_scheme(opened: Callable[..., Any]) -> None:
    page = opened(**DESK, color_scheme='light')
    background = 'getComputedStyle(document.documentElement).backgroundColor'
    source = "document.querySelector('figure img').currentSrc"
    light = page.evaluate(background), page.evaluate(source)
    page.emulate_media(color_scheme='dark')
    assert shows(page, class_colours(is_dark=True))
    assert shows(page, ['#16181d'] * len(BETWEEN), BETWEEN)
    dark = page.evaluate(background), page.evaluate(source)
    assert light[0] == 'rgb(245, 245, 243)' and dark[0] == 'rgb(14, 16, 19)'
    assert [np.unique(from_uri(uri)).tolist() for uri in (light[1], dark[1])] == [[255], [0]]


@pytest.mark.parametrize('device', [SMALL, PHONE, DESK])
def test_nothing_is_wider_than_the_screen(opened: Callable[..., Any], device: dict[str, Any]) -> None:
    page = opened(**device)
    assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
    assert page.evaluate('innerWidth') == device['viewport']['width']


def test_every_picture_is_there_and_described(opened: Callable[..., Any]) -> None:
    page = opened(**DESK)
    images = page.locator('img').evaluate_all('(all) => all.map((each) => [each.alt, each.naturalWidth])')
    assert images == [['A plate', 900], ['Another', 900]]
