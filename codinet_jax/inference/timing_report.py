"""What is said of timed strategies: a table, what it means, which strategy to take, and all numbers as JSON."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from codinet_jax.inference.program import FUSED
from codinet_jax.inference.timing import Contest, Row

COLUMNS = (
    "of static: the time, as a share of the static network's in the same batch; of MACs: what that would be if time "
    'went by the MACs alone.'
)


def readable(rows: Sequence[Row]) -> str:
    """The rows as a table, and a sentence on every one whose skipping loses."""
    lines = ['  batch  strategy     run rate   median ms    images/s  of static   of MACs   kept']
    for row in rows:
        kept = '' if row.kept is None else f'{row.kept:6.0%}'
        lines.append(
            f'  {row.batch_size:5}  {row.strategy:11}  {row.run_rate:8.2f}  {1e3 * row.median_seconds:10.2f}  '
            f'{row.images_per_second:10.1f}  {row.ratio_to_static:9.3f}  {row.ideal_ratio:8.3f}  {kept:>5}'.rstrip()
        )
    lines += [
        f'Skipping loses at batch {row.batch_size}, run rate {row.run_rate:.2f}: {row.strategy} takes '
        f'{row.ratio_to_static:.2f} times as long as static.'
        for row in rows
        if _skips(row) and row.ratio_to_static > 1
    ]
    return '\n'.join(lines)


def explained(rows: Sequence[Row]) -> str:
    """What `kept` means where it is negative; nothing where no row has such a one."""
    lost = [row for row in rows if row.kept is not None and row.kept < 0]
    if not lost:
        return ''
    why = [
        text
        for text, is_so in (
            ('masked computes every block and the routers besides', any(row.strategy == 'masked' for row in lost)),
            ('choosing and gathering cost more here than the blocks that are skipped', any(map(_skips, lost))),
        )
        if is_so
    ]
    return (
        'kept is the share of the time promised by the MACs that was saved; where it is negative a strategy takes '
        f'longer than static: {", and ".join(why)}.'
    )


def recommendation(rows: Sequence[Row]) -> str:
    """One sentence: the strategy to use at each batch size, or that the static network is as fast as any."""
    parts = [_recommended([row for row in rows if row.batch_size == size]) for size in _sizes(rows)]
    return f'Recommended here: {"; ".join(parts)}.'


def _recommended(rows: Sequence[Row]) -> str:
    """The strategy that takes the least of static's time, in the mean over run rates."""
    ratios: dict[str, list[float]] = {}
    for row in rows:
        if row.strategy != 'static':
            ratios.setdefault(row.strategy, []).append(row.ratio_to_static)
    size, mean = rows[0].batch_size, {strategy: statistics.mean(each) for strategy, each in ratios.items()}
    best = min(mean, key=mean.__getitem__)
    if mean[best] >= 1:
        return f"at batch {size} no strategy saves time (the fastest, {best}, takes {mean[best]:.2f} of static's)"
    over = f', in the mean over {len(ratios[best])} run rates' if len(ratios[best]) > 1 else ''
    return f"--strategy={best} at batch {size} ({mean[best]:.2f} of static's time{over})"


def _sizes(rows: Sequence[Row]) -> list[int]:
    return list(dict.fromkeys(row.batch_size for row in rows))


def _skips(row: Row) -> bool:
    return row.strategy in ('conditional', 'compacted', FUSED)


def as_json(network: Mapping[str, Any], contests: Sequence[Contest]) -> dict[str, Any]:
    """All numbers of some contests: rows, and what they rest on; `network` is the network's settings."""
    return {
        'network': dict(network),
        'rows': [row._asdict() for contest in contests for row in contest.rows],
        'programs': [
            {
                'strategy': strategy,
                'batch_size': contest.rows[0].batch_size,
                'num_devices': contestant.mesh.size,
                'compile_seconds': contestant.compile_seconds,
                'peak_bytes': contestant.peak_bytes,
            }
            for contest in contests
            for strategy, contestant in contest.programs.items()
        ],
        'static_seconds': {contest.rows[0].batch_size: contest.arrangements for contest in contests},
    }
