"""Draws the evaluations of one or more runs: accuracy, cost and routes by step, and how often each block runs.

python -m experiments.plot_curves --output=curves.png routed=runs/cifar10_r20 static=runs/cifar10_r20_static
"""

from collections.abc import Sequence

from absl import app, flags
from matplotlib.figure import Figure

from codinet_jax.workdir import Workdir

OUTPUT = flags.DEFINE_string('output', 'curves.png', 'The image to write.')
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7')  # Okabe and Ito's, distinct to colour-blind eyes


def main(argv: Sequence[str]) -> None:
    if not argv[1:] or any('=' not in argument for argument in argv[1:]) or len(argv) > 1 + len(COLOURS):
        raise app.UsageError(f'Name one to {len(COLOURS)} runs as LABEL=WORKDIR.')
    runs = dict(argument.split('=', 1) for argument in argv[1:])
    figure = Figure(figsize=(13, 3), layout='constrained')
    axes = figure.subplots(1, 4)
    for colour, (label, workdir) in zip(COLOURS, runs.items(), strict=False):
        rows = [row for row in Workdir(workdir).read_metrics() if row['kind'] == 'evaluation']
        steps = [row['step'] for row in rows]
        axes[0].plot(steps, [100 * row['top1'] for row in rows], color=colour, label=label, marker='.')
        axes[1].plot(steps, [100 * row['macs_share'] for row in rows], color=colour, marker='.')
        axes[2].plot(steps, [row['num_paths'] for row in rows], color=colour, marker='.')
        rates = rows[-1]['run_rate_per_block']
        axes[3].step(range(len(rates) + 1), [*rates, rates[-1]], where='post', color=colour)
        stage_1_ends = max(row['step'] for row in rows if row['stage'] == 1)
    titles = ('top-1, %', 'cost, % of static MACs', 'routes in use', 'share of images that run a block')
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.spines[['top', 'right']].set_visible(False)
    for axis in axes[:3]:
        axis.set_xlabel('step')
        axis.axvspan(stage_1_ends, axis.get_xlim()[1], color='0.93', zorder=0)
    axes[3].set(xlabel='block', ylim=(0, 1.05))
    axes[0].legend(frameon=False)
    figure.savefig(OUTPUT.value, dpi=130)


if __name__ == '__main__':
    app.run(main)
