"""The report page as text: what is in it, that it loads nothing, and that what the map is given is the record."""

import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codinet_jax.analysis import report, style
from codinet_jax.analysis.report import Page, Shown
from codinet_jax.analysis.route_map import route_map_html
from codinet_jax.analysis.tables import Table
from synthetic_run import grid_positions, synthetic_run

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">'
PAGE = Page('Title', 'Subtitle', ['A remark.'], [('Top-1', '80.0%', 'of 70')], ['A finding.'], [], [], ['seed 0'])


class Elements(HTMLParser):
    """The elements of a page in order, each as its tag, its attributes and the text right after it opens."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes), ''))

    def handle_data(self, data: str) -> None:
        if self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, (text + data).strip())

    def texts(self, tag: str) -> list[str]:
        return [text for found, _, text in self.found if found == tag]


def map_data(html: str) -> dict[str, Any]:
    """What the page hands to route_map.js."""
    return next(
        json.loads(text) for _, attributes, text in Elements(html).found if attributes.get('id') == 'route-map-data'
    )


def from_base64(text: str, dtype: type) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def from_uri(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(',')[2]))))


def on_sheets(data: dict[str, Any], size: int) -> np.ndarray:
    """Every picture of the map, cut out of its sheet as the page does it."""
    columns, rows = data['sheetColumns'], data['sheetRows']
    sheets = [from_uri(uri) for uri in data['sheets']]
    cut = []
    for image in range(data['numPictures']):
        row, column = divmod(image % (columns * rows), columns)
        sheet = sheets[image // (columns * rows)]
        cut.append(sheet[row * size : (row + 1) * size, column * size : (column + 1) * size])
    return np.stack(cut)


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new('L', (2, 2), shade).save(file, 'PNG')
    return file.getvalue()


def test_the_page_has_the_colours_of_the_figures() -> None:
    light, dark = re.findall(r':root {(.*?)}', report._packaged('page.css'), re.DOTALL)
    for text, theme in ((light, style.theme(is_dark=False)), (dark, style.theme(is_dark=True))):
        colours = dict(re.findall(r'--(\w+): (#\w+);', text))
        of_figures = {'paper': theme.paper, 'ink': theme.ink, 'muted': theme.muted, 'accent': theme.runs[0]}
        assert colours.items() >= of_figures.items()


def test_text_is_shown_and_never_obeyed() -> None:
    shown = Shown(*[HOSTILE] * 4, True, png(255), png(0))
    hostile = Page(
        *[HOSTILE] * 2,
        [HOSTILE],
        [(HOSTILE,) * 3],
        [HOSTILE],
        [shown],
        [Table(HOSTILE, (HOSTILE,), ((HOSTILE,),))],
        [HOSTILE],
    )
    run = synthetic_run(classes=(HOSTILE, 'dog', 'cow'))
    html = report.page_html(hostile, route_map_html(dataclasses.replace(run, split=HOSTILE), grid_positions()))
    elements = Elements(html)
    assert not [attributes for _, attributes, _ in elements.found if 'onerror' in attributes]
    assert 'alert(1)' not in elements.texts('script')
    for tag in ('h1', 'h3', 'dt', 'li', 'figcaption', 'caption', 'title'):
        assert HOSTILE in elements.texts(tag)
    assert map_data(html)['classes'] == [HOSTILE, 'dog', 'cow']


def test_a_page_loads_nothing_but_itself() -> None:
    html = report.page_html(
        PAGE._replace(shown=[Shown('f', 'F', 'c', 'a', False, png(255), png(0))]),
        route_map_html(synthetic_run(), grid_positions()),
    )
    elements = Elements(html).found
    loaded = [
        attributes[name] for _, attributes, _ in elements for name in ('src', 'srcset', 'href') if name in attributes
    ]
    loaded = [uri for uri in loaded if not uri.startswith('#')]
    assert len(loaded) == 3 and all(uri.startswith('data:') for uri in loaded)
    style = ''.join(text for tag, _, text in elements if tag == 'style')
    assert '--ground' in style and 'url(' not in style and '@import' not in style
    policy = next(attributes['content'] for _, attributes, _ in elements if 'http-equiv' in attributes)
    assert policy.startswith("default-src 'none'; img-src data: blob:;") and 'http' not in policy


def test_a_page_without_a_map_has_no_script() -> None:
    html = report.page_html(PAGE)
    assert '<script' not in html and 'route-map-chart' not in html
    assert {'A remark.', '80.0%', 'seed 0'} <= set(Elements(html).texts('p') + Elements(html).texts('dd'))


def test_a_figure_has_both_schemes_and_its_texts() -> None:
    elements = Elements(
        report.page_html(PAGE._replace(shown=[Shown('f', 'F', 'c', 'alt', True, png(255), png(0))]))
    ).found
    source, image = (next(each[1] for each in elements if each[0] == tag) for tag in ('source', 'img'))
    assert source['media'] == '(prefers-color-scheme: dark)' and image['alt'] == 'alt'
    assert from_uri(source['srcset']).max() == 0 and from_uri(image['src']).min() == 255


def test_a_table_names_its_rows_and_columns() -> None:
    table = Table('T', ('', 'K', 'top-1'), (('crop', '3.5', '99.0%'), ('flip', '3.6', '31.0%')))
    elements = Elements(report.page_html(PAGE._replace(tables=[table])))
    assert [text for _, attributes, text in elements.found if attributes.get('scope') == 'col'] == ['K', 'top-1']
    assert [text for _, attributes, text in elements.found if attributes.get('scope') == 'row'] == ['crop', 'flip']
    assert elements.texts('td') == ['', '3.5', '99.0%', '3.6', '31.0%']


def test_the_index_leads_to_every_figure_and_table() -> None:
    shown = [Shown(stem, stem.upper(), 'c', 'a', False, png(255), png(0)) for stem in ('f', 'g')]
    page = PAGE._replace(shown=shown, tables=[Table('T', ('', 'K'), ())])
    elements = Elements(report.page_html(page, route_map_html(synthetic_run(), grid_positions()))).found
    links = {
        text: attributes['href'] for tag, attributes, text in elements if tag == 'a' and 'download' not in attributes
    }
    assert list(links) == ['Route map', 'F', 'G', 'T']
    ids = {attributes.get('id') for _, attributes, _ in elements}
    assert all(target.removeprefix('#') in ids for target in links.values())


def test_a_table_can_be_had_as_csv() -> None:
    table = Table('T', ('', 'K', 'a, b'), (('crop', '3.5', '<0.001'),))
    elements = Elements(report.page_html(PAGE._replace(tables=[table]))).found
    (link,) = (attributes for _, attributes, _ in elements if 'download' in attributes)
    assert link['download'].endswith('.csv')
    assert base64.b64decode(link['href'].partition(',')[2]).decode() == ',K,"a, b"\ncrop,3.5,<0.001\n'


def test_a_table_without_rows_shows_its_header() -> None:
    html = report.page_html(PAGE._replace(tables=[Table('T', ('Route', 'Images'), ())]))
    assert Elements(html).texts('th') == ['Route', 'Images']


def test_the_map_is_given_the_record() -> None:
    run, P = synthetic_run(), 60
    data = map_data(route_map_html(run, grid_positions(P)))
    rows = from_base64(data['routes'], np.uint8).reshape(P, -1)
    decisions_Pxn = np.unpackbits(rows, axis=1, count=data['numBlocks']).astype(bool)
    np.testing.assert_array_equal(decisions_Pxn, run.record.decisions_Nxn[:P])
    np.testing.assert_array_equal(from_base64(data['labels'], np.uint16), run.record.labels_N[:P])
    np.testing.assert_array_equal(from_base64(data['predictions'], np.uint16), run.record.predictions_N[:P])
    macs_P = data['fixedMacs'] + decisions_Pxn @ np.array(data['blockMacs'])
    np.testing.assert_array_equal(macs_P, run.macs_N[:P])
    assert data['staticMacs'] == run.costs.static_macs


def test_pictures_are_exact_and_only_those_that_were_kept() -> None:
    run = synthetic_run(num_thumbnails=50)
    data = map_data(route_map_html(run, grid_positions(60)))
    assert data['numPictures'] == 50
    np.testing.assert_array_equal(on_sheets(data, 8), run.thumbnails_SxhxwxC)


def test_pictures_of_images_off_the_map_are_left_out() -> None:
    data = map_data(route_map_html(synthetic_run(num_thumbnails=70), grid_positions(60)))
    assert data['numPictures'] == 60


def test_grey_pictures_spread_over_sheets() -> None:
    run = synthetic_run(num_images=1100, num_thumbnails=1100)
    run = dataclasses.replace(run, thumbnails_SxhxwxC=run.thumbnails_SxhxwxC[..., :1])
    data = map_data(route_map_html(run, grid_positions(1100)))
    assert len(data['sheets']) == 2
    np.testing.assert_array_equal(on_sheets(data, 8), run.thumbnails_SxhxwxC[..., 0])


def test_many_pictures_are_packed_small() -> None:
    run = synthetic_run(num_images=2000, num_thumbnails=2000)
    ramp_h = np.linspace(0, 200, 32)
    smooth = ramp_h[None, :, None, None] + np.arange(2000)[:, None, None, None] % 50 + np.zeros((2000, 32, 32, 3))
    run = dataclasses.replace(run, thumbnails_SxhxwxC=smooth.astype(np.uint8))
    data = map_data(route_map_html(run, grid_positions(2000)))
    assert sum(map(len, data['sheets'])) < smooth.size / 5
    assert np.abs(on_sheets(data, 32).astype(float) - smooth).mean() < 4


def test_classes_that_can_be_asked_for_are_those_there_are() -> None:
    html = route_map_html(synthetic_run(classes=('cat', 'dog', 'cow', 'emu')), grid_positions(58))
    assert [text for text in Elements(html).texts('option') if '(' in text] == ['cat (20)', 'dog (19)', 'cow (19)']


@pytest.mark.parametrize(('num_classes', 'way'), [(10, 'class'), (11, 'cost')])
def test_classes_are_coloured_while_there_are_colours(num_classes: int, way: str) -> None:
    html = route_map_html(synthetic_run(classes=tuple(map(str, range(num_classes)))), grid_positions())
    assert [text for _, attributes, text in Elements(html).found if 'selected' in attributes] == [way]
