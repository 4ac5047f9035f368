"""Puts faults into the code, one at a time, and sees whether the tests notice:

    python -m experiments.mutants.run --output=mutants
    python -m experiments.mutants.run --output=mutants --only=routing/ --results=experiments/results/mutants.json

The tree is copied to a directory of its own, where each mutant is applied, the tests that it names are run, and it is
taken back. A mutant is killed by the first test that fails; one that cannot be imported is broken, and proves nothing.
In the end all tests that killed one are run without a fault, for one that fails anyhow notices nothing. What came of
each is kept in OUTPUT as it comes: started again, the command goes on, and asks anew of those alone whose code or tests
have changed. Exit status 1 if one survives.
"""

import json
import pathlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from absl import flags

from codinet_jax.runtime import command, files, provenance
from codinet_jax.runtime.errors import InputError
from codinet_jax.runtime.files import OutputDirectory
from experiments.mutants.all import MUTANTS
from experiments.mutants.mutant import REPOSITORY, Mutant
from experiments.mutants.trials import Kept, Outcome, Trials, copied, digest_of, sha256

OUTPUT = flags.DEFINE_string('output', 'mutants', 'Where the tree is copied to, and what came of each is kept.')
ONLY = flags.DEFINE_string('only', '', 'Mutants alone whose file or fault holds this.')
SECONDS = flags.DEFINE_integer('seconds', 600, 'A mutant may take; one that takes longer is killed by the clock.')
RESULTS = flags.DEFINE_string('results', None, 'A JSON file to keep what came of it, with a table beside it in .md.')

OUTCOMES = ('killed', 'timed out', 'survived', 'broken')


def main(argv: Sequence[str]) -> int:
    del argv
    output = OutputDirectory(files.expanded(OUTPUT.value).absolute())
    chosen = [mutant for mutant in MUTANTS if ONLY.value in mutant.fault or ONLY.value in str(mutant.path)]
    if not chosen:
        raise InputError(f'No mutant is of {ONLY.value!r}: give --only a part of a file or of a fault.')
    for mutant in MUTANTS:
        mutant.applied((REPOSITORY / mutant.path).read_text())
    with Trials(copied(output.path / 'tree')) as trials:
        rows = outcomes_of(chosen, trials, Kept(output))
    counts = Counter(row['outcome'] for row in rows)
    print(', '.join(f'{counts[outcome]} {outcome}' for outcome in OUTCOMES))
    if RESULTS.value:
        keep_results(pathlib.Path(RESULTS.value), rows, counts)
    return 1 if counts['survived'] or counts['broken'] else 0


def outcomes_of(chosen: Sequence[Mutant], trials: Trials, kept: Kept) -> list[Outcome]:
    """What came of each mutant.

    Raises:
      InputError: a test that killed one fails without a fault.
    """
    rows, killers = [], dict[str, dict[str, str]]()
    for number, mutant in enumerate(chosen, start=1):
        digest = digest_of(mutant)
        found = kept.of(digest, partial(trials.tried, mutant, SECONDS.value))
        rows.append({'fault': mutant.fault, 'file': mutant.file} | found)
        line = f'{number}/{len(chosen)} {found["outcome"]:9} {found["seconds"]:6.1f} s  {mutant.file}: {mutant.fault}'
        print(f'{line}  {found["test"]}', flush=True)
        if test := found['test']:
            killers.setdefault(test.partition('::')[0], {})[sha256([test, digest])] = f'tests/{test}'
    for file, by_digest in killers.items():
        pending = sorted({test for digest, test in by_digest.items() if digest not in kept})
        without = trials.run(pending, 6 * SECONDS.value) if pending else {'outcome': 'survived'}
        if without['outcome'] != 'survived':
            raise InputError(f'{without["test"] or file} fails without a fault too, so it notices none: fix it first.')
        for digest in by_digest:
            kept.of(digest, lambda without=without: without)  # type: ignore[misc]
        print(f'without a fault {file} passes', flush=True)
    return rows


def keep_results(path: pathlib.Path, rows: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> None:
    """Keeps numbers as JSON, and a table to be read beside them."""
    numbers = {'mutants': len(rows), **{outcome: counts[outcome] for outcome in OUTCOMES}}
    path.write_text(json.dumps(numbers | {'rows': rows} | provenance.machine(), indent=1) + '\n')
    lines = [
        '| file | fault | outcome | first test that fails | s |',
        '|---|---|---|---|---:|',
        *(f'| {r["file"]} | {r["fault"]} | {r["outcome"]} | {_shown(r["test"])} | {r["seconds"]:.0f} |' for r in rows),
    ]
    path.with_suffix('.md').write_text('\n'.join(lines) + '\n')


def _shown(test: str) -> str:
    """A test without what every one has in its name."""
    return re.sub(r'^test_|\.py(?=::)|(?<=::)test_', '', test).replace('|', r'\|')


if __name__ == '__main__':
    command.run(main)
