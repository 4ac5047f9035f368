"""A tree to put faults into, and its tests: what came of each fault."""

import ast
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from codinet_jax.runtime.files import OutputDirectory
from experiments.mutants import server
from experiments.mutants.mutant import REPOSITORY, Mutant

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

SELECTED = 'not tensorflow and not torch and not browser and not smoke'  # the long ones too

Outcome = dict[str, Any]  # outcome, test, seconds


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


class Kept:
    """What came of trials, by digest, in a file of a directory: of none is asked twice."""

    def __init__(self, output: OutputDirectory):
        self._output, path = output, output.path / 'outcomes.json'
        self._outcomes: dict[str, Outcome] = json.loads(path.read_text()) if path.exists() else {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._outcomes

    def of(self, digest: str, run: Callable[[], Outcome]) -> Outcome:
        """What came of it then, or comes of it now."""
        if digest not in self:
            self._outcomes[digest] = run()
            self._output.write({'outcomes.json': (json.dumps(self._outcomes, indent=1) + '\n').encode()})
        return self._outcomes[digest]


class Trials:
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
        kept = self.tree.parent
        options = ('-x', '-q', '-n', '0', '-o', f'cache_dir={kept / "cache"}', f'--basetemp={kept / "temporary"}')
        request = {'arguments': [*options, '-rfE', '-m', SELECTED, *tests], 'log': str(self._log), 'seconds': seconds}
        assert self._server.stdin and self._server.stdout
        started = time.monotonic()
        print(json.dumps(request), file=self._server.stdin, flush=True)
        status = json.loads(self._server.stdout.readline())
        failed = re.search(r'^(?:FAILED|ERROR) tests/(\S+::.+?)(?: - .*)?$', self._log.read_text(), re.MULTILINE)
        test = failed.group(1) if failed and status == 1 else ''
        outcome = {None: 'timed out', 0: 'survived', 1: 'killed' if test else 'broken'}.get(status, 'broken')
        return {'outcome': outcome, 'test': test, 'seconds': round(time.monotonic() - started, 1)}


def digest_of(mutant: Mutant) -> str:
    """Of what decides what comes of a mutant: itself, its file, and the tests it names."""
    code = (REPOSITORY / mutant.path).read_text()
    return sha256([mutant, code, *map(_source, mutant.selected)])


def _source(test: str) -> str:
    """The text of a test, or of a whole file of them."""
    file, _, name = test.partition('::')
    text = (REPOSITORY / file).read_text()
    named = (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
    found = [ast.get_source_segment(text, node) for node in named if node.name == name.partition('[')[0]]
    return found[0] or text if found else text


def sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
