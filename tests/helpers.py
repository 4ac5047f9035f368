"""What several test files share: a config and a network small enough to compile in seconds, meshes, and the commands
run as a person runs them."""

import copy
import functools
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict

import forking
import quick_runs
from codinet_jax.config import default, setup
from codinet_jax.config.setup import Setup
from codinet_jax.data.in_memory import ImageSet
from codinet_jax.models import execution
from codinet_jax.models.architecture import Architecture, Block, Conv, Stage, first_third, resumed
from codinet_jax.models.cost import CostTable, cost_table
from codinet_jax.models.network import RoutedResNet
from codinet_jax.models.routers import ROUTERS
from codinet_jax.routing import controller
from codinet_jax.runtime import sharding
from codinet_jax.training import loop, stages
from codinet_jax.training.state import TrainState
from codinet_jax.workdir import Workdir, begin
from configs import digits_r14
from reference_network import Tree

REPOSITORY = Path(__file__).parent.parent

TINY = {
    'model.depth': 8,
    'batch_size': 16,
    'num_views': 2,
    'stage1.epochs': 0.1,
    'stage1.decay_epochs': (0.05,),
    'stage2.epochs': 0.1,
    'stage2.decay_epochs': (0.05,),
    'eval_every_epochs': 0.0,
    'log_every_steps': 2,
    'checkpoint_every_steps': 3,
}


def tiny_config(**changes: Any) -> ConfigDict:
    """digits_r14 with three blocks, nine steps a stage; `changes` by dotted name: `**{'loss.gamma': 0.5}`."""
    config = digits_r14.get_config()
    config.update_from_flattened_dict(TINY | changes)
    return config


def tiny_flags(**changes: Any) -> list[str]:
    """`tiny_config` as a command line."""
    return ['--config=configs/digits_r14.py', *(f'--config.{name}={value}' for name, value in (TINY | changes).items())]


def tiny_architecture() -> Architecture:
    """Four blocks on 8x8 images, a stack and a transition among them: every kind of part, few channels."""
    stack = Block(8, 4, (Conv(3, 4), Conv(3, 4)), 'identity')
    transition = Block(8, 4, (Conv(3, 8, 2), Conv(3, 8)), 'pad')
    body = Block(4, 8, (Conv(3, 8), Conv(3, 8)), 'identity')
    return Architecture(8, 1, 10, 'cifar', 4, (Stage(None, stack, 2), Stage(transition, body, 1)))


def suited(architecture: Architecture, router: str | None) -> Architecture:
    """The architecture, or what it is to a router of another order of blocks."""
    resumes = router is not None and ROUTERS[router].resumes
    return resumed(first_third(architecture), architecture) if resumes else architecture


def tiny_network(router: str | None = 'linear') -> RoutedResNet:
    return RoutedResNet(tiny_architecture(), router, unroll=2)


def tiny_costs(router: str | None = 'linear') -> CostTable:
    return cost_table(tiny_architecture(), ROUTERS[router].macs if router else None)


def tiny_setup(**changes: Any) -> Setup:
    """What `tiny_config` names."""
    return setup.read(tiny_config(**changes))


def train(config: ConfigDict, workdir: Workdir, num_devices: int = 1) -> dict[str, Any] | None:
    """A run of a config, as `codinet_jax.main` does it on so many devices; for one it compiles in three quarters of
    the time."""
    with mock.patch.object(sharding, 'data_mesh', functools.partial(sharding.data_mesh, num_devices)):
        return loop.train(begin(config, workdir), workdir)


def tiny_stages(config: ConfigDict, router: str | None = 'linear') -> list[stages.Stage]:
    """Both stages of a config on the digits, of the tiny network in place of the config's own."""
    named = default.with_variant(copy.deepcopy(config), 'static') if router is None else config
    return stages.plan(setup.read(named), 1442, tiny_network(router))


def scattered_state(stage: stages.Stage, mesh: Mesh, gamma: float = 0.0) -> TrainState:
    """A state on every device of the mesh whose parameters are noise, drawn with no compilation; routes lie apart."""
    model, generator = stage.step.model, np.random.default_rng(0)

    def drawn(path: tuple[Any, ...], leaf: Any) -> np.ndarray:
        centre = 1.0 if path[-1].key in ('scale', 'var') else 0.0
        spread = 0.0 if path[0].key == 'batch_stats' else 0.8
        return (centre + spread * generator.standard_normal(leaf.shape)).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(drawn, shapes(model))
    params = variables['params']
    begun = quick_jit(stage.step.optimizer.init)(params)
    state = TrainState(jnp.int32(0), params, variables['batch_stats'], begun, controller.at_rest(gamma))
    return jax.device_put(state, sharding.replicated(mesh))


@functools.cache
def shapes(net: RoutedResNet) -> Tree:
    """Shapes and types of all variables; nobody may change what is found."""
    arch = net.architecture
    image = jax.ShapeDtypeStruct((1, arch.image_size, arch.image_size, arch.image_channels), jnp.float32)
    return jax.eval_shape(lambda x: net.init(jax.random.key(0), x, execution.masked(), train=False), image)


def random_variables(net: RoutedResNet, seed: int = 0) -> Tree:
    """Variables as after training: norms that have seen data, routers with different minds about different images."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, shape: jax.ShapeDtypeStruct) -> np.ndarray:
        names = [key.key for key in path]
        if names[-1] in ('scale', 'var'):
            values = rng.uniform(0.5, 1.5, shape.shape)
        elif names[-1] == 'kernel':
            fan_in = np.prod(shape.shape[-4:-1] if 'conv' in names[-2] else shape.shape[-2:-1])
            values = rng.normal(size=shape.shape) * (4 if names[-2] == 'decide' else 1.4) / np.sqrt(fan_in)
        else:
            values = 0.3 * rng.normal(size=shape.shape)
        return values.astype(shape.dtype)

    # `jnp.asarray` would compile a program for each of their shapes.
    return jax.device_put(jax.tree_util.tree_map_with_path(draw, shapes(net)))


def without_routers(tree: Tree) -> Tree:
    if not isinstance(tree, dict):
        return tree
    return {name: without_routers(child) for name, child in tree.items() if name not in ('router', 'router_start')}


def random_images(arch: Architecture, count: int) -> jax.Array:
    rng = np.random.default_rng(1)
    images = rng.normal(size=(count, arch.image_size, arch.image_size, arch.image_channels))
    images = images * rng.uniform(0.3, 3, (count, 1, 1, 1)) + rng.normal(size=(count, 1, 1, 1))
    return jax.device_put(images.astype(np.float32))


# These networks run for milliseconds and compile for seconds: let XLA take it easy.
QUICK_OPTIONS, quick_jit = quick_runs.OPTIONS, quick_runs.quick_jit
# Three times as slow, and what two programs both compute is the same to the bit, whatever else each of them computes.
ALIKE_OPTIONS = QUICK_OPTIONS | ({'xla_cpu_use_fusion_emitters': True} if jax.__version_info__ < (0, 11) else {})
alike_jit = functools.partial(jax.jit, compiler_options=ALIKE_OPTIONS)


def noise_images(num_images: int) -> ImageSet:
    """Images of digits' shape, each of its own brightness, so that they do not all take one route."""
    generator = np.random.default_rng(0)
    pixels = generator.uniform(0, 1, (num_images, 8, 8, 1)) * generator.uniform(0, 1, (num_images, 1, 1, 1))
    labels_N = generator.integers(0, 10, num_images).astype(np.int32)
    return ImageSet((255 * pixels).astype(np.uint8), labels_N)


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Has the labels of some steps be of no class there is, as a torn batch's would: their cross-entropy is NaN."""
    healthy = ImageSet.train_batches

    def poisoned(self: ImageSet, first_step: int, *args: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for step, (images, labels) in enumerate(healthy(self, first_step, *args), start=first_step + 1):
            yield images, np.full_like(labels, 1_000_000) if step in steps else labels

    monkeypatch.setattr(ImageSet, 'train_batches', poisoned)


def by_path(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree as numpy, by slash-separated path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='/'): np.asarray(leaf) for path, leaf in leaves}


def write_workdir(path: Path, config: ConfigDict, seed: int = 6) -> Workdir:
    """A finished run of a config, as far as those that use its network can tell; its routes and classes differ."""
    workdir = Workdir(path)
    named = setup.read(config)
    with workdir.claimed(named.record):
        workdir.write_weights(random_variables(named.model, seed))
    return workdir


def hide_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process believe that TensorFlow is not installed; importing it takes longer than most tests."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name, *rest: None if name == 'tensorflow' else find_spec(name, *rest)
    )


def command(name: str, *flags: str) -> list[str]:
    return [sys.executable, '-m', f'codinet_jax.{name}', *flags]


def environment(**changes: str) -> dict[str, str]:
    """This process's variables without those that would change what a command does; what spares compiling is kept."""
    spares = ('JAX_COMPILATION_CACHE_', 'JAX_PERSISTENT_CACHE_', 'XLA_FLAGS')
    kept = {
        name: value
        for name, value in forking.own_variables().items()
        if name.startswith(spares) or not name.startswith(('JAX_', 'TFDS_', 'XLA_'))
    }
    return kept | {'JAX_PLATFORMS': 'cpu'} | changes


def start_command(name: str, *flags: str, cwd: Path = REPOSITORY, **variables: str) -> subprocess.Popen[str]:
    """A command as a process whose streams are pipes: a fork of an interpreter at hand, where the variables allow."""
    kind = forking.Fork if variables.keys() <= forking.VARIABLES else subprocess.Popen
    return kind(
        command(name, *flags),
        cwd=cwd,
        env=environment(**variables),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def assert_refused(said: Any, *words: str) -> None:
    """A command ended with status 2 and one sentence that holds these words."""
    assert (said.returncode, said.stdout) == (2, '')
    assert said.stderr.startswith('error: ') and said.stderr.count('\n') == 1, said.stderr
    assert [word for word in words if word not in said.stderr] == [], said.stderr


def run_command(name: str, *flags: str, cwd: Path = REPOSITORY, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command run to its end, from the root of the repository if nothing else is said."""
    with start_command(name, *flags, cwd=cwd, **variables) as process:
        try:
            stdout, stderr = process.communicate(timeout=600)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def all_bytes(directory: Path) -> dict[str, bytes]:
    """Every file under a directory, by relative path."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob('*') if path.is_file()}
