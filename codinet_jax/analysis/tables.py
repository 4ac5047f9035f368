"""The numbers of one or more runs as tables, for a terminal, a markdown file and the report."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Statistics = Mapping[str, Any]
WHOSE = {'all': "any image's", 'within_class': "those of one's class"}


class Table(NamedTuple):
    """Cells are ready to be read; the first column names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(found: Mapping[str, Statistics]) -> list[Table]:
    """What is known of runs, by their names: one table with a column a run, then those of each run by itself."""
    columns = [_numbers(statistics) for statistics in found.values()]
    rows = tuple((label, *(column[label] for column in columns)) for label in columns[0])
    of_each = [
        table._replace(title=table.title if len(found) == 1 else f'{name}: {table.title}')
        for name, statistics in found.items()
        for table in (_augmentations(statistics), _lengths(statistics), _routes(statistics))
    ]
    return [Table('Numbers', ('', *found), rows), *of_each]


def text(table: Table) -> str:
    """Aligned columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(table.header, *table.rows, strict=True)]
    return '\n'.join(
        '  '.join([row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))]).rstrip()
        for row in (table.header, *table.rows)
    )


def markdown(tables: Sequence[Table]) -> str:
    """Tables under headings."""
    return '\n\n'.join(f'## {_escaped(table.title)}\n\n{_markdown_rows(table)}' for table in tables) + '\n'


def _markdown_rows(table: Table) -> str:
    ruler = ('---', *('---:' for _ in table.header[1:]))
    rows = (tuple(map(_escaped, row)) for row in (table.header, *table.rows))
    return '\n'.join(f'| {" | ".join(row)} |' for row in (next(rows), ruler, *rows))


def _escaped(text: str) -> str:
    """Text that markdown shows as it is."""
    return re.sub(r'([\\`*_|<>$])', r'\\\1', ' '.join(text.split()))


def _numbers(found: Statistics) -> dict[str, str]:
    mean = found['augmentations']['mean']
    return {
        'images': f'{found["num_test_images"]:,}',
        'top-1': f'{found["top1"]:.2%}',
        'K, blocks run': f'{found["mean_path_length"]:.2f} of {found["num_blocks"]}',
        'blocks expected to run, mean of Σv': f'{found["expected_path_length"]:.2f}',
        'MMACs an image': f'{found["mean_macs"] / 1e6:.2f}',
        'cost, of the static network': f'{found["macs_share"]:.1%}',
        '#paths, distinct routes': f'{found["num_paths"]:,}',
        'entropy of the routes, bits': f'{found["route_entropy"]:.2f}',
        **{f'routes that hold {share} of the images': f'{routes:,}' for share, routes in found['coverage'].items()},
        'images off the most common route': f'{found["share_off_most_common"]:.1%}',
        'route distance within classes, blocks': _or_none(found['distance_within_classes']),
        'route distance between classes, blocks': _or_none(found['distance_between_classes']),
        "correlation of an image's cost with an error on it": _correlation(found['cost_error_correlation']),
        **{f'own routes less {whose}, points': _worth(found, kind) for kind, whose in WHOSE.items()},
        'augmentation takes the same route': f'{mean["same_route"]:.1%}',
        "route distance to one's augmentation, blocks": f'{mean["distance"]:.2f}',
        "KL divergence to one's augmentation, nats": f'{mean["divergence_mean"]:.3f}',
    }


def paired(pairs: Mapping[tuple[str, str], Statistics]) -> Table:
    """Each network less another, by their names, as `controls.pair` has it."""
    header = ('network less another', 'points', 'only it right', 'only the other', 'p', "its costs, the other's errors")
    rows = tuple(
        (
            f'{name} less {other}',
            _points(found),
            f'{found["only_own"]:,}',
            f'{found["only_other"]:,}',
            f'{found["p_value"]:.2g}',
            _correlation(found['cost_error_correlation']),
        )
        for (name, other), found in pairs.items()
    )
    return Table('Image by image', header, rows)


def _worth(found: Statistics, kind: str) -> str:
    return _points(found['worth_of_routes'][kind]) if found['worth_of_routes'] else 'not measured'


def _points(found: Statistics) -> str:
    return f'{100 * found["difference"]:+.2f} ± {100 * found["standard_error"]:.2f}'


def _correlation(value: float | None) -> str:
    return 'none' if value is None else f'{value:+.2f}'


def _augmentations(found: Statistics) -> Table:
    header = ('augmentation', 'same route', 'distance, blocks', 'same class', 'KL, mean', 'KL, median')
    rows = tuple(
        (
            name,
            f'{each["same_route"]:.1%}',
            f'{each["distance"]:.2f}',
            f'{each["same_prediction"]:.1%}',
            f'{each["divergence_mean"]:.3f}',
            f'{each["divergence_median"]:.1e}',
        )
        for name, each in found['augmentations'].items()
    )
    return Table('Under augmentation', header, rows)


def _lengths(found: Statistics) -> Table:
    rows = tuple(
        (str(each['blocks']), f'{each["images"]:,}', f'{each["top1"]:.2%}') for each in found['by_path_length']
    )
    return Table('By route length', ('blocks run', 'images', 'top-1'), rows)


def _routes(found: Statistics) -> Table:
    rows = tuple(
        (
            each['route'].replace('1', '■').replace('0', '□'),
            str(each['route'].count('1')),
            f'{each["images"]:,}',
            f'{each["images"] / found["num_test_images"]:.1%}',
            f'{each["top1"]:.2%}',
        )
        for each in found['most_used_routes']
    )
    return Table('Most used routes', ('route', 'blocks', 'images', 'share', 'top-1'), rows)


def _or_none(distance: float | None) -> str:
    return 'no pair' if distance is None else f'{distance:.2f}'
