"""What a report says, for a person."""

from collections.abc import Mapping
from typing import Any


def readable(found: Mapping[str, Any]) -> str:
    """The lines of what `report.compiled` found."""
    seconds, memory = found['seconds'], found['memory']
    lines = [
        f'compiled in {seconds["compile"]:.1f} s, after {seconds["lower"]:.1f} s of tracing',
        f'memory a chip: {_memory(memory)}',
    ]
    if memory['message']:
        return '\n'.join([*lines, f'  {memory["message"]}'])
    if memory['parts']:
        lines.append(
            '  '
            + ', '.join(f'{part.replace("_", " ")} {_size(size)}' for part, size in memory['parts'].items() if size)
        )
    lines += [f'{kind}: {_collective(totals)}' for kind, totals in found['collectives'].items()] or ['no collectives']
    lines += [f'loop {_loop(loop)}, {_turns(loop["turns"])}' for loop in found['loops']]
    if found['conditionals']:
        lines.append(f'conditionals: {_times(found["conditionals"])}')
    if found['pallas_kernels']:
        lines.append(f'Pallas kernels: launched {_times(found["pallas_kernels"])}')
    if found['launches']:
        fixed, loops = found['launches']['fixed'], found['launches']['open_loops']
        places = {loop['name']: loop for loop in found['loops']}
        lines.append(f'the host launches {_counts(fixed)}')
        lines += [
            f'  and in each turn of {_loop(places[loop["name"]])}: {_counts(loop["each_turn"])}' for loop in loops
        ]
    return '\n'.join(lines)


def _memory(memory: Mapping[str, Any]) -> str:
    needed = 'too much' if memory['total_bytes'] is None else _size(memory['total_bytes'])
    if memory['usable_bytes'] is None:
        return needed
    return f'{needed} of {_size(memory["usable_bytes"])}, {"fits" if memory["fits"] else "does NOT fit"}'


def _collective(totals: Mapping[str, Any]) -> str:
    by_type = ', '.join(f'{_size(num_bytes)} of {dtype}' for dtype, num_bytes in totals['bytes'].items())
    return f'{_times(totals["runs"])}, {by_type}, at most {_size(totals["largest_bytes"])} at a time'


def _loop(loop: Mapping[str, Any]) -> str:
    return f'{loop["place"] or loop["name"]}, entered {_times(loop["entered"])}'


def _turns(turns: int | None) -> str:
    return 'turns as often as data decide' if turns is None else f'turns {_times(turns)}'


def _counts(counts: Mapping[str, int]) -> str:
    graphs = f' ({counts["in_graphs"]} of them in {counts["graphs"]} CUDA graphs)' if counts['graphs'] else ''
    reads = f'waits {_times(counts["host_reads"])} to read' if counts['host_reads'] else 'never waits to read'
    return f'{counts["kernels"]} kernels{graphs} by {counts["launches"]} launches, and {reads} what the device decided'


def _times(count: int) -> str:
    return 'once' if count == 1 else f'{count} times'


def _size(num_bytes: float) -> str:
    for unit, size in (('GiB', 2**30), ('MiB', 2**20), ('KiB', 2**10)):
        if num_bytes >= size:
            return f'{num_bytes / size:.2f} {unit}'
    return f'{num_bytes:.0f} B'
