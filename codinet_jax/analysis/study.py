"""The analyses of the paper over one run, or over several side by side: numbers, figures and a page, as files."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from codinet_jax.analysis import figures, paper, tables
from codinet_jax.analysis.embedding import lay_out
from codinet_jax.analysis.remarks import remarks
from codinet_jax.analysis.report import Page, Shown, page_html
from codinet_jax.analysis.route_map import route_map_html
from codinet_jax.analysis.run import Run
from codinet_jax.evaluation import controls
from codinet_jax.runtime.files import json_bytes

Log = Callable[[str], None]


class Study(NamedTuple):
    """The files by name, and the first table of numbers for whoever waits at a terminal."""

    files: dict[str, bytes]
    remarks: list[str]
    numbers: tables.Table


def study(runs: Sequence[Run], log: Log, against: Sequence[Run] = ()) -> Study:
    """Analyses runs, whose names differ; one alone also gets its route map and the drawings that have no overlay.

    Each is held, image by image, against the others and those of `against`, of which nothing else is shown.
    """
    found = {run.name: run.numbers() for run in runs}
    pairs = _pairs(runs, against)
    for name in found:
        found[name]['less'] = {other: pair for (own, other), pair in pairs.items() if own == name}
    of_all = [*tables.tables(found), *([tables.paired(pairs)] if pairs else [])]
    remarked = [f'{run.name}: {remark}' if len(runs) > 1 else remark for run in runs for remark in remarks(run)]
    positions = lay_out(runs, log)
    if any(points is None and not run.is_static for run, points in zip(runs, positions, strict=True)):
        remarked.append(
            'Fewer than four images, three different relaxed routes or two gates cannot be drawn on a plane: '
            'there is no map.'
        )
    log('drawing')
    light, dark = (figures.draw(runs, positions, is_dark=is_dark) for is_dark in (False, True))
    files = {'numbers.json': json_bytes(found if len(runs) > 1 else found[runs[0].name])}
    files['numbers.md'] = tables.markdown(of_all).encode()
    for stem, picture in light.items():
        files |= {f'{stem}.{kind}': figures.rendered(picture, kind) for kind in ('png', 'pdf')}
    log('writing the report')
    shown = [
        Shown(
            picture.title,
            picture.caption,
            picture.alt,
            picture.is_wide,
            files[f'{stem}.png'],
            figures.rendered(dark[stem], 'png'),
        )
        for stem, picture in light.items()
    ]
    page = Page(
        title=_title(runs),
        subtitle=_subtitle(runs),
        remarks=remarked,
        headlines=_headlines(runs[0], found[runs[0].name]) if len(runs) == 1 else (),
        shown=shown,
        tables=of_all,
        footer=[_provenance(run) for run in runs],
    )
    route_map = route_map_html(runs[0], positions[0]) if len(runs) == 1 and positions[0] is not None else ''
    files['report.html'] = page_html(page, route_map).encode()
    return Study(files, remarked, of_all[0])


def _pairs(runs: Sequence[Run], against: Sequence[Run]) -> dict[tuple[str, str], dict[str, Any]]:
    """Of all that were evaluated on the same images."""
    found = {
        (run.name, other.name): controls.pair(run.record, other.record, run.costs)
        for run in runs
        for other in (*runs, *against)
        if run is not other
    }
    return {names: pair for names, pair in found.items() if pair}


def _title(runs: Sequence[Run]) -> str:
    return f'Routes of {runs[0].name}' if len(runs) == 1 else 'Routes of ' + ', '.join(run.name for run in runs)


def _subtitle(runs: Sequence[Run]) -> str:
    run = runs[0]
    at = f' at operating point {run.operating_point}' if run.operating_point else ''
    return f'{run.dataset}, {run.num_images:,} images of {run.split}{at}'


def _headlines(run: Run, found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    same_route = found['augmentations']['mean']['same_route']
    reported = ', '.join(f'{method} {share:.1%}' for method, share in paper.SAME_ROUTE.items())
    return [
        ('top-1', f'{found["top1"]:.2%}', f'of {run.num_images:,} images'),
        ('blocks run', f'{found["mean_path_length"]:.2f}', f'of {run.num_blocks}, on average (K)'),
        (
            'cost',
            f'{found["macs_share"]:.1%}',
            f'of the static network: {found["mean_macs"] / 1e6:.2f} of {found["static_macs"] / 1e6:.2f} MMACs',
        ),
        (
            'routes',
            f'{found["num_paths"]:,}',
            f'{found["coverage"]["90%"]:,} of them hold 90% of the images; {found["route_entropy"]:.2f} bits',
        ),
        (
            'same route when augmented',
            f'{same_route:.1%}',
            f'the paper, ResNet-110: {reported}' if run.dataset == 'cifar10' else 'mean over four augmentations',
        ),
        (
            'route distance',
            f'{found["distance_within_classes"] or 0:.2f} / {found["distance_between_classes"] or 0:.2f}',
            'blocks, within and between classes',
        ),
    ]


def _provenance(run: Run) -> str:
    results, model = run.results, run.setup.record['model']
    if run.cascade:
        return f'{run.name}: a cascade of {run.backbone}, each trained before, in that order.'
    versions = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
    return (
        f'{run.name}: {model["backbone"]} {model["depth"]}, router {model["router"]}, seed {results["seed"]}, trained '
        f'for {results["num_steps"]:,} steps on {results["num_devices"]} x {results["device"]}; {versions}.'
    )
