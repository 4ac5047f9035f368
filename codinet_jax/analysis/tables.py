"""The numbers of one or more runs as tables, for a terminal, a markdown file, the report and a spreadsheet."""

import csv
import functools
import io
import operator
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from codinet_jax.analysis.style import either

Statistics = Mapping[str, Any]
LEAST_SHOWN = 1e-3  # nats; what is less is called so
WHOSE = {'all': "any image's", 'within_class': "those of one's class"}


class Table(NamedTuple):
    """Cells are ready to be read; the first column names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class Measure(NamedTuple):
    """A number of a run, how it is written, what follows it, and what stands where there is none."""

    value: Callable[[Statistics], float | None]
    written: Callable[[float], str]
    follows: Callable[[Sequence[Statistics]], str] = lambda of_seeds: ''
    absent: str = 'no pair'


def tables(found: Mapping[str, Sequence[Statistics]]) -> list[Table]:
    """What is known of runs, by their names: one table with a column a name, then those of each by itself.

    Of a name with several runs, seeds of one thing, means and standard deviations are given, and what is said of single
    routes is left out: one seed's are not another's.
    """
    parts = either(f'{of_seeds[0]["part"]}s' for of_seeds in found.values())
    measures = _measures(next(iter(found.values()))[0], parts)
    rows = tuple(
        (label, *(_cell(measure, of_seeds) for of_seeds in found.values())) for label, measure in measures.items()
    )
    heads = [name if len(of_seeds) == 1 else f'{name} ({len(of_seeds)} seeds)' for name, of_seeds in found.items()]
    of_each = [
        table._replace(title=table.title if len(found) == 1 else f'{name}: {table.title}')
        for name, of_seeds in found.items()
        for table in (
            _augmentations(of_seeds),
            *((_lengths(of_seeds[0]), _routes(of_seeds[0])) if len(of_seeds) == 1 else ()),
        )
    ]
    return [Table('Numbers', ('', *heads), rows), *of_each]


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


def as_csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    """A table as CSV; floats have six significant digits."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(header)
    writer.writerows([f'{cell:.6g}' if isinstance(cell, float) else cell for cell in row] for row in rows)
    return file.getvalue().encode()


def _escaped(text: str) -> str:
    """Text that markdown shows as it is."""
    return re.sub(r'([\\`*_|<>$])', r'\\\1', ' '.join(text.split()))


def _cell(measure: Measure, of_seeds: Sequence[Statistics]) -> str:
    """A number, or the mean of several and their standard deviation."""
    values = [measure.value(found) for found in of_seeds]
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return measure.absent
    follows = measure.follows(of_seeds)
    if len(numbers) == 1 or (isinstance(numbers[0], int) and len(set(numbers)) == 1):
        return measure.written(numbers[0]) + follows
    spread = measure.written(statistics.stdev(numbers)).removeprefix('+')
    return f'{measure.written(statistics.mean(numbers))} ± {spread}{follows}'


def _measures(found: Statistics, parts: str) -> dict[str, Measure]:
    """The numbers of runs by their labels; `found` is any of them, `parts` what their routes are of."""
    averaged = ', '.join(found['averaged_augmentations'])
    return {
        'images': Measure(_at('num_test_images'), _whole),
        'top-1': Measure(_at('top1'), '{:.2%}'.format),
        f'K, {parts} run': Measure(_at('mean_path_length'), _hundredths, lambda of: f' of {of[0]["num_blocks"]}'),
        f'{parts} expected to run, mean of Σv': Measure(_at('expected_path_length'), _hundredths),
        'MMACs an image': Measure(lambda n: n['mean_macs'] / 1e6, _hundredths),
        'cost, of the static network': Measure(_at('macs_share'), '{:.1%}'.format),
        '#paths, distinct routes': Measure(_at('num_paths'), _whole),
        'entropy of the routes, bits': Measure(_at('route_entropy'), _hundredths),
        **{
            f'routes that hold {share} of the images': Measure(_at('coverage', share), _whole)
            for share in found['coverage']
        },
        'images off the most common route': Measure(_at('share_off_most_common'), '{:.1%}'.format),
        f'route distance within classes, {parts}': Measure(_at('distance_within_classes'), _hundredths),
        f'route distance between classes, {parts}': Measure(_at('distance_between_classes'), _hundredths),
        "correlation of an image's cost with an error on it": Measure(
            _at('cost_error_correlation'), '{:+.2f}'.format, absent='none'
        ),
        **{f'own routes less {whose}, points': _worth(kind) for kind, whose in WHOSE.items()},
        f'same route when augmented ({averaged})': Measure(_at('augmentations', 'mean', 'same_route'), '{:.1%}'.format),
        f"route distance to one's augmentation, {parts}": Measure(
            _at('augmentations', 'mean', 'distance'), _hundredths
        ),
        "KL divergence to one's augmentation, nats": Measure(_at('augmentations', 'mean', 'divergence_mean'), _nats),
    }


def paired(pairs: Mapping[tuple[str, str], Statistics]) -> Table:
    """Each network less another, by their names, as `controls.pair` has it."""
    header = ('network less another', 'points', 'only it right', 'only the other', 'p', "its costs, the other's errors")
    rows = tuple(
        (
            f'{name} less {other}',
            f'{100 * found["difference"]:+.2f}{_plus_or_minus(found)}',
            f'{found["only_own"]:,}',
            f'{found["only_other"]:,}',
            f'{found["p_value"]:.2g}',
            'none' if found['cost_error_correlation'] is None else f'{found["cost_error_correlation"]:+.2f}',
        )
        for (name, other), found in pairs.items()
    )
    return Table('Image by image', header, rows)


def _worth(kind: str) -> Measure:
    """What routes are worth over others, and of one run its standard error."""

    def points(found: Statistics) -> float | None:
        return 100 * found['worth_of_routes'][kind]['difference'] if found['worth_of_routes'] else None

    def follows(of_seeds: Sequence[Statistics]) -> str:
        return _plus_or_minus(of_seeds[0]['worth_of_routes'][kind]) if len(of_seeds) == 1 else ''

    return Measure(points, '{:+.2f}'.format, follows, absent='not measured')


def _plus_or_minus(found: Statistics) -> str:
    return f' ± {100 * found["standard_error"]:.2f}'


def _at(*path: str) -> Callable[[Statistics], float]:
    """What the numbers of a run hold there."""
    return lambda found: functools.reduce(operator.getitem, path, found)  # type: ignore[return-value]


def _whole(number: float) -> str:
    """A count; a mean of counts, or their deviation, with a tenth."""
    return f'{number:,}' if isinstance(number, int) else f'{number:,.1f}'


def _hundredths(number: float) -> str:
    return f'{number:.2f}'


def _nats(divergence: float) -> str:
    """With three decimals, and no power of ten for what is next to nothing."""
    return f'<{LEAST_SHOWN}' if 0 < divergence < LEAST_SHOWN else f'{divergence:.3f}'


STEADINESS = {
    'same route': ('same_route', '{:.1%}'.format),
    'distance, {}s': ('distance', _hundredths),  # of what the routes are of
    'same class': ('same_prediction', '{:.1%}'.format),
    'KL, mean': ('divergence_mean', _nats),
    'KL, median': ('divergence_median', _nats),
}


def _augmentations(of_seeds: Sequence[Statistics]) -> Table:
    measured, averaged = of_seeds[0]['augmentations'], of_seeds[0]['averaged_augmentations']
    rows = tuple(
        (
            f'mean of {", ".join(averaged)}' if name == 'mean' else name,
            *(
                _cell(Measure(_at('augmentations', name, key), written), of_seeds)
                for key, written in STEADINESS.values()
            ),
        )
        for name in measured
    )
    header = (name.format(of_seeds[0]['part']) for name in STEADINESS)
    return Table('Under augmentation', ('augmentation', *header), rows)


def _lengths(found: Statistics) -> Table:
    rows = tuple(
        (str(each['blocks']), f'{each["images"]:,}', f'{each["top1"]:.2%}') for each in found['by_path_length']
    )
    return Table('By route length', (f'{found["part"]}s run', 'images', 'top-1'), rows)


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
    return Table('Routes by use', ('route', f'{found["part"]}s', 'images', 'share', 'top-1'), rows)
