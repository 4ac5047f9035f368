"""What a compiled program does, read off XLA's text of it: collectives, loops, conditionals, kernels of our own.

Counts are of one run of the program: what stands in a loop counts as often as the loop turns.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

COLLECTIVES = (
    'all-reduce',
    'all-gather',
    'reduce-scatter',
    'all-to-all',
    'ragged-all-to-all',
    'collective-permute',
    'collective-broadcast',
)
COMPUTATION = re.compile(r'(?:ENTRY )?%?([\w.-]+) \(.*\{$')
INSTRUCTION = re.compile(r'\s+(?:ROOT )?%?([\w.-]+) = (.*)')
OPCODE = re.compile(r'\s*([\w-]+)\(')
SHAPE = re.compile(r'(\w+)\[([\d,]*)\]')
CALLED = re.compile(r'(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)')
BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
CHANNEL = re.compile(r'channel_id=(\d+)')
OP_NAME = re.compile(r'op_name="([^"]*)"')
PLUMBING = ('body', 'eval_jaxpr', 'closed_call', 'shard_map')  # in names, but not of our code
PALLAS = 'custom_call_target="tpu_custom_call"'
TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
CONSTANT = re.compile(r'%?([\w.-]+) = [su]\d+\[\]\S* constant\((\d+)\)')
BOUND = re.compile(r'ROOT \S+ = pred\[\]\S* compare\((?:\S+ )?%?[\w.-]+, (?:\S+ )?%?([\w.-]+)\), direction=LT')


class Loop(NamedTuple):
    """A `while`: how often it turns each time, None where that hangs on data, and how often it is entered.

    `place` is where in our code it comes from, as far as XLA kept that; `within` is the loop around it, if any.
    """

    name: str
    place: str
    turns: int | None
    entered: int
    within: str | None


class Collective(NamedTuple):
    """A collective: its result's bytes on a device by element type, and how often it runs."""

    kind: str
    bytes: dict[str, int]
    runs: int


class Structure(NamedTuple):
    """What a program holds. What is inside a loop whose turns are unknown counts as if that turned once."""

    collectives: list[Collective]
    loops: list[Loop]
    conditionals: int
    pallas_kernels: int


class _Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    rest: str


def structure(text: str) -> Structure:
    """Reads `compiled.as_text()`."""
    computations, entry = _computations(text)
    collectives: list[Collective] = []
    loops: list[Loop] = []
    conditionals, pallas_kernels = 0, 0

    carried: set[tuple[Any, ...]] = set()

    def visit(computation: str, runs: int, within: str | None, in_fusion: bool = False) -> None:
        nonlocal conditionals, pallas_kernels
        for name, result, opcode, rest in map(_instruction, computations.get(computation, ())):
            kind = opcode.removesuffix('-start')
            called = dict(CALLED.findall(rest))
            if kind in COLLECTIVES:
                # XLA:TPU repeats a collective in every fusion that carries it along while it is under way.
                part = (kind, *SHAPE.findall(result), *CHANNEL.findall(rest))
                if in_fusion and part in carried:
                    continue
                carried.update([part] if in_fusion else [])
                collectives.append(Collective(kind, _result_bytes(result, opcode), runs))
            elif opcode == 'while':
                turns = _turns(rest, computations.get(called['condition'], []))
                loops.append(Loop(name, _place(rest), turns, runs, within))
                visit(called['body'], runs * (1 if turns is None else turns), name)
            elif opcode == 'conditional':
                conditionals += runs
                branches = [branch for names in BRANCHES.findall(rest) for branch in re.findall(r'[\w.-]+', names)]
                for branch in branches or [called['true_computation'], called['false_computation']]:
                    visit(branch, runs, within)
            elif opcode == 'custom-call':
                pallas_kernels += runs * (PALLAS in rest)
            elif opcode in ('call', 'fusion', 'async-start') and (
                inner := called.get('calls') or called.get('to_apply')
            ):
                visit(inner, runs, within, in_fusion or opcode == 'fusion')

    visit(entry, 1, None)
    return Structure(collectives, loops, conditionals, pallas_kernels)


def shape_bytes(text: str) -> dict[str, int]:
    """Bytes, by element type, of all arrays whose shapes stand in a text, as f32[64,10]{1,0} or a tuple of such."""
    found: dict[str, int] = {}
    for dtype, dims in SHAPE.findall(text):
        num_bits = _bits(dtype) * math.prod(int(size) for size in dims.split(',') if size)
        found[dtype] = found.get(dtype, 0) + math.ceil(num_bits / 8)
    return found


def _bits(dtype: str) -> int:
    width = re.search(r'\d+', dtype)
    return int(width.group()) if width else 8  # a pred takes a byte


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of every computation by its name, of those instructions that matter; and the entry's name."""
    calls, collectives = 'while|conditional|call|custom-call|fusion|async-start', '|'.join(COLLECTIVES)
    interesting = re.compile(rf' (?:{calls}|(?:{collectives})(?:-start)?)\(|constant\(|ROOT ')
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    entry = ''
    for line in text.splitlines():
        if line[:1] in ('%', 'E') and (head := COMPUTATION.match(line)):
            lines = found[head.group(1)] = []
            entry = head.group(1) if line.startswith('ENTRY') else entry
        elif interesting.search(line):
            lines.append(line)
    return found, entry


def _instruction(line: str) -> _Instruction:
    found = INSTRUCTION.match(line)
    if found is None:
        return _Instruction('', '', '', '')
    name, rest = found.groups()
    # A tuple's type holds spaces, and layouts hold parentheses: it ends where its own parenthesis closes.
    end = _closing(rest) if rest.startswith('(') else rest.find(' ')
    opcode = OPCODE.match(rest, end)
    return _Instruction(name, rest[:end], opcode.group(1) if opcode else '', rest[end:])


def _closing(text: str) -> int:
    depth = 0
    for i, character in enumerate(text):
        depth += (character == '(') - (character == ')')
        if depth == 0:
            return i + 1
    return len(text)


def _result_bytes(result: str, opcode: str) -> dict[str, int]:
    """A started all-gather or permute has its operands beside its results."""
    if opcode in ('all-gather-start', 'collective-permute-start'):
        return shape_bytes(list(_elements(result))[1])
    return shape_bytes(result)


def _elements(tuple_type: str) -> Iterator[str]:
    depth, begun = 0, 1
    for i, character in enumerate(tuple_type):
        depth += (character in '([{') - (character in ')]}')
        if (character == ',' and depth == 1) or depth == 0:
            yield tuple_type[begun:i]
            begun = i + 1


def _place(rest: str) -> str:
    """Module names and control flow of an instruction; what JAX's transformations add to them is left out."""
    found = OP_NAME.search(rest)
    parts = found.group(1).split('/') if found else []
    return '/'.join(part for part in parts if part not in PLUMBING and not part.startswith('jit('))


def _turns(rest: str, condition: list[str]) -> int | None:
    """What XLA knows, or the constant bound of a condition i < bound: such loops, scans among them, count from 0."""
    if known := TRIP_COUNT.search(rest):
        return int(known.group(1))
    constants = {found[1]: int(found[2]) for line in condition if (found := CONSTANT.search(line))}
    bounds = [bound.group(1) for line in condition if (bound := BOUND.search(line))]
    return constants.get(bounds[0]) if bounds else None
