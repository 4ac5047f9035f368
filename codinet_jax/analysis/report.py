"""The report page: one HTML file with all that it shows inside it, which needs no network and no server."""

import base64
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from codinet_jax.analysis.tables import Table, as_csv


class Shown(NamedTuple):
    """A static figure, as PNGs for light and for dark surroundings; a wide one takes the whole width of the page.

    `stem` is what it is called as a file.
    """

    stem: str
    title: str
    caption: str
    alt: str
    is_wide: bool
    light_png: bytes
    dark_png: bytes


class Page(NamedTuple):
    """All that a page says, as plain text; a headline is a label, a value and a note under it, a finding a sentence."""

    title: str
    subtitle: str
    remarks: Sequence[str]
    headlines: Sequence[tuple[str, str, str]]
    findings: Sequence[str]
    shown: Sequence[Shown]
    tables: Sequence[Table]
    footer: Sequence[str]


def page_html(page: Page, route_map: str = '') -> str:
    """The whole page, with what `route_map_html` made if there is a map."""
    return render('page.html', page=page, route_map=Markup(route_map))


def render(template: str, **values: Any) -> str:
    """A template of this package with these values in it, escaped unless they are Markup."""
    return _ENVIRONMENT.get_template(template).render(values)


def data_uri(media_type: str, content: bytes) -> str:
    return f'data:{media_type};base64,{base64.b64encode(content).decode()}'


def _packaged(name: str) -> str:
    return (resources.files('codinet_jax.analysis') / name).read_text(encoding='utf-8')


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_packaged),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(packaged=lambda name: Markup(_packaged(name)))
    # A chart names its parts before it refers to them, so their order is to be kept.
    environment.policies['json.dumps_kwargs'] = {}
    environment.filters.update(
        png=lambda content: data_uri('image/png', content),
        csv=lambda table: data_uri('text/csv', as_csv(table.header, table.rows)),
    )
    return environment


_ENVIRONMENT = _environment()
