"""Labels are shown as they were typed, and no matplotlibrc of a user's changes a figure."""

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure

import helpers
from codinet_jax.analysis import figures, style, tables
from codinet_jax.analysis.report import Page, page_html
from codinet_jax.analysis.tables import Table
from test_analysis_figures import make_run

ODD = ('$x_1$', '_hidden', 'a<b>&"c', 'cost$', '100 % \\alpha', '{}')
CJK = '深度网络'


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@functools.cache
def of_odd_names() -> dict[str, figures.Picture]:
    runs = [make_run(name=name) for name in ODD]
    return figures.draw(runs, [None] * len(runs))


@pytest.mark.parametrize('stem', ['path_lengths', 'accuracy_cost', 'training'])
def test_a_legend_shows_what_was_typed(stem: str) -> None:
    figure = of_odd_names()[stem].figure
    assert set(ODD) <= set(texts(figure))
    found = [text for legend in figure.legends for text in legend.get_texts()]
    assert not any(text.get_parse_math() or text.get_usetex() for text in found)


def test_a_dollar_takes_the_room_of_a_dollar() -> None:
    """As mathematics, $x_1$ would be drawn as one letter with an index."""

    def width(label: str) -> float:
        with style.drawing():
            figure = Figure()
            text = figure.text(0.1, 0.5, label)
            figure.draw_without_rendering()
            return text.get_window_extent().width

    assert width('$x_1$') > width('x_1') + 1.5 * width('1')


@pytest.mark.long
def test_hundreds_of_runs_and_long_names_are_drawn() -> None:
    runs = [make_run(N=4, n=3, name=f'{i} {"long " * 50}') for i in range(120)]
    figure = figures.draw(runs, [None] * len(runs))['path_lengths'].figure
    assert len(texts(figure)) == 120 and max(map(len, texts(figure))) <= style.LONGEST_LABEL


def test_letters_that_no_font_has_are_told_of_in_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(style, '_fonts', lambda: ['DejaVu Sans'])
    style._tell_of_fonts.cache_clear()
    for _ in range(2):
        picture = figures.draw([make_run(name=CJK), make_run(name='b')], [None, None])['path_lengths']
        figures.rendered(picture, 'png', 100)
    told = capsys.readouterr().out
    assert told.count('no font here has all letters of the labels: install one') == 1 and 'Glyph' not in told


def test_a_font_that_was_installed_since_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """matplotlib lists fonts once; here DejaVu Sans Mono plays the font with all letters."""
    installed = Path(font_manager.findfont('DejaVu Sans Mono'))
    shutil.copy(installed, tmp_path / 'wide.ttf')
    known = [font for font in font_manager.fontManager.ttflist if font.name != 'DejaVu Sans Mono']
    monkeypatch.setattr(font_manager.fontManager, 'ttflist', known)
    monkeypatch.setattr(style, 'WIDE_FONTS', ('DejaVu Sans Mono', 'Another'))
    monkeypatch.setattr(font_manager, 'findSystemFonts', lambda: [str(tmp_path / 'wide.ttf'), str(tmp_path / 'gone')])
    assert style._fonts.__wrapped__() == ['DejaVu Sans', 'DejaVu Sans Mono']


def test_other_warnings_come_through() -> None:
    with pytest.warns(UserWarning, match='of something else'), style.drawing():
        warnings.warn('of something else', stacklevel=1)


def test_tables_show_what_was_typed() -> None:
    table = Table('of a|b', ('', 'a|b', '$x_1$ <i>'), (('top-1', '1.00%', '#2'),))
    assert tables.markdown([table]) == (
        '## of a\\|b\n\n|  | a\\|b | \\$x\\_1\\$ \\<i\\> |\n| --- | ---: | ---: |\n| top-1 | 1.00% | #2 |\n'
    )
    page = page_html(Page('t', 's', [], [], [], [], [table], []))
    assert '$x_1$ &lt;i&gt;' in page and '<i>' not in page


HOSTILE = """
text.usetex: True
font.size: 40
font.family: serif
savefig.bbox: tight
savefig.dpi: 20
axes.grid: True
lines.linewidth: 9
figure.constrained_layout.use: True
axes.prop_cycle: cycler('color', ['red'])
"""


def digests() -> list[str]:
    """Every drawing of two runs by its stem and what its PNG is."""
    pictures = figures.draw([make_run(name='a'), make_run(name='b', seed=1)], [None, None])
    pngs = {stem: figures.rendered(picture, 'png', 100) for stem, picture in pictures.items()}
    return [f'{stem} {hashlib.sha256(png).hexdigest()}' for stem, png in pngs.items()]


DRAWS = """
import sys
sys.path.insert(0, 'tests')
from test_analysis_labels import digests
print(*digests(), sep='\\n')
"""


def test_a_users_matplotlibrc_changes_nothing(tmp_path: Path) -> None:
    """In an interpreter of its own, for it is read once."""
    (tmp_path / 'matplotlibrc').write_text(HOSTILE)
    variables = os.environ | {'MATPLOTLIBRC': str(tmp_path)}
    command = [sys.executable, '-c', DRAWS]
    ran = subprocess.run(command, cwd=helpers.REPOSITORY, env=variables, text=True, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == (expected := digests()) and len(expected) >= 5
