"""The analyses of the paper over one run, or over several side by side: numbers, figures and a page, as files."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from codinet_jax.analysis import comparison, figures, paper, pool, style, tables
from codinet_jax.analysis.embedding import lay_out
from codinet_jax.analysis.findings import findings
from codinet_jax.analysis.options import ON_THE_PAGE, Options
from codinet_jax.analysis.remarks import remarks
from codinet_jax.analysis.report import Page, Shown, page_html
from codinet_jax.analysis.route_map import route_map_html
from codinet_jax.analysis.run import Run, point_in_words
from codinet_jax.evaluation import controls
from codinet_jax.runtime.console import plural
from codinet_jax.runtime.files import json_bytes

Log = Callable[[str], None]
DEFAULTS = Options()


class Study(NamedTuple):
    """The files by name, and the first table of numbers for whoever waits at a terminal."""

    files: dict[str, bytes]
    remarks: list[str]
    numbers: tables.Table


def study(runs: Sequence[Run], log: Log, options: Options = DEFAULTS, against: Sequence[Run] = ()) -> Study:
    """Analyses runs; those of one name are seeds of one thing and pooled.

    A name alone, with one run, also gets its route map and the drawings that have no overlay. Each that is not pooled
    is held, image by image, against the others and those of `against`, of which nothing else is shown.

    Raises:
      InputError: runs of one name differ in more than their seed.
    """
    groups = pool.by_name(runs)
    shown, firsts = [pool.pooled(seeds) for seeds in groups.values()], [seeds[0] for seeds in groups.values()]
    found = {name: [run.numbers() for run in seeds] for name, seeds in groups.items()}
    pairs = _pairs([run for run in shown if not run.is_pooled], against)
    for name, of_seeds in found.items():
        of_seeds[0]['less'] = {other: pair for (own, other), pair in pairs.items() if own == name}
    positions = lay_out(firsts, log) if options.has_map else [None] * len(firsts)
    of_all = [*tables.tables(found), *([tables.paired(pairs)] if pairs else [])]
    remarked = _remarks(groups) + _of_other_images(firsts) + _lacking(firsts, positions, options)
    log('drawing')
    seeds = list(runs) if len(runs) > len(shown) else []
    draw = functools.partial(figures.draw, shown, positions, seeds=seeds)
    light, dark = draw(), draw(is_dark=True)
    wanted = light if options.width == 'page' else draw(width=options.width)
    on_page = {stem: figures.rendered(picture, 'png', ON_THE_PAGE) for stem, picture in light.items()}
    files = {'numbers.json': json_bytes(_numbers(found)), 'numbers.md': tables.markdown(of_all).encode()}
    for stem, picture in wanted.items():
        for kind in options.formats:
            is_on_page = wanted is light and (kind, options.dots(kind)) == ('png', ON_THE_PAGE)
            image = on_page[stem] if is_on_page else figures.rendered(picture, kind, options.dots(kind))
            files[f'{stem}.{kind}'] = image
        files[f'{stem}.csv'] = tables.as_csv(*picture.data)
    log('writing the report')
    is_alone = len(runs) == 1
    page = Page(
        title=_title(shown),
        subtitle=_subtitle(firsts, sum(run.is_pooled for run in shown)),
        remarks=remarked,
        headlines=_headlines(runs[0], found[runs[0].name][0]) if is_alone else comparison.headlines(found),
        findings=findings(runs[0], found[runs[0].name][0]) if is_alone else _compared(found, pairs),
        shown=[_shown(stem, picture, on_page[stem], dark[stem]) for stem, picture in light.items()],
        tables=of_all,
        footer=[_provenance(run) for run in runs],
    )
    route_map = route_map_html(runs[0], positions[0]) if is_alone and positions[0] is not None else ''
    files['report.html'] = page_html(page, route_map).encode()
    return Study(files, remarked, of_all[0])


def _compared(found: Mapping[str, Sequence[Any]], pairs: Mapping[tuple[str, str], Any]) -> list[str]:
    """Nothing of seeds of one thing alone."""
    return comparison.compared(found, pairs) if len(found) > 1 else []


def _pairs(runs: Sequence[Run], against: Sequence[Run]) -> dict[tuple[str, str], dict[str, Any]]:
    """Of all that were evaluated on the same images."""
    found = {
        (run.name, other.name): controls.pair(run.record, other.record, run.costs)
        for run in runs
        for other in (*runs, *against)
        if run is not other
    }
    return {names: pair for names, pair in found.items() if pair}


def _numbers(found: Mapping[str, Sequence[Any]]) -> Any:
    """What numbers.json holds: of one run its numbers, of several those by name, of seeds a list of them."""
    by_name = {name: of_seeds[0] if len(of_seeds) == 1 else list(of_seeds) for name, of_seeds in found.items()}
    return by_name if len(by_name) > 1 else next(iter(by_name.values()))


def _lacking(runs: Sequence[Run], positions: Sequence[np.ndarray | None], options: Options) -> list[str]:
    """That a map which was wanted is not there."""
    is_missing = any(points is None and not run.is_static for run, points in zip(runs, positions, strict=True))
    few = (
        'Fewer than four images, three different relaxed routes or two gates cannot be drawn on a plane: '
        'there is no map.'
    )
    return [few] if options.has_map and is_missing else []


def _remarks(groups: Mapping[str, Sequence[Run]]) -> list[str]:
    """What is remarked of each run, and of which if there are several."""
    remarked = []
    for name, seeds in groups.items():
        for run in seeds:
            of_which = [name] * (len(groups) > 1 or len(seeds) > 1)
            of_which += [f'seed {run.results["seed"]}'] * (len(seeds) > 1)
            remarked += [': '.join((*filter(None, [', '.join(of_which)]), remark)) for remark in remarks(run)]
    return remarked


def _of_other_images(runs: Sequence[Run]) -> list[str]:
    """That runs stand beside each other which were evaluated on different images, as their labels say."""
    others = [run.name for run in runs if not np.array_equal(run.record.labels_N, runs[0].record.labels_N)]
    if not others:
        return []
    return [
        f'{style.listed(others)}: evaluated on other images than {runs[0].name}, so accuracies may differ for that '
        'alone, and are not compared image by image.'
    ]


def _shown(stem: str, light: figures.Picture, png: bytes, dark: figures.Picture) -> Shown:
    dark_png = figures.rendered(dark, 'png', ON_THE_PAGE)
    return Shown(stem, light.title, light.caption, light.alt, light.is_wide, png, dark_png)


def _title(runs: Sequence[Run]) -> str:
    return f'Routes of {runs[0].name}' if len(runs) == 1 else 'Routes of ' + ', '.join(run.name for run in runs)


def _subtitle(runs: Sequence[Run], num_pooled: int) -> str:
    run = runs[0]
    at = f' at {point_in_words(run.operating_point)}' if run.operating_point else ''
    over = '; figures hold the images of all seeds' if num_pooled else ''
    return f'{run.dataset}, {plural(run.num_images, "image")} of {run.split}{at}{over}'


def _headlines(run: Run, found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    same_route = found['augmentations']['mean']['same_route']
    reported = ', '.join(f'{method} {share:.1%}' for method, share in paper.SAME_ROUTE.items())
    return [
        ('top-1', f'{found["top1"]:.2%}', f'of {plural(run.num_images, "image")}'),
        (f'{run.part}s run', f'{found["mean_path_length"]:.2f}', f'of {run.num_blocks}, on average (K)'),
        (
            'cost',
            f'{found["macs_share"]:.1%}',
            f'of the static network: {found["mean_macs"] / 1e6:.2f} of {found["static_macs"] / 1e6:.2f} MMACs',
        ),
        (
            'routes',
            f'{found["num_paths"]:,}',
            f'{_holding(found["coverage"]["90%"])} 90% of the images; {found["route_entropy"]:.2f} bits',
        ),
        (
            'same route when augmented',
            f'{same_route:.1%}',
            f'the paper, ResNet-110: {reported}'
            if run.dataset == 'cifar10'
            else f'mean of {style.listed(found["averaged_augmentations"])}',
        ),
        (
            'route distance',
            f'{found["distance_within_classes"] or 0:.2f} / {found["distance_between_classes"] or 0:.2f}',
            f'{run.part}s, within and between classes',
        ),
    ]


def _holding(routes: int) -> str:
    return '1 of them holds' if routes == 1 else f'{routes:,} of them hold'


def _provenance(run: Run) -> str:
    results, model = run.results, run.setup.record['model']
    if run.cascade:
        return f'{run.name}: a cascade of {run.backbone}, each trained before, in that order.'
    versions = ', '.join(f'{name} {version}' for name, version in results['versions'].items())
    return (
        f'{run.name}: {model["backbone"]} {model["depth"]}, router {model["router"]}, seed {results["seed"]}, trained '
        f'for {plural(results["num_steps"], "step")} on {results["num_devices"]} x {results["device"]}; {versions}.'
    )
