"""The report's interactive map: every image at its place among routes, and on asking what the network made of it.

This prepares the data; what the map does is in route_map.js, and route_map.html is its frame.
"""

import base64
import io
from typing import Any

import numpy as np
from bokeh.embed import json_item
from bokeh.models import (
    ColumnDataSource,
    DataRange1d,
    InlineStyleSheet,
    PanTool,
    ResetTool,
    WheelZoomTool,
    ZoomInTool,
    ZoomOutTool,
)
from bokeh.plotting import figure
from bokeh.resources import Resources
from markupsafe import Markup
from matplotlib.colors import to_hex
from PIL import Image

from codinet_jax.analysis import style
from codinet_jax.analysis.report import data_uri, render
from codinet_jax.analysis.run import Run

SHEET_COLUMNS, SHEET_ROWS = 32, 32
LOSSLESS_BYTES = 2**22  # of pixels; what has more is shown as WebP, in a sixth of the space


def route_map_html(run: Run, positions_Px2: np.ndarray) -> str:
    """The map of the first P images of a run, with its controls, data and scripts, to be put into a page."""
    P, (height, width) = len(positions_Px2), run.thumbnails_SxhxwxC.shape[1:3]
    palettes = {'light': _palette(is_dark=False), 'dark': _palette(is_dark=True)}
    counts = np.bincount(run.record.labels_N[:P])
    return render(
        'route_map.html',
        classes=[(label, run.class_names[label], int(counts[label])) for label in np.flatnonzero(counts)],
        first_way='class' if len(run.class_names) <= len(palettes['light']['classes']) else 'cost',
        part=run.part,
        num_images=run.num_images,
        split=run.split,
        width=width,
        height=height,
        bokeh=Markup(Resources(mode='inline', components=['bokeh'], log_level='warn').render_js()),
        chart=json_item(_chart(positions_Px2)),
        data=_data(run, P) | {'palettes': palettes},
    )


def _chart(positions_Px2: np.ndarray) -> figure:
    """The points alone; `context` shows them faintly behind those of one class, `chosen` rings the one on the card."""
    x_P, y_P = positions_Px2.astype(np.float32).T
    x_range, y_range = (DataRange1d(range_padding=0.05) for _ in range(2))
    zoom = WheelZoomTool(modifiers='ctrl')
    chart = figure(
        tools=[PanTool(), zoom, ZoomInTool(), ZoomOutTool(), ResetTool()],
        active_scroll=zoom,
        toolbar_location='above',
        sizing_mode='stretch_both',
        match_aspect=True,
        x_range=x_range,
        y_range=y_range,
        min_border=0,
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=None,
    )
    chart.toolbar.logo = None
    # With no room to spare its last tool is put away in a menu.
    chart.toolbar.stylesheets = [InlineStyleSheet(css=':host { padding-left: 24px; --button-color: transparent; }')]
    chart.axis.visible = False
    chart.grid.visible = False
    size = float(np.clip(160 / np.sqrt(len(positions_Px2)), 4, 9))
    context = chart.scatter(x_P, y_P, size=size, line_color=None, name='context', visible=False)
    points, chosen = ColumnDataSource({'x': [], 'y': [], 'colour': []}), ColumnDataSource({'x': [], 'y': []})
    chart.scatter(source=points, size=size, fill_color='colour', line_alpha=0.4, line_width=0.6, name='points')
    chart.scatter(source=chosen, size=size + 9, fill_color=None, line_width=2.5, level='overlay', name='chosen')
    # That the map stays where it is when a class is asked for.
    x_range.renderers = y_range.renderers = [context]
    return chart


def _palette(is_dark: bool) -> dict[str, Any]:
    colours = style.theme(is_dark)
    return {
        'classes': colours.classes,
        'others': colours.others,
        'cost': [to_hex(colour) for colour in colours.sequential(np.linspace(0, 1, 32))],
        'right': style.RIGHT,
        'wrong': style.WRONG,
        'ink': colours.ink,
    }


def _data(run: Run, P: int) -> dict[str, Any]:
    """What the card and the colours are made of, numbers as base64: routes are the bits of each image's decisions."""
    thumbnails_SxhxwxC = run.thumbnails_SxhxwxC[:P]
    return {
        'routes': _base64(np.packbits(run.record.decisions_Nxn[:P].astype(bool), axis=1)),
        'labels': _base64(run.record.labels_N[:P].astype('<u2')),
        'predictions': _base64(run.record.predictions_N[:P].astype('<u2')),
        'part': run.part,
        'numBlocks': run.num_blocks,
        'blockMacs': list(run.costs.blocks_n),
        'fixedMacs': run.costs.fixed_macs,
        'staticMacs': run.costs.static_macs,
        'classes': list(run.class_names),
        'numPictures': len(thumbnails_SxhxwxC),
        'sheetColumns': SHEET_COLUMNS,
        'sheetRows': SHEET_ROWS,
        'sheets': _sheets(thumbnails_SxhxwxC),
    }


def _sheets(thumbnails_SxhxwxC: np.ndarray) -> list[str]:
    """The thumbnails row by row on sheets, as data URIs."""
    of_a_sheet = SHEET_COLUMNS * SHEET_ROWS
    is_lossless = thumbnails_SxhxwxC.nbytes <= LOSSLESS_BYTES
    starts = range(0, len(thumbnails_SxhxwxC), of_a_sheet)
    return [_encoded(_sheet(thumbnails_SxhxwxC[start : start + of_a_sheet]), is_lossless) for start in starts]


def _sheet(thumbnails_SxhxwxC: np.ndarray) -> np.ndarray:
    S, h, w, C = thumbnails_SxhxwxC.shape
    rows = -(-S // SHEET_COLUMNS)
    cells = np.zeros((rows * SHEET_COLUMNS, h, w, C), np.uint8)
    cells[:S] = thumbnails_SxhxwxC
    return cells.reshape(rows, SHEET_COLUMNS, h, w, C).swapaxes(1, 2).reshape(rows * h, SHEET_COLUMNS * w, C)


def _encoded(sheet: np.ndarray, is_lossless: bool) -> str:
    image, file = Image.fromarray(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet), io.BytesIO()
    if is_lossless:
        image.save(file, 'PNG', optimize=True)
        return data_uri('image/png', file.getvalue())
    image.save(file, 'WEBP', quality=85)
    return data_uri('image/webp', file.getvalue())


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode()
