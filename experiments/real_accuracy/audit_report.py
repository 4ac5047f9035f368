"""An audit as a page of markdown and a figure."""

import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codinet_jax.analysis import style
from codinet_jax.runtime import files
from codinet_jax.runtime.console import plural

WHO = {'full': 'the full network', 'cheap': 'the cheap one', 'rung': "the full one's blocks of that cost"}


def write(path: pathlib.Path, found: Mapping[str, Any]) -> None:
    """PATH.json, .md and .png."""
    files.write(path.with_suffix('.json'), lambda file: file.write((json.dumps(found, indent=1) + '\n').encode()))
    text = f'{markdown(found)}\n![The same, drawn]({path.name}.png)\n'
    files.write(path.with_suffix('.md'), lambda file: file.write(text.encode()))
    files.write(path.with_suffix('.png'), lambda file: file.write(picture(found)))


def markdown(found: Mapping[str, Any]) -> str:
    """All tables, each under a heading."""
    settings, versions = found['settings'], found['versions']
    lines = [
        f'# {found["full"]} before any gate is trained, beside {found["cheap"]}',
        '',
        f'Nothing was trained. Seed {found["seed"]}; {found["device"]}, {plural(found["num_devices"], "device")}; '
        f'commit {found["commit"]}; jax {versions["jax"]}. The first {settings["test_images"]:,} test images where '
        'nothing else is said. The given weights were trained on all training images.',
    ]
    sections = {
        'cascades': _cascades,
        'without_blocks': _blocks,
        'wrong_views': _views,
        'foretold': _foretold,
        'drawn_gates': _drawn,
    }
    for name, section in sections.items():
        lines += ['', *section(found)] if name in found else []
    return '\n'.join(lines) + '\n'


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f'| {" | ".join(row)} |' for row in (header, ['---', *['---:'] * (len(header) - 1)], *rows)]


def _cascades(found: Mapping[str, Any]) -> list[str]:
    alone = [
        (each['name'].removeprefix('given_'), '', f'{each["macs"] / 1e6:.2f}', f'{each["accuracy"]:.2f}', '', '')
        for each in found['cascades']['alone']
    ]
    pairs = [
        (
            row['small'].removeprefix('given_'),
            row['large'].removeprefix('given_'),
            f'{row["mean_macs"] / 1e6:.2f}',
            f'{row["accuracy"]:.2f}',
            f'{row["mean_macs_threshold_of_train"] / 1e6:.2f}',
            f'{row["accuracy_threshold_of_train"]:.2f}',
        )
        for row in sorted(found['cascades']['pairs'], key=lambda row: (row['target_macs'], row['small'], row['large']))
    ]
    header = ('network', 'then', 'MMACs', 'accuracy, %', 'MMACs, threshold of train', 'accuracy, %')
    return [
        '## Cascades of two given networks',
        '',
        'The threshold is read on one half of test and used on the other, both ways; at the right it is read on '
        f'{found["settings"]["calibration"]:,} training images, of which networks are surer.',
        '',
        *_table(header, [*alone, *pairs]),
    ]


def _blocks(found: Mapping[str, Any]) -> list[str]:
    blocks, settings = found['without_blocks'], found['settings']
    whole = blocks['whole']['accuracy']
    alone = {each['block']: each for each in blocks['alone']}
    rows = [
        (
            str(i),
            str(each['without']),
            f'{each["macs"] / 1e6:.2f}',
            f'{each["accuracy"]:.2f}',
            f'{each["divergence"]:.3f}',
            f'{alone[each["without"]]["accuracy"] - whole:+.2f}',
            f'{alone[each["without"]]["divergence"]:.3f}',
        )
        for i, each in enumerate(blocks['greedy'], start=1)
    ]
    header = (
        *('blocks out', 'the newest', 'MMACs', 'accuracy, %', 'divergence'),
        *('that one alone, points', 'divergence'),
    )
    return [
        '## Without blocks, norms estimated anew',
        '',
        'In greedy order, the block that is missed least first; blocks that change the shape stay. The divergence, in '
        f'nats, is from the whole network on {settings["order_images"]:,} training images with a square cut out. '
        f'Accuracy is of {blocks["num_images"]:,} test images, norms are of {settings["norm_images"]:,} training ones. '
        f'All blocks: {whole:.2f} %, {blocks["as_given"]["accuracy"]:.2f} % with norms as given. Nothing is healed.',
        '',
        *_table(header, rows),
    ]


def _views(found: Mapping[str, Any]) -> list[str]:
    views, rung = found['wrong_views'], found['rung']
    num_out = int(len(rung['blocks']) - sum(rung['blocks']))
    rows = [
        (
            where,
            *(f'{shares[who]:.2f}' for who in WHO),
            *(f'{shares[f"{who}_alone"]:.2f}' for who in ('cheap', 'rung')),
        )
        for where, shares in [
            *((f'train, {kind}', each) for kind, each in views['train'].items()),
            ('test', views['test']),
        ]
    ]
    header = ('views', *(f'{who} wrong, %' for who in WHO.values()), 'only the cheap one, %', 'only those blocks, %')
    return [
        '## Who is wrong on which views',
        '',
        f'Of {views["num_images"]:,} training images, one view each: plain; moved by up to 4 pixels and mirrored; with '
        'a square of 12 cut out as well; and strong, moved by up to 8 with a square of 16. Of the blocks of the cheap '
        f'cost the first {num_out} of the order are left out, {rung["macs"] / 1e6:.2f} MMACs, norms estimated anew.',
        '',
        *_table(header, rows),
    ]


def _foretold(found: Mapping[str, Any]) -> list[str]:
    told = found['foretold']
    columns = [told['labels'][who]['depths'] for who in ('cheap', 'rung')]
    rows = [
        (
            str(k),
            *(_area(each) for each in of_block),
            *(_area(each['crossed']) for each in of_block),
            f'{told["conditioning"][k]["median"]:.1f}',
        )
        for k, of_block in enumerate(zip(*columns, strict=True))
    ]
    sure, labels = told['confidence_of_cheap'], told['labels']
    header = (
        *('before block', 'of the cheap network', 'of those blocks'),
        *('of the cheap network, fitted on test', 'of those blocks, fitted on test', 'mean² / variance'),
    )
    return [
        '## What a router could know',
        '',
        'The area under the ROC curve, with its standard error, of a logistic fit on the standardised pooled input of '
        'each block for "the cheap one wrong and the full one right": fitted on '
        f'{told["num_views"]:,} strong training views ({labels["cheap"]["share_of_views"]:.2f} % so by the cheap '
        f'network, {labels["rung"]["share_of_views"]:.2f} % by those blocks), read on {told["num_images"]:,} of test '
        f"({labels['cheap']['share_of_test']:.2f} and {labels['rung']['share_of_test']:.2f} %). The cheap network's "
        f'own largest probability: {sure["auc"]:.3f} ± {sure["standard_error"]:.3f}. The last column is the mean² of a '
        'channel over its variance, in the median. "Fitted on test" is on every other test image, read on the rest, '
        'both ways: what could be read if training images were like new ones.',
        '',
        *_table(header, rows),
    ]


def _area(found: Mapping[str, float]) -> str:
    return f'{found["auc"]:.3f} ± {found["standard_error"]:.3f}'


def _drawn(found: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            f'{each["rate"]:g}',
            'all' if each['transitions_gated'] else 'that keep the shape',
            f'{each["share_whole"]:.1f}',
            f'{each["accuracy"]:.2f}',
        )
        for each in found['drawn_gates']
    ]
    header = ('run rate', 'blocks gated', 'images that run whole, %', 'accuracy, %')
    return ['## Gates drawn by chance, norms as given', '', *_table(header, rows)]


def picture(found: Mapping[str, Any]) -> bytes:
    """The figure as PNG, for a white page."""
    colours = style.theme(is_dark=False)
    with style.drawing():
        figure = Figure(figsize=(colours.sheet.wide, 6.4), layout='constrained')
        panels = {
            'cascades': _draw_cascades,
            'without_blocks': _draw_blocks,
            'wrong_views': _draw_views,
            'foretold': _draw_foretold,
        }
        axes = figure.subplots(2, 2).ravel()
        for axis, (name, draw) in zip(axes, panels.items(), strict=True):
            if name in found:
                draw(axis, found, colours)
            else:
                axis.set_axis_off()
        file = io.BytesIO()
        figure.savefig(file, format='png', dpi=130, bbox_inches='tight')
    return file.getvalue()


def _draw_cascades(axis: Axes, found: Mapping[str, Any], colours: style.Theme) -> None:
    alone = sorted(found['cascades']['alone'], key=lambda each: each['macs'])
    xs, ys = [each['macs'] / 1e6 for each in alone], [each['accuracy'] for each in alone]
    axis.plot(xs, ys, 'D--', color=colours.muted, label='networks alone, and images sent at random')
    pairs = sorted({(row['small'], row['large']) for row in found['cascades']['pairs']})
    looks = zip(pairs, colours.runs * 2, style.MARKERS * 2, strict=False)
    for i, ((small, large), colour, marker) in enumerate(looks):
        rows = [row for row in found['cascades']['pairs'] if (row['small'], row['large']) == (small, large)]
        points = sorted((row['mean_macs'] / 1e6, row['accuracy']) for row in rows)
        label = f'{small.removeprefix("given_")}, then {large.removeprefix("given_")}'
        axis.plot(*zip(*points, strict=True), f'{marker}-', color=colour, markersize=7 - i, label=label)
    axis.set(xlabel='MMACs of the mean image', ylabel='accuracy, %', title='Cascades of two given networks')
    axis.legend(fontsize=colours.sheet.small - 1)


def _draw_blocks(axis: Axes, found: Mapping[str, Any], colours: style.Theme) -> None:
    blocks = found['without_blocks']
    greedy = [blocks['whole'], *blocks['greedy']]
    axis.plot(
        [each['macs'] / 1e6 for each in greedy], [each['accuracy'] for each in greedy], 'o-', color=colours.runs[0]
    )
    for each in blocks['greedy']:
        axis.annotate(
            str(each['without']),
            (each['macs'] / 1e6, each['accuracy']),
            xytext=(-4, 4),
            textcoords='offset points',
            ha='right',
            fontsize=colours.sheet.small,
            color=colours.muted,
        )
    axis.set(xlabel='MMACs', ylabel='accuracy, %', title='Blocks left out one after another (numbers), not healed')


def _draw_views(axis: Axes, found: Mapping[str, Any], colours: style.Theme) -> None:
    views = found['wrong_views']
    shares = [*views['train'].values(), views['test']]
    for i, (who, label) in enumerate(WHO.items()):
        places = [place + (i - 1) * 0.27 for place in range(len(shares))]
        axis.bar(places, [each[who] for each in shares], 0.25, color=colours.runs[i], label=label)
    axis.set_xticks(range(len(shares)), [*views['train'], 'test'])
    axis.set(ylabel='wrong, %', title='Wrong answers on training views and on test images')
    axis.legend(fontsize=colours.sheet.small - 1)


def _draw_foretold(axis: Axes, found: Mapping[str, Any], colours: style.Theme) -> None:
    told = found['foretold']
    for who, label, colour in (
        ('cheap', 'the cheap network wrong', colours.runs[0]),
        ('rung', 'those blocks wrong', colours.runs[1]),
    ):
        depths = told['labels'][who]['depths']
        axis.errorbar(
            [each['block'] for each in depths],
            [each['auc'] for each in depths],
            [each['standard_error'] for each in depths],
            fmt='o-',
            markersize=4,
            color=colour,
            label=label,
        )
    sure = told['confidence_of_cheap']['auc']
    axis.axhline(sure, color=colours.muted, linestyle='--', label="the cheap network's own confidence")
    axis.axhline(0.5, color=colours.muted, linestyle=':', linewidth=1, label='chance')
    axis.set(
        xlabel='before block',
        ylabel='area under the ROC curve',
        title='Telling which images need the full network',
    )
    axis.legend(fontsize=colours.sheet.small - 1)
