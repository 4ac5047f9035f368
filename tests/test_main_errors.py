"""Bad input gets one clear sentence on stderr and exit status 2, and nothing on disk is touched."""

import concurrent.futures
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import helpers

PREPARE = 'download_and_prepare()'

# What is given beside the tiny config, and what the sentence must say.
BAD_FIELDS: dict[str, tuple[list[str], list[str]]] = {
    'unknown field': (['--config.loss.aplha=0.5'], ['aplha', 'Did you mean', 'alpha']),
    'field of another type': (['--config.batch_size=many'], ['many', 'batch_size']),
    'unknown dataset': (['--config.dataset=cifar1'], ["'cifar1'", 'cifar10', 'digits']),
    'unknown variant': (['--config=configs/digits_r14.py:vanila'], ["'vanila'", 'vanilla']),
    'missing config file': (['--config=configs/digits_r15.py'], ['digits_r15.py']),
    'unknown config': (['--config=digits_r15'], ["'digits_r15'", 'cifar10_r20, ', 'Did you mean digits_r14?']),
    'unknown variant of a config by name': (['--config=digits_r14:vanila'], ["'vanila'", 'vanilla']),
    'config file that is none': (['--config={tmp}/notes.py'], ['notes.py', 'get_config']),
    'config file that is no Python': (['--config={tmp}/prose.py'], ['prose.py, line 1', 'Python file']),
    'module that fails': (['--import={tmp}/fails.py'], ['fails.py cannot be imported', 'KeyError', 'line 2']),
    'module that makes arrays': (['--import={tmp}/arrays.py'], ['--import', 'JAX array', 'inside functions']),
    'unknown method': (['--config.method=codinets'], ["method is 'codinets'", 'codinet, static, random', 'Did you']),
    'unknown flag': (['--wrokdir=runs'], ['wrokdir']),
    'word that is no flag': (['digits'], ["'digits' is not a flag"]),
    'depth': (['--config.model.depth=15'], ['6n+2', 'model.depth is 15', 'try 14']),
    'margin': (['--config.loss.diversity_margin=-0.5'], ['loss.diversity_margin', '-0.5', 'at least 0']),
    'weight': (['--config.loss.beta=-1.0'], ['loss.beta', '-1.0', 'at least 0']),
    'views': (['--config.num_views=0'], ['num_views is 0', 'at least 1']),
    'target cost': (['--config.loss.target_cost=1.5'], ['loss.target_cost is 1.5', '(0, 1]']),
    'target below what every image pays': (['--config.loss.target_cost=0.01'], ['loss.target_cost is 0.01', 'skips']),
    'neither true nor false': (
        ['--config.model.remat=3'],
        ['model.remat=3: Non-boolean argument to boolean flag. See'],
    ),
    'batch over devices': ([], ['batch_size 16', '3 devices', 'batch_size=15']),
    'no data_dir': (['--config.dataset=cifar10', '--config.data_dir={tmp}/nowhere'], ['nowhere', PREPARE]),
    'empty data_dir': (['--config.dataset=cifar10', '--config.data_dir={tmp}/empty'], ['no cifar10', PREPARE]),
    'half-written data_dir': (
        ['--config.dataset=cifar10', '--config.data_dir={tmp}/half'],
        ['3.0.2 is half-written', 'delete it', PREPARE],
    ),
    'half-written digits': (
        ['--config.data_dir={tmp}/half'],
        ['digits/1.0.0 is half-written', 'delete it', 'the same command again'],
    ),
}
VARIABLES = {'batch over devices': {'JAX_NUM_CPU_DEVICES': '3'}}

# Workdirs that cannot become this run's: what they hold, and what the sentence must say.
TAKEN: dict[str, tuple[dict[str, str], list[str]]] = {
    'another config': (
        {
            'config.json': json.dumps(json.loads(helpers.tiny_config(**{'loss.beta': 0.125}).to_json())),
            'weights.npz': 'weights',
            'results.json': '{"top1": 1.0}',
            'metrics.jsonl': '{"step": 2}\n',
        },
        ['another config', 'loss.beta (0.125 there, 2.0 here)', 'another --workdir'],
    ),
    'no run': ({'thesis.tex': 'years of work'}, ['not empty and holds no run']),
    'broken config': ({'config.json': '{"seed": '}, ['config.json cannot be read']),
}

# The command that evaluates: its flags, what its workdir holds, and what the sentence must say.
FILES = {
    'notes.py': 'setting = 1\n',
    'prose.py': 'once upon a time\n',
    'fails.py': 'table = {}\ntable["a"]\n',
    'arrays.py': 'import jax.numpy as jnp\nones = jnp.ones(3)\n',
}
UNFINISHED = {'config.json': helpers.tiny_config().to_json()}
NOT_EVALUATED: dict[str, tuple[list[str], dict[str, str], list[str]]] = {
    'no workdir': ([], {}, ['--workdir=DIRECTORY']),
    'no run': (['--workdir={workdir}'], {}, ['holds no run', 'codinet_jax.main']),
    'run that uses a module': (
        ['--workdir={workdir}'],
        {'config.json': helpers.tiny_config(imports=('my/my_router.py',)).to_json(), 'weights.npz': 'weights'},
        ['This run uses my/my_router.py', '--import=my/my_router.py'],
    ),
    'unfinished run': (['--workdir={workdir}'], UNFINISHED, ['unfinished', 'codinet_jax.main']),
    'unknown split': (['--workdir={workdir}', '--split=tset'], UNFINISHED, ['tset', 'test']),
}

Outcome = tuple[subprocess.CompletedProcess[str], dict[str, bytes | None], dict[str, bytes | None]]


def test_what_is_wrong_is_reported_in_a_sentence(outcomes: 'Outcomes', case: str) -> None:
    result, before, after = outcomes.of(case)
    helpers.assert_refused(result, *EXPECTED[case])
    assert after == before


EXPECTED = (
    {f'main: {name}': words for name, (_, words) in BAD_FIELDS.items()}
    | {f'main, workdir: {name}': words for name, (_, words) in TAKEN.items()}
    | {f'evaluate: {name}': words for name, (_, _, words) in NOT_EVALUATED.items()}
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize('case', EXPECTED)


class Outcomes:
    """Every case's command, two at a time, each in a directory of its own; a case is waited for when asked for."""

    def __init__(self, tmp: Path, pool: concurrent.futures.Executor):
        self._tmp, self._pool = tmp, pool
        self._running: dict[str, concurrent.futures.Future[Outcome]] = {}
        main = [*helpers.tiny_flags(data_dir='{tmp}/unread'), '--workdir={workdir}']
        for name, (flags, _) in BAD_FIELDS.items():
            self._start(f'main: {name}', 'main', [*main, *flags], {}, **VARIABLES.get(name, {}))
        for name, (files, _) in TAKEN.items():
            self._start(f'main, workdir: {name}', 'main', main, files)
        for name, (flags, files, _) in NOT_EVALUATED.items():
            self._start(f'evaluate: {name}', 'evaluate', flags, files)

    def of(self, case: str) -> Outcome:
        return self._running[case].result()

    def _start(self, case: str, command: str, flags: list[str], files: dict[str, str], **variables: str) -> None:
        tmp = self._tmp / str(len(self._running))
        for name in ('empty', 'half/digits/1.0.0', 'half/cifar10/3.0.2'):
            (tmp / name).mkdir(parents=True)
        for name, text in FILES.items():
            (tmp / name).write_text(text)
        (tmp / 'half/cifar10/3.0.2/features.json').write_text('{"pythonClassName": ')
        for name, text in files.items():
            (tmp / 'workdir').mkdir(exist_ok=True)
            (tmp / 'workdir' / name).write_text(text)
        filled = [flag.format(tmp=tmp, workdir=tmp / 'workdir') for flag in flags]
        before = contents(tmp)

        def run() -> Outcome:
            return helpers.run_command(command, *filled, **variables), before, contents(tmp)

        self._running[case] = self._pool.submit(run)


def contents(directory: Path) -> dict[str, bytes | None]:
    """Every file and directory under one, and what the files hold; but not what Python makes of a module."""
    found = dict.fromkeys(map(str, directory.rglob('*'))) | {
        str(directory / name): content for name, content in helpers.all_bytes(directory).items()
    }
    return {name: content for name, content in found.items() if '__pycache__' not in name}


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield Outcomes(tmp_path_factory.mktemp('bad_input'), pool)
        pool.shutdown(cancel_futures=True)
