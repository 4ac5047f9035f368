"""The paper's tables and figures: which networks stand in them, and which numbers, ours and the paper's."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from codinet_jax.analysis import paper
from experiments.reproduce.runs import GAMMAS, MARGINS, PEERS, margin, weight


class Column(NamedTuple):
    """A number of a run: its heading, how it is had from `Run.numbers`, and how many decimals it has."""

    heading: str
    value: Callable[[Any], float]
    decimals: int


class Row(NamedTuple):
    """A network of a table, by its name in `runs.RUNS`, and what the paper reports of it, by column."""

    label: str
    run: str
    paper: Mapping[str, float] = {}


class Table(NamedTuple):
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


class Figure(NamedTuple):
    """Pictures of `codinet_jax.analysis.figures`, by their stems, of one network or of several beside each other.

    `others` are results of other methods, which the plane of accuracy and cost shows too.
    """

    title: str
    rows: tuple[Row, ...]
    pictures: tuple[str, ...]
    others: tuple[paper.Reported, ...] = ()


COLUMNS = {
    'paths': Column('#Path', lambda n: n['num_paths'], 0),
    'accuracy': Column('Acc. (%)', lambda n: 100 * n['top1'], 2),
    'K': Column('K', lambda n: n['mean_path_length'], 2),
    'gflops': Column('GFLOPs', lambda n: n['gflops'], 3),
    'cost': Column('cost (% of static)', lambda n: 100 * n['macs_share'], 1),
    'params': Column('params (M)', lambda n: n['num_params'] / 1e6, 2),
    'entropy': Column('entropy (bits)', lambda n: n['route_entropy'], 2),
    'mmacs': Column('MMACs', lambda n: n['mean_macs'] / 1e6, 2),
    'off_common': Column('off main route (%)', lambda n: 100 * n['share_off_most_common'], 1),
    'views': Column('views (thousands)', lambda n: n['views'] / 1e3, 0),
    'same_route': Column('same route (%)', lambda n: 100 * n['augmentations']['mean']['same_route'], 1),
    'router_cost': Column('router cost (% of a block)', lambda n: 100 * n['router_share'], 2),
    'reduction': Column('cost reduction (%)', lambda n: 100 * (1 - n['macs_share']), 1),
}

R110 = 'cifar10_r110'

STATIC = Row('static', f'{R110}_static', {'accuracy': 93.6, 'gflops': 0.50, 'K': 54, 'params': 1.71})
VANILLA = Row(
    'vanilla', f'{R110}_vanilla', {'paths': 113, 'accuracy': 93.16, 'same_route': 100 * paper.SAME_ROUTE['vanilla']}
)
CONSISTENCY = Row('consistency only', f'{R110}_consistency', {'paths': 20, 'accuracy': 92.88})
CODINET = Row(
    'CoDiNet',
    f'{R110}_codinet',
    {'paths': 276, 'accuracy': 94.47, 'K': 25, 'gflops': 0.29, 'same_route': 100 * paper.SAME_ROUTE['CoDiNet']},
)
RANDOM = Row("random skipping at CoDiNet's cost", f'{R110}_random')
EQUAL_MACS = Row("static, of CoDiNet's MACs", f'{R110}_equal_macs')


def _resnets(dataset: str, depth: int, *theirs: tuple[float, float, float]) -> tuple[Row, ...]:
    """Three rows of Table 6, with the paper's accuracy, parameters in millions, and K."""
    labels = {'static': 'ResNet', 'vanilla': 'vanilla', 'codinet': 'CoDiNet'}
    return tuple(
        Row(
            f'{label}-{depth} on {dataset.upper()}',
            f'{dataset}_r{depth}_{variant}',
            dict(zip(('accuracy', 'params', 'K'), numbers, strict=True)),
        )
        for (variant, label), numbers in zip(labels.items(), theirs, strict=True)
    )


def _sizes(name: str, dataset: str) -> tuple[Row, ...]:
    """Three rows of Tables 3 and 4."""
    reported = {each.method: {'accuracy': each.top1, 'gflops': each.gflops} for each in paper.REPORTED[dataset]}
    labels = {'static': 'ResNet', 'vanilla': 'vanilla', 'codinet': 'CoDiNet'}
    return tuple(
        Row(label, f'{name}_{variant}', reported['static' if variant == 'static' else label])
        for variant, label in labels.items()
    )


def _margins() -> tuple[Row, ...]:
    theirs = ((196, 21, 93.12), (276, 25, 94.47), (396, 22, 92.75), (800, 26, 92.46))
    return tuple(
        Row(f'm_d = {m_d:.2f}', margin(m_d), dict(zip(('paths', 'K', 'accuracy'), numbers, strict=True)))
        for m_d, numbers in zip(MARGINS, theirs, strict=True)
    )


def _weights() -> tuple[Row, ...]:
    reported = [each for each in paper.REPORTED['cifar10'] if each.source == 'Table 5']
    return tuple(
        Row(f'γ = {gamma:g}', weight(gamma), {'gflops': each.gflops, 'K': K, 'accuracy': each.top1})
        for gamma, each, K in zip(GAMMAS, reported, (25, 22, 19, 17, 10), strict=True)
    )


def _relaxations() -> tuple[Row, ...]:
    return (
        Row('softmax', f'{R110}_softmax', {'accuracy': 93.1, 'gflops': 0.27}),
        Row('sampling', f'{R110}_sampling', {'accuracy': 87.8, 'gflops': 0.26}),
        Row('Gumbel-Softmax', f'{R110}_vanilla', {'accuracy': 93.66, 'gflops': 0.26}),
    )


def _routers() -> tuple[Row, ...]:
    theirs = {74: ((12.5, 27), (0.04, 48), (0.8, 54)), 110: ((12.5, 41), (0.04, 56), (0.8, 50))}
    names = {'CNN': 'conv', 'RNN': 'recurrent', "the paper's": 'codinet'}
    return tuple(
        Row(
            f'ResNet-{depth}, {label}',
            f'cifar10_r{depth}_{name}',
            dict(zip(('router_cost', 'reduction'), numbers, strict=True)),
        )
        for depth, of_depth in theirs.items()
        for (label, name), numbers in zip(names.items(), of_depth, strict=True)
    )


DEFINITIONS: dict[str, Table | Figure] = {
    'table2': Table(
        'Table 2: consistency and diversity on CIFAR-10',
        ('paths', 'accuracy', 'K', 'cost', 'same_route'),
        (STATIC, VANILLA, CONSISTENCY, CODINET, RANDOM, EQUAL_MACS),
    ),
    'digits': Table(
        'Digits: what routing adds where it is cheap to try',
        ('accuracy', 'paths', 'K', 'cost', 'same_route'),
        tuple(
            Row(label, f'digits_r14_{variant}')
            for label, variant in (
                ('static', 'static'),
                ('vanilla', 'vanilla'),
                ('CoDiNet', 'codinet'),
                ('random skipping', 'random'),
            )
        ),
    ),
    'peers': Table(
        'Methods on one footing: one backbone, one schedule, one cost',
        ('accuracy', 'cost', 'paths', 'entropy', 'same_route', 'views'),
        (
            Row('static', STATIC.run),
            *(Row(label, f'peers_{variant}') for variant, label in PEERS.items()),
            Row('BlockDrop, after static and at its own cost', 'peers_blockdrop'),
        ),
    ),
    'pretrained': Table(
        'Trained networks at one cost: ResNet-56 made to cost what ResNet-32 does, and what it has to beat',
        ('accuracy', 'mmacs', 'paths', 'off_common', 'same_route', 'views'),
        (
            Row('ResNet-20, as given', 'pretrained_r20'),
            Row('ResNet-56, as given', 'pretrained_r56'),
            Row('static of equal cost, as given', 'pretrained_r32'),
            Row('static of equal cost, same recipe', 'pretrained_r32_static'),
            Row('pruned and healed', 'pretrained_r56_pruned'),
            Row('gates that see no image', 'pretrained_r56_independent_gates'),
            Row('random skipping', 'pretrained_r56_random'),
            Row('vanilla', 'pretrained_r56_vanilla'),
            Row('a rate for each block (ConvNet-AIG)', 'pretrained_r56_convnet_aig'),
            Row("CoDiNet, the paper's weights and margins", 'pretrained_r56_codinet'),
            Row('CoDiNet, by the weights and margins of its config', 'pretrained_r56_configured'),
            Row('cascade of the given ResNet-20 and 56', 'pretrained_cascade'),
        ),
    ),
    'pretrained_peers': Table(
        'Methods from the same trained ResNet-32, at the cost of ResNet-20',
        ('accuracy', 'mmacs', 'paths', 'off_common', 'entropy', 'same_route', 'views'),
        (
            Row('ResNet-32, as given', 'pretrained_r32'),
            Row('static of equal cost, as given', 'pretrained_r20'),
            Row('CoDiNet', 'pretrained_r32_codinet'),
            Row('ConvNet-AIG', 'pretrained_r32_convnet_aig'),
            Row('SkipNet, RNN gate', 'pretrained_r32_skipnet'),
            Row('LAUDNet, layers', 'pretrained_r32_laudnet'),
            Row('BlockDrop, at its own cost', 'pretrained_r32_blockdrop'),
        ),
    ),
    'few_blocks': Table(
        'Diversity for networks of few blocks: more weight, and a margin of a whole block',
        ('paths', 'accuracy', 'K', 'cost', 'same_route'),
        (VANILLA, CODINET, Row('CoDiNet, β = 1, m_d = 1', f'{R110}_few_blocks')),
    ),
    'table3': Table('Table 3: ImageNet', ('accuracy', 'gflops'), _sizes('imagenet_r50', 'imagenet2012')),
    'table4': Table('Table 4: SVHN', ('accuracy', 'gflops'), _sizes('svhn_r110', 'svhn')),
    'table5': Table('Table 5: efficiency and accuracy on CIFAR-10', ('gflops', 'K', 'accuracy'), _weights()),
    'table6': Table(
        'Table 6: CIFAR-10 and CIFAR-100',
        ('accuracy', 'params', 'K'),
        (
            *_resnets('cifar10', 32, (92.4, 0.46, 15), (91.55, 0.49, 10), (92.48, 0.49, 10)),
            *_resnets('cifar10', 74, (93.3, 1.13, 36), (93.17, 1.21, 19), (93.61, 1.21, 20)),
            *_resnets('cifar10', 110, (93.6, 1.71, 54), (93.66, 1.83, 27), (94.47, 1.83, 27)),
            *_resnets('cifar100', 32, (68.7, 0.46, 15), (66.4, 0.49, 10), (69.2, 0.49, 12)),
            *_resnets('cifar100', 74, (70.5, 1.13, 36), (69.7, 1.21, 22), (70.9, 1.21, 22)),
            *_resnets('cifar100', 110, (71.2, 1.71, 54), (70.3, 1.83, 23), (72.9, 1.83, 24)),
        ),
    ),
    'table8': Table('Table 8: the margin of diversity', ('paths', 'K', 'accuracy'), _margins()),
    'table9': Table('Table 9: relaxations', ('accuracy', 'gflops'), _relaxations()),
    'table10': Table('Table 10: routers', ('router_cost', 'reduction', 'accuracy'), _routers()),
    'figure6': Figure('Fig. 6: routes under different losses', (VANILLA, CONSISTENCY, CODINET), ('map_by_class',)),
    'figure7': Figure(
        'Fig. 7: accuracy at what cost', (*_weights(), RANDOM, EQUAL_MACS), ('accuracy_cost',), paper.COMPARED
    ),
    'figure8': Figure(
        'Fig. 8: accuracy at what cost, and smaller networks', (*_weights(), STATIC), ('accuracy_cost',), paper.PRUNED
    ),
    'figure9': Figure('Fig. 9: routes under different margins', _margins()[:3], ('map_by_class',)),
    'figure10': Figure('Fig. 10: steadiness of predictions', (VANILLA, CONSISTENCY), ('divergence',)),
    'figure11': Figure('Fig. 11: routes by the blocks they run', (CODINET,), ('map_by_blocks', 'extremes')),
}
