"""The list of mutants does not rot, and what runs them tells a test that notices from one that does not."""

import ast
from collections.abc import Iterator

import pytest

import helpers
from codinet_jax.runtime.errors import InputError
from experiments.mutants.all import MUTANTS
from experiments.mutants.mutant import Mutant
from experiments.mutants.trials import Trials


def test_each_fault_can_still_be_made_and_is_code() -> None:
    assert len(MUTANTS) >= 60 and len({mutant.fault for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        whole = (helpers.REPOSITORY / mutant.path).read_text()
        faulty = mutant.applied(whole)
        if mutant.path.suffix == '.py':
            assert ast.dump(ast.parse(faulty)) != ast.dump(ast.parse(whole)), mutant.fault


def test_the_tests_that_should_notice_are_there() -> None:
    for mutant in MUTANTS:
        assert mutant.tests, mutant.fault
        for test in mutant.selected:
            file, _, name = test.partition('::')
            tree = ast.parse((helpers.REPOSITORY / file).read_text())
            functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert not name or name.partition('[')[0] in functions, test


def test_what_stands_there_twice_or_not_at_all_is_refused() -> None:
    mutant = Mutant('a sign', 'routing/losses.py', 'a + b', 'a - b', ('routing_losses',))
    assert mutant.applied('c = a + b\n') == 'c = a - b\n'
    for text in ('c = a - b\n', 'c = a + b\nd = a + b\n'):
        with pytest.raises(InputError, match=r"^codinet_jax/routing/losses\.py holds 'a \+ b' [02] times"):
            mutant.applied(text)


@pytest.fixture(scope='module')
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """A package of one sum, and its tests."""
    tree = tmp_path_factory.mktemp('mutants') / 'tree'
    for file, text in {
        'codinet_jax/sums.py': 'def add(a, b):\n    return a + b\n',
        'tests/test_sums.py': (
            'from codinet_jax.sums import add\n\n'
            'def test_nothing():\n    assert add(0, 0) == 0\n\n'
            'def test_one():\n    assert add(0, 1) == 1\n'
        ),
        'setup.cfg': '[tool:pytest]\npythonpath = .\naddopts = -p no:hypothesispytest\n',
    }.items():
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        (tree / file).write_text(text)
    with Trials(tree) as served:
        yield served


@pytest.mark.long
@pytest.mark.parametrize(
    ('wrong', 'tests', 'seconds', 'outcome', 'test'),
    [
        ('a - b', ('sums',), 60, 'killed', 'test_sums.py::test_one'),
        ('a - b', ('sums::nothing',), 60, 'survived', ''),
        ('a +', ('sums',), 60, 'broken', ''),
        ('[a for a in iter(int, 1)]', ('sums',), 2, 'timed out', ''),
    ],
)
def test_a_mutant_is_killed_by_the_first_test_that_fails(
    served: Trials, wrong: str, tests: tuple[str, ...], seconds: float, outcome: str, test: str
) -> None:
    before = helpers.all_bytes(served.tree)
    found = served.tried(Mutant('wrong', 'sums.py', 'a + b', wrong, tests), seconds)
    assert (found['outcome'], found['test']) == (outcome, test) and found['seconds'] > 0
    assert helpers.all_bytes(served.tree) == before
