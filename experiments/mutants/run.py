"""Puts faults into the code, one at a time, and sees whether the tests notice:

    python -m experiments.mutants.run --output=mutants
    python -m experiments.mutants.run --output=mutants --only=routing/ --results=experiments/results/mutants.json

The tree is copied to a directory of its own, where each mutant is applied, the tests that it names are run, and it is
taken back. A mutant is killed by the first test that fails; one that cannot be imported is broken, and proves nothing.
In the end all tests that killed one are run without a fault, for one that fails anyhow notices nothing. What came of
each is kept in OUTPUT as it comes: started again, the command goes on, and asks anew of those alone whose code or tests
have changed. Exit status 1 if one survives.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

from absl import flags

from codinet_jax.runtime import command, files, provenance
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import OutputDirectory
from experiments.mutants import server
from experiments.mutants.all import MUTANTS
from experiments.mutants.mutant import REPOSITORY, Mutant

OUTPUT = flags.DEFINE_string('output', 'mutants', 'Where the tree is copied to, and what came of each is kept.')
ONLY = flags.DEFINE_string('only', '', 'Mutants alone whose file or fault holds this.')
SECONDS = flags.DEFINE_integer('seconds', 600, 'A mutant may take; one that takes longer is killed by the clock.')
RESULTS = flags.DEFINE_string('results', None, 'A JSON file to keep what came of it, with a table beside it in .md.')

COPIED = (
    'codinet_jax',
    'configs',
    'experiments',
    'tests',
    'setup.cfg',
    'pyproject.toml',
    'requirements.txt',
    'README.md',
)
OUTCOMES = ('killed', 'timed out', 'survived', 'broken')

Outcome = dict[str, Any]  # outcome, test, seconds
Asked = Callable[[str, Callable[[], Outcome]], Outcome]


def main(argv: Sequence[str]) -> int:
    del argv
    output = OutputDirectory(files.expanded(OUTPUT.value).absolute())
    chosen = [mutant for mutant in MUTANTS if ONLY.value in mutant.fault or ONLY.value in str(mutant.path)]
    if not chosen:
        raise InputError(f'No mutant is of {ONLY.value!r}: give --only a part of a file or of a fault.')
    for mutant in MUTANTS:
        mutant.applied((REPOSITORY / mutant.path).read_text())
    tree = copied(output.path / 'tree')
    kept = output.path / 'outcomes.json'
    outcomes: dict[str, Outcome] = json.loads(kept.read_text()) if kept.exists() else {}

    def asked(digest: str, run: Callable[[], Outcome]) -> Outcome:
        """What came of it, then or now."""
        if digest not in outcomes:
            outcomes[digest] = run()
            output.write({kept.name: (json.dumps(outcomes, indent=1) + '\n').encode()})
        return outcomes[digest]

    with Tests(tree) as tests:
        rows = outcomes_of(tests, chosen, asked)
    counts = Counter(row['outcome'] for row in rows)
    print(', '.join(f'{counts[outcome]} {outcome}' for outcome in OUTCOMES))
    if RESULTS.value:
        keep_results(pathlib.Path(RESULTS.value), rows, counts)
    return 1 if counts['survived'] or counts['broken'] else 0


def outcomes_of(tests: 'Tests', chosen: Sequence[Mutant], asked: Asked) -> list[Outcome]:
    """What came of each mutant.

    Raises:
      InputError: a test that killed one fails without a fault.
    """
    rows = []
    for number, mutant in enumerate(chosen, start=1):
        found = asked(digest_of(mutant), partial(tests.tried, mutant, SECONDS.value))
        rows.append({'fault': mutant.fault, 'file': mutant.file} | found)
        line = f'{number}/{len(chosen)} {found["outcome"]:9} {found["seconds"]:6.1f} s  {mutant.file}: {mutant.fault}'
        print(f'{line}  {found["test"]}', flush=True)
    for file, killers in killing(rows).items():
        theirs = [digest_of(each) for each, row in zip(chosen, rows, strict=True) if row['test'].startswith(file)]
        digest = _sha256([*killers, *theirs])
        if (failed := asked(digest, partial(tests.run, killers, 6 * SECONDS.value)))['outcome'] != 'survived':
            raise InputError(f'{failed["test"] or file} fails without a fault, so it notices none: mend it first.')
        print(f'without a fault {file} passes', flush=True)
    return rows


def copied(tree: pathlib.Path) -> pathlib.Path:
    """The repository's code and tests, in a directory made anew."""
    shutil.rmtree(tree, ignore_errors=True)
    for name in COPIED:
        source, target = REPOSITORY / name, tree / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return tree


def killing(rows: Sequence[Outcome]) -> dict[str, list[str]]:
    """The tests that killed one, by their file."""
    found: dict[str, set[str]] = {}
    for row in rows:
        if row['outcome'] == 'killed':
            found.setdefault(row['test'].partition('::')[0], set()).add(f'tests/{row["test"]}')
    return {file: sorted(tests) for file, tests in sorted(found.items())}


class Tests:
    """The tests of a tree, run by a server that lives as long as this is entered."""

    def __init__(self, tree: pathlib.Path):
        self.tree, self._log = tree, tree.parent / 'log'

    def __enter__(self) -> Self:
        # No bytecode: Python tells a file that has changed by its size and the second it was written in.
        variables = {'PYTHONDONTWRITEBYTECODE': '1', 'JAX_PLATFORMS': 'cpu', 'CODINET_JAX_COMMIT': 'mutant'}
        self._server = subprocess.Popen(
            [sys.executable, '-c', pathlib.Path(server.__file__).read_text()],
            cwd=self.tree,
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def tried(self, mutant: Mutant, seconds: float) -> Outcome:
        """What comes of a mutant; the tree is then as it was."""
        path = self.tree / mutant.path
        whole = path.read_text()
        path.write_text(mutant.applied(whole))
        try:
            return self.run(mutant.selected, seconds)
        finally:
            path.write_text(whole)

    def run(self, tests: Sequence[str], seconds: float) -> Outcome:
        """Runs tests until one fails: 'killed' by it, 'survived', 'broken' where none could be run, or 'timed out'."""
        options = ('-x', '-q', '-n', '0', '-p', 'no:cacheprovider', f'--basetemp={self.tree.parent / "temporary"}')
        request = {'arguments': [*options, '-rfE', *tests], 'log': str(self._log), 'seconds': seconds}
        assert self._server.stdin and self._server.stdout
        started = time.monotonic()
        print(json.dumps(request), file=self._server.stdin, flush=True)
        status = json.loads(self._server.stdout.readline())
        failed = re.search(r'^(?:FAILED|ERROR) tests/(\S+::.+?)(?: - .*)?$', self._log.read_text(), re.MULTILINE)
        test = failed.group(1) if failed and status == 1 else ''
        outcome = {None: 'timed out', 0: 'survived', 1: 'killed' if test else 'broken'}.get(status, 'broken')
        return {'outcome': outcome, 'test': test, 'seconds': round(time.monotonic() - started, 1)}


def digest_of(mutant: Mutant) -> str:
    """Of all that decides what comes of a mutant: itself, its file, and the tests it names."""
    files = [mutant.path, *(pathlib.Path(test.partition('::')[0]) for test in mutant.selected)]
    return _sha256([mutant, *((REPOSITORY / file).read_text() for file in files)])


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


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
