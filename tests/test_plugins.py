"""A router, a loss term, a method and a data set of one's own, in files outside the package, work in every command; and
nothing is imported because a workdir names it."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import codinet_jax
import helpers
from codinet_jax.config import setup
from codinet_jax.runtime import plugins
from codinet_jax.runtime.errors import InputError

ROUTER = """
import flax.linen as nn
import jax.numpy as jnp

from codinet_jax.models.routers import Router, RouterKind, register


class PeakRouter(Router):
    '''Decides by how strongly each channel fires anywhere.'''

    @nn.compact
    def __call__(self, a_BxHxWxC, carry, shared, k):
        del shared, k
        peak_BxC = jnp.max(a_BxHxWxC, axis=(1, 2)).astype(jnp.float32)
        return nn.Dense(2, name='decide')(peak_BxC), carry


register('peak', RouterKind(PeakRouter, macs=lambda block: 2 * block.in_channels))
"""

TERM = """
import jax.numpy as jnp

from codinet_jax.methods import terms

TARGETS_n = (0.9, 0.6, 0.3)


def target_rates(seen):
    '''Mean over blocks of (rate_k - target_k)^2.'''
    rate_n = jnp.mean(seen.output.run_probability_Bxn, axis=0)
    return jnp.mean((rate_n - jnp.asarray(TARGETS_n)) ** 2)


terms.register('target_rates', target_rates)
"""

METHOD = """
import dataclasses

from codinet_jax import methods
from codinet_jax.methods import Rules, Term, classification
from codinet_jax.models import execution
from codinet_jax.routing import losses, relaxation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Priced(methods.Method):
    '''Blocks cost, and nothing else is asked of routes; the relaxation is a softmax without noise.'''

    temperature: float = 1.0

    def stages(self):
        relax = execution.relaxed(relaxation.softmax, self.temperature)
        return Rules(relax, self.objective), Rules(execution.masked(), classification, frozen='routers')

    def objective(self, seen):
        cost = losses.cost_loss(seen.output.run_probability_Bxn, seen.costs.costs_n)
        return classification(seen) | {'cost': Term(cost, seen.gamma)}


methods.register('priced', Priced)
"""

DATA = """
import numpy as np

from codinet_jax.data import datasets


def read(split, data_dir):
    '''Bars that lie or stand; data_dir is not needed.'''
    del data_dir
    generator = np.random.default_rng(split == 'test')
    labels_N = generator.integers(0, 2, 64 if split == 'test' else 160)
    images_NxHxWxC = generator.integers(0, 99, (len(labels_N), 8, 8, 1), np.uint8)
    for image, label in zip(images_NxHxWxC, labels_N):
        i = generator.integers(8)
        image[(i, slice(None)) if label else (slice(None), i)] = 255
    return images_NxHxWxC, labels_N


spec = datasets.DataSpec(('standing', 'lying'), mean=0.3, std=0.3, crop_padding=1)
datasets.register('bars', datasets.Dataset(spec, image_size=8, num_channels=1, read=read))
"""

FILES = {'my_router.py': ROUTER, 'my_term.py': TERM, 'my_methods/priced.py': METHOD, 'my_data.py': DATA}
NAMED = ('my_router.py', 'my_term.py', 'my_methods.priced', 'my_data.py')
IMPORTS = [f'--import={name}' for name in NAMED]
SETTINGS = {
    'dataset': 'bars',
    'method': 'priced',
    'model.router': 'peak',
    'loss.extra_terms': "('target_rates',)",
    'loss.extra_weights': '(2.0,)',
    'stage1.epochs': 1.0,  # of ten steps
    'stage2.epochs': 0.5,
}


def run(directory: Path, name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """A command run to its end in a directory of the user's, the package being installed somewhere else."""
    return helpers.run_command(name, *flags, cwd=directory, CAREFUL_STEPS='peak differentiates a maximum')


def written(directory: Path) -> Path:
    for name, text in FILES.items():
        assert text.strip().count('\n') < 30, f'{name} is to be short'
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    return directory


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's directory with all of it, and a run in it."""
    directory = written(tmp_path_factory.mktemp('users'))
    result = run(directory, 'main', *IMPORTS, *helpers.tiny_flags(**SETTINGS)[1:], '--config=digits_r14')
    assert (result.returncode, result.stderr) == (0, ''), result.stderr
    return directory


@pytest.fixture(scope='module')
def evaluated(trained: Path) -> Path:
    result = run(trained, 'evaluate', '--workdir=runs/digits_r14', *IMPORTS)
    assert (result.returncode, result.stderr) == (0, ''), result.stderr
    return trained


@pytest.mark.long
def test_a_run_trains_with_them_and_records_them(trained: Path) -> None:
    workdir = trained / 'runs' / 'digits_r14'
    config = json.loads((workdir / 'config.json').read_text())
    assert config['imports'] == list(NAMED)
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    terms = [row['target_rates'] for row in rows if 'target_rates' in row]
    assert terms and all(0 < term < 1 for term in terms)
    assert not any('consistency' in name for row in rows for name in row)
    results = json.loads((workdir / 'results.json').read_text())
    assert results['num_test_images'] == 64 and abs(results['macs_share'] - 0.7) < 0.05, 'its bias meets a cost'


@pytest.mark.long
def test_the_same_command_goes_on_with_the_run(trained: Path) -> None:
    flags = helpers.tiny_flags(**SETTINGS)[1:]
    again = run(trained, 'main', '--config=digits_r14', *flags, *IMPORTS)
    assert (again.returncode, again.stderr) == (0, '')
    elsewhere = [f'--import={trained / name}' if name.endswith('.py') else f'--import={name}' for name in NAMED]
    assert run(trained, 'main', '--config=digits_r14', *flags, *elsewhere).returncode == 0, 'named by another path'


@pytest.mark.long
def test_evaluate_predict_and_export_agree(evaluated: Path) -> None:
    workdir = evaluated / 'runs' / 'digits_r14'
    results = json.loads((workdir / 'results.json').read_text())
    again = json.loads((workdir / 'evaluation_test.json').read_text())
    assert again['top1'] == results['top1'] and again['macs_share'] == results['macs_share']
    predicted = run(evaluated, 'predict', f'--workdir={workdir}', '--split=test', '--json', *IMPORTS)
    assert predicted.returncode == 0 and f'test: top-1 {results["top1"]:.2%}\n' in predicted.stderr
    rows = [json.loads(line) for line in predicted.stdout.splitlines()]
    with np.load(workdir / 'routes' / 'test.npz') as routes:
        labels_N, decisions_Nxn = routes['predictions_N'], routes['decisions_Nxn']
    assert [row['label'] for row in rows] == labels_N.tolist()
    assert [row['route'] for row in rows] == decisions_Nxn.astype(int).tolist()

    exported = run(evaluated, 'export', f'--workdir={workdir}', '--output=mine.exported', *IMPORTS)
    assert (exported.returncode, exported.stderr) == (0, '')
    namespace: dict[str, object] = {}
    exec(DATA.split('spec =')[0], namespace)
    images_NxHxWxC, _ = namespace['read']('test', None)  # type: ignore[operator]
    answers = codinet_jax.load_exported(evaluated / 'mine.exported').in_batches(images_NxHxWxC, 64)
    np.testing.assert_array_equal(answers.labels_B, labels_N)
    np.testing.assert_array_equal(answers.decisions_Bxn, decisions_Nxn)


@pytest.mark.long
@pytest.mark.parametrize(('name', 'ready'), [('serve', 'ready in .* batches of 1$'), ('demo', 'ready in .* open http')])
def test_servers_take_them(trained: Path, name: str, ready: str) -> None:
    flags = ['--port=0', *(['--max_batch=1'] if name == 'serve' else [])]
    server = helpers.start_command(name, '--workdir=runs/digits_r14', *flags, *IMPORTS, cwd=trained)
    lines = [server.stdout.readline() for _ in range(2)] if server.stdout else []
    server.terminate()
    _, errors = server.communicate(timeout=60)
    assert errors == '' and re.search(ready, lines[1].strip()), (lines, errors)


@pytest.mark.parametrize('name', ['predict', 'serve', 'demo'])
def test_what_cannot_be_imported_is_refused_for_an_exported_network_too(tmp_path: Path, name: str) -> None:
    result = run(tmp_path, name, '--exported=none', '--import=nothing.py')
    assert (result.returncode, result.stdout) == (2, '')
    assert result.stderr == f'error: nothing.py cannot be imported: {tmp_path / "nothing.py"} is no file.\n'


@pytest.mark.long
def test_calibrate_and_analyze_take_them(evaluated: Path) -> None:
    flags = ('--target_cost=0.5', '--num_points=3')
    calibrated = run(evaluated, 'calibrate', '--workdir=runs/digits_r14', *flags, *IMPORTS)
    assert (calibrated.returncode, calibrated.stderr) == (0, ''), calibrated.stderr
    assert '160 images of bars train' in calibrated.stdout
    analyzed = run(evaluated, 'analyze', '--workdir=runs/digits_r14', '--format=png', *IMPORTS)
    assert (analyzed.returncode, analyzed.stderr) == (0, ''), analyzed.stderr
    page = (evaluated / 'runs' / 'digits_r14' / 'analysis' / 'report.html').read_text()
    assert 'standing' in page and 'lying' in page


OF_CONFIGS = {
    'benchmark': ['--run_rate=0.5', '--batch_sizes=8', '--repeats=1'],
    'profile': ['--steps=2'],
    'compile': ['--topology=cpu', '--program=predict', '--batch_size=8'],
}


@pytest.mark.long
@pytest.mark.parametrize('name', OF_CONFIGS)
def test_what_is_measured_of_a_config_may_be_of_ones_own(tmp_path: Path, name: str) -> None:
    """Not trained before: the router, the data set and the method are found in the files alone."""
    named = ['--config=digits_r14', *helpers.tiny_flags(**SETTINGS)[1:]]
    result = run(written(tmp_path), name, *named, *OF_CONFIGS[name], *IMPORTS, '--output=out.json')
    assert (result.returncode, result.stderr) == (0, ''), result.stderr
    assert (tmp_path / 'out.json').exists() and 'written to out.json' in result.stdout
    without = run(tmp_path, name, *named, *OF_CONFIGS[name], '--output=other.json')
    assert without.returncode == 2 and "method is 'priced'" in without.stderr


@pytest.mark.long
def test_what_the_readme_adds_is_trained_and_evaluated_as_it_stands_there(tmp_path: Path) -> None:
    """A loss term, a router and a method, each one file; and the term's command, with the others' flags."""
    readme = (helpers.REPOSITORY / 'codinet_jax' / 'README.md').read_text()
    section = readme.partition('\n## Add a router, a loss, a data set, a method\n')[2]
    files = {name: text for text, name in re.findall(r'```python\n(# (\w+\.py): .*?)```', section, re.DOTALL)}
    assert list(files) == ['target_rates.py', 'peak.py', 'matched.py']
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (command,) = re.findall(r'```bash\npython -m codinet_jax\.main (.*?)```', section, re.DOTALL)
    told = shlex.split(command.replace('\\\n', ' '))
    for name in ('peak', 'matched'):
        (flags,) = re.findall(rf'`(--import={name}\.py [^`]*)`', ' '.join(section.split()))
        told += shlex.split(flags)
    imports = [flag for flag in told if flag.startswith('--import=')]
    tiny = helpers.tiny_flags(**{'model.depth': 14})[1:]
    result = run(tmp_path, 'main', *told, *tiny, '--workdir=mine')
    assert (result.returncode, result.stderr) == (0, ''), result.stderr
    rows = [json.loads(line) for line in (tmp_path / 'mine' / 'metrics.jsonl').read_text().splitlines()]
    rows = [row for row in rows if row['kind'] == 'train' and row['stage'] == 1]
    for row in rows:
        parts = row['cross_entropy'] + 10 * row['matched'] + 2 * row['target_rates']
        assert row['loss'] == pytest.approx(parts, rel=1e-5) and row['matched'] > 0
    assert rows and json.loads((tmp_path / 'mine' / 'config.json').read_text())['model']['router'] == 'peak'
    evaluated = run(tmp_path, 'evaluate', '--workdir=mine', *imports)
    assert (evaluated.returncode, evaluated.stderr) == (0, ''), evaluated.stderr


COMMANDS = {
    'evaluate': [],
    'predict': ['--split=test'],
    'calibrate': ['--target_cost=0.5'],
    'export': ['--output=never'],
    'benchmark': [],
    'serve': ['--port=0'],
    'demo': ['--port=0'],
    'analyze': [],
}


@pytest.mark.long
@pytest.mark.parametrize('name', COMMANDS)
def test_without_them_a_command_names_what_is_missing_and_imports_nothing(trained: Path, name: str) -> None:
    files = helpers.all_bytes(trained)
    traps = ('my_router', 'my_term', 'my_data', 'my_methods/priced')
    for trap in traps:
        (trained / f'{trap}.py').write_text(f'open({str(trained / "sprung")!r}, "w")\n')
    try:
        result = run(trained, name, '--workdir=runs/digits_r14', *COMMANDS[name])
        assert (result.returncode, result.stdout) == (2, '')
        assert result.stderr == (
            'error: This run uses my_router.py: add --import=my_router.py, or in Python import my_router first, for '
            'nothing is imported from a workdir unasked.\n'
        )
        assert not (trained / 'sprung').exists()
    finally:
        for trap in traps:
            (trained / f'{trap}.py').write_bytes(files[f'{trap}.py'])
    assert helpers.all_bytes(trained) == files


def test_what_the_users_own_config_lists_is_imported(tmp_path: Path) -> None:
    (tmp_path / 'my_router.py').write_text(ROUTER)
    (tmp_path / 'mine.py').write_text(
        'from codinet_jax.config import default\n'
        'def get_config():\n'
        '    config = default.get_config()\n'
        '    config.imports = ("my_router.py",)\n'
        '    config.model.router = "peak"\n'
        '    return config\n'
    )
    result = run(tmp_path, 'main', '--config=mine.py', '--config.batch_size=0')
    assert 'batch_size is 0' in result.stderr, 'the router is known'
    result = run(tmp_path, 'main', '--config=mine.py', '--config.imports=()')
    assert "model.router is 'peak'" in result.stderr


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory to write modules in, which are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, '__file__', None)).startswith(str(tmp_path)):
            del sys.modules[name]


def test_a_file_becomes_the_module_of_its_stem_and_is_run_once(user: Path) -> None:
    (user / 'inner').mkdir()
    (user / 'inner' / 'mine_beside.py').write_text('value = 3\n')
    (user / 'inner' / 'mine.py').write_text('import mine_beside\nmine_beside.value += 1\n')
    plugins.load(['inner/mine.py', str(user / 'inner' / 'mine.py'), '~/../' + str(user / 'inner' / 'mine.py')])
    assert sys.modules['mine_beside'].value == 4
    assert sys.modules['mine'].__file__ == str(user / 'inner' / 'mine.py')
    plugins.check(['mine.py', 'elsewhere/mine.py', 'mine'])


def test_a_module_is_found_in_the_current_directory_and_never_before_what_is_installed(user: Path) -> None:
    (user / 'optax.py').write_text('raise SystemExit("the wrong one")\n')
    (user / 'my_package').mkdir()
    (user / 'my_package' / 'router.py').write_text('value = 3\n')
    plugins.load(['my_package.router', 'optax'])
    assert sys.modules['my_package.router'].value == 3
    plugins.check(['my_package.router'])
    with pytest.raises(InputError, match=r'^optax\.py cannot be imported: there is another module'):
        plugins.load(['optax.py'])


WRONG = {
    'no_such_module': r'no_such_module cannot be imported: ModuleNotFoundError: No module named',
    'no_such_file.py': r'no_such_file\.py cannot be imported: .*/no_such_file\.py is no file\.',
    'my-router.py': r"'my-router\.py' cannot be imported: give a module",
    'router.v2.py': r"'router\.v2\.py' cannot be imported: give a module",
    '': r"'' cannot be imported: give a module",
    'raises.py': r'raises\.py cannot be imported: KeyError: .* \(.*/raises\.py, line 2\)\.',
    'exits.py': r'exits\.py cannot be imported: SystemExit: 3 \(.*/exits\.py, line 1\)\.',
    'needs.py': r'needs\.py cannot be imported: ModuleNotFoundError: .* \(.*/needs\.py, line 3\)\.',
    'no_python.py': r'no_python\.py cannot be imported: SyntaxError: invalid syntax \(no_python\.py, line 1\)\.',
    'taken.py': r"taken\.py cannot be imported: There is a router 'linear' already",
}


@pytest.mark.parametrize('name', WRONG)
def test_what_cannot_be_imported_is_refused_by_name(user: Path, name: str) -> None:
    (user / 'raises.py').write_text('table = {}\ntable["a"]\n')
    (user / 'exits.py').write_text('raise SystemExit(3)\n')
    (user / 'needs.py').write_text('\n\nimport nothing\n')
    (user / 'no_python.py').write_text('once upon a time\n')
    (user / 'taken.py').write_text(
        'from codinet_jax.models.routers import RouterKind, register\nregister("linear", RouterKind(None, None))\n'
    )
    with pytest.raises(InputError, match=f'^{WRONG[name]}') as refused:
        plugins.load([name])
    assert '\n' not in str(refused.value)
    with pytest.raises(InputError):
        plugins.check([name])


def test_a_setup_of_a_run_is_not_read_before_its_modules(user: Path) -> None:
    (user / 'later.py').write_text('value = 3\n')
    config = helpers.tiny_config(imports=('later.py',))
    with pytest.raises(InputError, match=r'later\.py: add --import=later\.py, or in Python import later first'):
        setup.read(config)
    plugins.load(config.imports)
    assert setup.read(config).record['imports'] == ['later.py']
