"""Every table and figure of the paper, from its networks to its files, at a scale that shows nothing else."""

import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict
from PIL import Image

import helpers
from codinet_jax.workdir import Workdir
from experiments.reproduce import queue, summary
from experiments.reproduce.definitions import DEFINITIONS, Table
from experiments.reproduce.runs import RUNS
from experiments.reproduce.scales import SCALES

pytestmark = pytest.mark.smoke


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all workers train the networks, each once for all tables."""
    own = tmp_path_factory.getbasetemp()
    directory = (own.parent if 'PYTEST_XDIST_WORKER' in os.environ else own) / 'smoke'
    directory.mkdir(exist_ok=True)
    return directory


def train(job: queue.Job) -> bool:
    """What the queue's own does in a process; runs that this scale makes alike are trained once.

    Each method is trained on two devices in the table of peers, and what else there is on one, as on a laptop.
    """
    job.beside('.json').write_text(json.dumps({'command': []}))
    if RUNS[job.run].cascade_of:
        return helpers.run_command('cascade', *queue.cascade_flags(job, SCALES['smoke'])).returncode == 0
    config = queue.config_for(job, SCALES['smoke'])
    runs_of_one = job.workdir.path.parents[1] / 'runs_of_one_kind'
    runs_of_one.mkdir(exist_ok=True)
    num_devices = 2 if job.run.startswith('peers_') else 1
    first = Workdir(runs_of_one / hashlib.sha256(f'{num_devices} {kind(config)}'.encode()).hexdigest())
    with open(first.path.with_suffix('.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if first.read_results() is None:
            helpers.train(config, first, num_devices)
    shutil.copytree(first.path, job.workdir.path)
    return True


def kind(config: ConfigDict) -> str:
    """What decides on what is computed: of weights and rates, whether they are zero."""
    return str(jax.tree.map(lambda value: value != 0 if isinstance(value, float) else value, config.to_dict()))


@pytest.mark.parametrize('name', DEFINITIONS)
def test_a_table_or_figure_is_reproduced_and_says_that_it_is_no_result(
    trained: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(queue, 'SECONDS_BETWEEN_LOOKS', 0.2)
    jobs = queue.planned([name], trained, ['0'])
    assert queue.work_off(jobs, train) == []
    definition = DEFINITIONS[name]
    files = summary.summary(f'{name}_smoke', definition, 'smoke', summary.runs_of(definition.rows, trained))
    told, text = json.loads(files[f'{name}_smoke.json']), files[f'{name}_smoke.md'].decode()
    assert told['is_result'] is False and 'SMOKE' in text and 'missing' not in text
    assert [len(row['seeds']) for row in told['rows']] == [1] * len(definition.rows)
    pictures = [stem for stem in files if stem.endswith('.png')]
    assert pictures
    for stem in pictures:
        (trained / stem).write_bytes(files[stem])
        with Image.open(trained / stem) as image:
            assert min(image.size) > 100
    if isinstance(definition, Table):
        assert text.count('\n| ') == 1 + len(definition.rows)
        assert all(set(seed['numbers']) == set(definition.columns) for row in told['rows'] for seed in row['seeds'])
