"""PyTorch's networks, which ours are compared with, are ours: in their logits, their losses and their steps."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import helpers
from codinet_jax.config import default, setup
from codinet_jax.config.setup import Setup
from codinet_jax.data import augment
from codinet_jax.training import stages
from codinet_jax.training.state import TrainState
from configs import imagenet_r50

pytestmark = pytest.mark.torch

L, M = 8, 2


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch = pytest.importorskip('torch')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    yield


def setup_of(backbone: str, variant: str) -> Setup:
    config = default.get_config(variant) if backbone == 'cifar_resnet' else imagenet_r50.get_config(variant)
    config.model.dtype = 'float32'
    if backbone == 'cifar_resnet':
        config.model.depth = 14
    else:
        config.image_size = 32
    config.update(batch_size=L, num_views=M)
    config.loss.gamma = 0.1
    config.stage1.learning_rate = 0.01
    return setup.read(config)


@pytest.mark.parametrize(
    ('backbone', 'variant'), [('cifar_resnet', 'static'), ('cifar_resnet', 'codinet'), ('imagenet_resnet', 'static')]
)
def test_steps_lose_what_ours_lose(backbone: str, variant: str) -> None:
    import torch

    from experiments.measure import torch_network
    from experiments.measure.torch_trainer import Trainer

    named = setup_of(backbone, variant)
    arch, shape = named.model.architecture, named.data.image_shape
    stage = stages.plan(named, num_images=1000)[0]
    step, state = stage.step, jax.jit(stage.first_state)()
    variables = jax.device_get(state.variables)
    rng = np.random.default_rng(0)
    views_LxMxHxWxC = rng.integers(0, 256, (L, M, *shape), np.uint8)
    labels_L = rng.integers(0, arch.num_classes, L)
    noise_LxMxnx2 = rng.gumbel(size=(L, M, arch.num_blocks, 2)).astype(np.float32)

    trainer = Trainer(named, torch.device('cpu'))
    torch_network.load(trainer.network, arch, variables['params'], variables['batch_stats'])
    theirs = [torch.from_numpy(x) for x in (views_LxMxHxWxC.reshape(-1, *shape), labels_L)]
    noise = torch.from_numpy(noise_LxMxnx2.reshape(L * M, -1, 2))

    @jax.jit
    def ours(state: TrainState) -> tuple[TrainState, jax.Array]:
        gradient, batch_stats, metrics, _ = step.gradient(
            state, jnp.asarray(views_LxMxHxWxC), jnp.asarray(labels_L), jnp.asarray(noise_LxMxnx2)
        )
        updates, opt_state = step.optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state), metrics['loss']

    # An untrained ResNet-50's gradient on a few small images is off by 3 % in either's float32, against float64.
    for _ in range(3 if backbone == 'cifar_resnet' else 1):
        state, loss = ours(state)
        assert float(trainer.step_on(*theirs, noise)) == pytest.approx(float(loss), rel=1e-4)


def test_views_are_crops_and_mirrors_as_ours_are() -> None:
    import torch

    from experiments.measure.torch_trainer import Trainer

    trainer, size, padding = Trainer(setup_of('cifar_resnet', 'static'), torch.device('cpu')), 32, 4
    views = trainer.views().numpy().reshape(L, M, size, size, 3)
    corners = [(row, column) for row in range(2 * padding + 1) for column in range(2 * padding + 1)]
    corners_Lxmx2 = jnp.broadcast_to(jnp.asarray(corners), (L, len(corners), 2))
    crops = np.asarray(augment.crops_at(jnp.asarray(trainer.images.numpy()), corners_Lxmx2, padding))
    for image in range(L):
        known = [each.tobytes() for crop in crops[image] for each in (crop, crop[:, ::-1])]
        assert all(view.tobytes() in known for view in views[image])
    assert len({view.tobytes() for view in views.reshape(-1, size, size, 3)}) > L


def test_forwards_are_compared_in_processes_of_their_own(tmp_path: Path) -> None:
    output = tmp_path / 'found.json'
    flags = ('--apart', '--batch_sizes=1,4', '--repeats=1', '--compile_limit=20', f'--output={output}')
    ended = run_experiment('experiments.measure.compare_pytorch', *flags)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(output.read_text())
    assert max(found['pytorch']['agreement'].values()) < 1e-4
    timed = {(row['variant'], row['batch_size']) for row in found['pytorch']['rows'] if 'failed' not in row}
    assert timed >= {(name, size) for name in ('static', 'gathered', 'gathered_by_numbers') for size in (1, 4)}
    assert {row['variant'] for row in found['ours']['rows']} >= {'static', 'compacted'}
    assert [found[side]['ending'] for side in ('reference', 'pytorch', 'ours')] == ['done'] * 3


def test_forwards_are_compared_in_turns(tmp_path: Path) -> None:
    output = tmp_path / 'found.json'
    flags = ('--noapart', '--batch_sizes=4', '--repeats=1', f'--output={output}')
    ended = run_experiment('experiments.measure.compare_pytorch', *flags)
    assert ended.returncode == 0, ended.stderr
    assert len(json.loads(output.read_text())[0]['median_seconds']) == 4


def test_steps_are_timed(tmp_path: Path) -> None:
    output = tmp_path / 'found.json'
    flags = ('--repeats=1', '--variants=eager', f'--output={output}')
    ended = run_experiment('experiments.measure.torch_training', *flags)
    assert ended.returncode == 0, ended.stderr
    (row,) = json.loads(output.read_text())['rows']
    assert row['variant'] == 'eager'
    assert row['seconds']['step'] > 0


def test_what_fails_or_takes_too_long_is_told_of_and_costs_nothing_else() -> None:
    from experiments.measure import torch_measure

    def fail() -> dict[str, float]:
        raise RuntimeError('no such kernel\nand so on')

    def last_for_ever() -> dict[str, float]:
        while True:
            time.sleep(0.01)

    assert torch_measure.attempt(60, fail) == {'failed': 'RuntimeError: no such kernel'}
    assert torch_measure.attempt(0.2, last_for_ever)['failed'].startswith('stopped after')
    assert torch_measure.attempt(60, lambda: {'found': 1.0}) == {'found': 1.0}


def run_experiment(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    environment = helpers.environment(CUDA_VISIBLE_DEVICES='')
    command = [sys.executable, '-m', name, *helpers.tiny_flags(), *flags]
    return subprocess.run(command, cwd=helpers.REPOSITORY, env=environment, text=True, capture_output=True, timeout=600)
