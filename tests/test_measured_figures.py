"""What was measured: figures of timings and of tables beside the paper's numbers, and where numbers are kept."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import helpers
from codinet_jax.analysis import style
from experiments.measure import plot_timing, report
from experiments.reproduce import pictures

RESULTS = helpers.REPOSITORY / 'experiments' / 'results'


@pytest.mark.parametrize('name', ['timing_r110', 'timing_r110_h100'])
def test_timings_are_drawn_whole_and_under_no_text(name: str) -> None:
    rows = json.loads((RESULTS / f'{name}.json').read_text())['rows']
    with style.drawing():
        figure = plot_timing.drawn(rows)
        figure.draw_without_rendering()
    batch_sizes = sorted({row['batch_size'] for row in rows})
    assert len(figure.axes) == len(batch_sizes)
    for axis, batch_size in zip(figure.axes, batch_sizes, strict=True):
        of_size = [row for row in rows if row['batch_size'] == batch_size]
        lines = {tuple(map(tuple, line.get_xydata())) for line in axis.lines}
        for strategy in {row['strategy'] for row in of_size} - {'static'}:
            measured = sorted(
                (row['run_rate'], row['ratio_to_static']) for row in of_size if row['strategy'] == strategy
            )
            assert tuple(measured) in lines
        assert not axis.texts
        assert axis.get_ylim()[1] > max(row['ratio_to_static'] for row in rows)
        (static,) = (row for row in of_size if row['strategy'] == 'static')
        said = float(axis.get_title().removesuffix(' ms').split()[-1])
        assert said == pytest.approx(1e3 * static['median_seconds'], rel=0.01)
    assert figure.legends[0].get_texts()[0].get_text() == 'static'


def row(theirs: dict[str, float], **ours: list[float]) -> dict[str, Any]:
    seeds = [{'numbers': dict(zip(ours, values, strict=True))} for values in zip(*ours.values(), strict=True)]
    return {'label': 'a', 'paper': theirs, 'seeds': seeds}


def column(name: str, *rows: dict[str, Any]) -> Any:
    axis = Figure().subplots()
    pictures._column(axis, name, rows, style.theme(False))
    return axis


def test_the_scale_is_ours_and_what_lies_beyond_is_a_number_at_its_edge() -> None:
    axis = column('K', row({'K': 54}, K=[3.0, 9.0]), row({'K': 0.5}, K=[4.0, 5.0]), row({'K': 6.0}, K=[5.0, 5.5]))
    left, right = axis.get_xlim()
    assert 0.5 < left < 3 and 9 < right < 54
    assert [(text.get_text(), text.xy) for text in axis.texts] == [('54 →', (1.0, 0)), ('← 0.5', (0.0, 1))]
    (inside,) = (line for line in axis.lines if line.get_marker() == 'D')
    np.testing.assert_array_equal(inside.get_xydata(), [(6.0, 2)])


def test_counts_of_very_different_size_have_a_logarithmic_scale_and_shares_have_none() -> None:
    assert column('paths', row({}, paths=[1, 2]), row({}, paths=[510, 512])).get_xscale() == 'log'
    assert column('paths', row({}, paths=[4, 20])).get_xscale() == 'linear'
    assert column('same_route', row({}, same_route=[0.6, 100.0])).get_xscale() == 'linear'
    assert np.all(np.isfinite(column('K', row({'K': 5.0})).get_xlim())), 'a table of which nothing is trained'


@pytest.mark.parametrize('name', ['fuzz', 'input_rate', 'kill_campaign', 'serving', 'soak'])
def test_numbers_that_could_not_be_kept_are_not_measured(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / 'earlier').mkdir()
    (tmp_path / 'earlier' / 'mine').write_text('of an earlier run')
    flags = {
        'input_rate': ['--data_dir=none', '--output=missing/numbers.json'],
        'serving': ['--results=missing/numbers.json'],
    }.get(name, ['--results=missing/numbers.json', f'--output={tmp_path / "earlier"}'])
    ended = subprocess.run(
        [sys.executable, '-m', f'experiments.measure.{name}', *flags],
        cwd=helpers.REPOSITORY,
        env=helpers.environment(),
        text=True,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 2 and 'a file in a directory that is there' in ended.stderr, ended.stderr
    assert (tmp_path / 'earlier' / 'mine').exists()


def test_numbers_are_kept_where_a_person_says(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', str(tmp_path))
    report.show({'one': 1}, '~/numbers.json')
    assert json.loads((tmp_path / 'numbers.json').read_text()) == {'one': 1}
