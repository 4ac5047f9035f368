"""Before anything asks JAX for a device: eight of them, so that sharding is real; no silent rank promotion; and less
care in compiling, which is most of what tests and the commands that they start do."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from xdist.scheduler import LoadFileScheduling

import kept_programs
from browsing import chromium

# Level 0 compiles faster yet, but what it compiles runs four times as long, which a training run does not make up for.
QUICK_COMPILING = '--xla_backend_optimization_level=1 --xla_cpu_parallel_codegen_split_count=1'
if jax.__version_info__ < (0, 11):  # later there is one way only to compile a fusion
    QUICK_COMPILING += ' --xla_cpu_use_fusion_emitters=false'

os.environ['XLA_FLAGS'] = f'{QUICK_COMPILING} {os.environ.get("XLA_FLAGS", "")}'  # the last one counts
jax.config.update('jax_platforms', 'cpu')  # where there is an accelerator as well: it is one device, and rounds
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')

COMPILED = 'compiled'  # in pytest's cache
MOST_BYTES = 1_500_000_000  # of a worker that goes on to another file with all that it has traced and compiled

# Files whose tests need nothing of each other, and minutes together: workers take those one by one.
ONE_BY_ONE = ('test_half_hour', 'test_smoke')

# Those that take twenty seconds of CPU or more, or do so when all of them are run, the longest first.
LONG_FILES = (
    *ONE_BY_ONE,
    'test_tour',
    'test_processes',
    'test_analyze',
    'test_going_on',
    'test_execution',
    'test_stage2',
    'test_plugins',
    'test_faults',
    'test_evaluate',
    'test_step',
    'test_resume',
    'test_folder_run',
    'test_import_weights',
    'test_peers',
    'test_conv_kernels',
    'test_act',
    'test_scale',
    'test_routing_paths',
    'test_exported',
    'test_controls',
    'test_gates',
    'test_real_accuracy',
    'test_blockdrop',
    'test_full_disk',
    'test_calibration',
    'test_network',
    'test_recipe',
    'test_cost_matching',
    'test_random_router',
    'test_cost',
    'test_analysis_figures',
    'test_timing',
    'test_two_depths',
    'test_analysis_labels',
    'test_golden',
    'test_joining',
    'test_early_exit',
    'test_collectives',
    'test_fused',
    'test_trainer',
)


def pytest_xdist_auto_num_workers() -> int:
    """As many as cores: with one more, nearly a tenth more CPU time goes into what each worker traces for itself."""
    return len(os.sched_getaffinity(0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A worker takes the next file when it is done with one: a long one at the end would keep all but one waiting."""
    ranks = {name: rank for rank, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


class ByFile(LoadFileScheduling):
    """A worker takes a file at a time, so that what its tests share is made once."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return nodeid if Path(file).stem in ONE_BY_ONE else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def pytest_collection_finish() -> None:
    """Garbage is looked for among what tests make, not among all that is imported by now; and less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, 'workerinput'):  # once, when all workers are done
        kept_programs.forget_unused(session.config.cache.mkdir(COMPILED))


@pytest.fixture(scope='session', autouse=True)
def compiled_once(request: pytest.FixtureRequest) -> None:
    """Tests and the commands they start compile the same small programs over and over, in every worker and run."""
    settings = {
        'jax_compilation_cache_dir': str(request.config.cache.mkdir(COMPILED)),
        'jax_persistent_cache_min_compile_time_secs': 0.0,
        'jax_persistent_cache_min_entry_size_bytes': -1,
        # Where a callback lies that says how a call is partitioned, which is done before anything is kept.
        'jax_remove_custom_partitioning_ptr_from_cache_key': True,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)
    # Commands do not speak of an entry that another process has not written to its end yet.
    os.environ['PYTHONWARNINGS'] = 'ignore:Error reading persistent compilation cache entry:UserWarning'


@pytest.fixture(scope='session', autouse=True)
def quick_runs_begun() -> None:
    """Here, as in forks."""
    import quick_runs

    quick_runs.begin()


@pytest.fixture(scope='module', autouse=True)
def forgotten_between_files() -> Iterator[None]:
    """A worker that kept all programs of all files would grow to five gigabytes, and slower with each collection; one
    that kept none would trace JAX's own functions anew in every file."""
    yield
    if _resident_bytes() > MOST_BYTES:
        jax.clear_caches()
        gc.collect()


def _resident_bytes() -> int:
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of a file's own, with the digits in its tfds/."""
    from codinet_jax.data import digits

    root = tmp_path_factory.mktemp('root')
    digits.prepare(root / 'tfds')
    return root


@pytest.fixture(scope='module')
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kernels are built anew for the file that asks for this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('CODINET_JAX_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    """Chromium, for the tests marked so."""
    with chromium() as browser:
        yield browser
