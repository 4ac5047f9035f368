"""What the host launches on a GPU for one run of a program, read off XLA's dump of the program's thunks.

A thunk is what the host does at a time: a kernel, a copy, a convolution of cuDNN's, a CUDA graph, a loop. Each is
counted as one launch, although a library may launch several kernels. A loop of known turns is unrolled by the host;
for any other, and for a conditional, the host waits for the device and reads what it decided, unless a graph holds it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

THUNK = re.compile(r'( *)(\d+): k(\w+)')
# An empty branch has no line of its own: 'No thunks.' stands before the next one's head.
HEAD = re.compile(r'( *)(condition|body|\w+_branch|branch_\d+):\s*$')
METADATA = re.compile(r'profile_annotation: "([^"]*)"\s+thunk_id: (\d+)')
NOT_LAUNCHED = ('Sequential', 'AsyncStart', 'AsyncDone', 'DynamicSliceFusion', 'WaitForStreams')


class Thunk(NamedTuple):
    """A thunk, and what it holds by part: 'condition' and 'body' of a loop, branches of a conditional, '' otherwise."""

    kind: str
    number: int
    parts: dict[str, list['Thunk']]


class Counts(NamedTuple):
    """Kernels, copies and library calls, those in CUDA graphs among them; graphs; and waits for a value on the host."""

    kernels: int = 0
    in_graphs: int = 0
    graphs: int = 0
    host_reads: int = 0

    def plus(self, other: 'Counts', times: int = 1) -> 'Counts':
        return Counts(*(mine + times * its for mine, its in zip(self, other, strict=True)))

    @property
    def launches(self) -> int:
        """What the host sends off: a graph is one launch."""
        return self.kernels - self.in_graphs + self.graphs


class OpenLoop(NamedTuple):
    """A loop whose turns hang on data: how often it is entered, and what each turn adds.

    `within` is the open loop around it, if any: it is then entered so often in each turn of that.
    """

    name: str
    entered: int
    each_turn: Counts
    within: str | None


class Launches(NamedTuple):
    """Of one run of a program: what is always launched, and loops whose turns come on top."""

    fixed: Counts
    open_loops: list[OpenLoop]


def names(metadata: str) -> dict[int, str]:
    """XLA's names of the instructions behind thunks, by number, from the dump of the thunks' metadata."""
    return {int(number): name for name, number in METADATA.findall(metadata)}


def parse(text: str) -> list[Thunk]:
    """The dump of a sequence of thunks as a tree; indentation tells what holds what."""
    top: list[Thunk] = []
    holders: list[tuple[int, Thunk, str]] = [(-1, Thunk('', 0, {'': top}), '')]
    for line in text.splitlines():
        if head := HEAD.search(line):
            indent, part = len(head.group(1)), head.group(2)
            # The head of a condition is not indented: it follows its loop at once.
            while part != 'condition' and holders[-1][0] >= indent:
                holders.pop()
            depth, holder, _ = holders.pop()
            holders.append((depth, holder, part))
        elif found := THUNK.match(line):
            indent, thunk = len(found.group(1)), Thunk(found.group(3), int(found.group(2)), {})
            while holders[-1][0] >= indent:
                holders.pop()
            _, holder, part = holders[-1]
            holder.parts.setdefault(part, []).append(thunk)
            holders.append((indent, thunk, ''))
    return top


def launches(thunks: Sequence[Thunk], turns: Mapping[int, int | None], names: Mapping[int, str]) -> Launches:
    """Counts what one run of a sequence of thunks launches; of a conditional, the branch that launches most.

    Args:
      thunks: as `parse` gives them.
      turns: of a loop by its thunk's number, None or missing where they hang on data.
      names: of loops, by the same.
    """
    open_loops: list[OpenLoop] = []

    def count(thunks: Sequence[Thunk], entered: int, in_graph: bool, within: str | None) -> Counts:
        total = Counts()
        for thunk in thunks:
            total = total.plus(one(thunk, entered, in_graph, within))
        return total

    def one(thunk: Thunk, entered: int, in_graph: bool, within: str | None) -> Counts:
        kind, parts = thunk.kind, thunk.parts
        if kind == 'CommandBuffer':
            inside = count(parts.get('', ()), entered, True, within)
            return inside if in_graph else inside.plus(Counts(graphs=1))
        if kind == 'While':
            known = turns.get(thunk.number)
            if known is not None:
                return Counts().plus(count(parts.get('body', ()), entered * known, in_graph, within), known)
            name = names.get(thunk.number, f'loop {thunk.number}')
            asked = count(parts.get('condition', ()), entered, in_graph, within).plus(Counts(host_reads=not in_graph))
            place = len(open_loops)
            each_turn = asked.plus(count(parts.get('body', ()), 1, in_graph, name))
            open_loops.insert(place, OpenLoop(name, entered, each_turn, within))
            return asked  # once more than it turns
        if kind == 'Conditional':
            branches = [count(branch, entered, in_graph, within) for branch in parts.values()]
            longest = max(branches, key=lambda branch: branch.launches, default=Counts())
            return longest.plus(Counts(host_reads=not in_graph))
        inside = count(parts.get('', ()), entered, in_graph, within)
        return inside if kind in NOT_LAUNCHED else inside.plus(Counts(kernels=1, in_graphs=in_graph))

    return Launches(count(thunks, 1, False, None), open_loops)
