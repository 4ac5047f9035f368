"""The fused kernel for CPUs: against the network under masked execution, for every kind of block that it computes, and
as it is made for several processors."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

import compilers
from cifar_networks import Network, network_of
from codinet_jax.data.spec import DataSpec
from codinet_jax.inference import fused, load
from codinet_jax.inference.fused import cpu
from codinet_jax.inference.program import FUSED, on_devices, program
from codinet_jax.kernels import library
from codinet_jax.models.architecture import (
    Architecture,
    Block,
    Conv,
    Stage,
    cifar_resnet,
    first_third,
    imagenet_resnet,
    resumed,
)
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from configs import cifar100_r32, digits_r14
from experiments.measure import fused_check
from helpers import quick_jit, random_variables

pytestmark = compilers.compiled
THRESHOLD = np.float32(0.5)
SPEC = DataSpec(classes=7, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def shortened(arch: Architecture) -> Architecture:
    """Its first two stages."""
    return dataclasses.replace(arch, stages=arch.stages[:2])


NETWORKS: dict[str, Architecture] = {
    'option A': cifar_resnet(20, num_classes=7),
    'option B, of an odd size': cifar_resnet(14, num_classes=7, shortcut='projection', image_size=13),
    'smaller than a tile of pixels': cifar_resnet(14, num_classes=7, image_size=6),
    'basic blocks, after pooling': shortened(imagenet_resnet(18, num_classes=7, image_size=40)),
    'bottlenecks that stride first': shortened(imagenet_resnet(50, num_classes=7, image_size=33, stride_on='1x1')),
    'bottlenecks that stride later': shortened(imagenet_resnet(50, num_classes=7, image_size=40)),
}


WHOLE = cifar_resnet(20, num_classes=7, image_size=12)


def of_one_block(*convs: Conv) -> Architecture:
    return dataclasses.replace(WHOLE, stages=(Stage(None, Block(12, 16, convs, 'identity'), 1),))


def answers(network: Network, images: np.ndarray, threshold: Any, noise: np.ndarray | None, seed: int = 0) -> Any:
    """Of the kernel, and of the network under masked execution."""
    folded = fused_check.random_folded(network.model, seed)
    ours = jax.jit(cpu.program(*network))(cpu.pack(*network, folded), images, threshold, noise)
    return ours, quick_jit(program(*network, 'masked'))(folded, images, threshold, noise)


def assert_right(network: Network, images: np.ndarray, noise: np.ndarray | None, threshold: Any = THRESHOLD) -> Any:
    ours, masked = answers(network, images, threshold, noise)
    apart = fused_check.agreement(ours, masked, float(threshold))
    assert apart['same'] == 1 and apart['logits'] < 5e-6 and apart['v'] < 5e-6
    return ours


# --- What it computes. ---


@pytest.mark.parametrize('run_rate', [None, 0.5])
@pytest.mark.parametrize('case', NETWORKS)
def test_a_routed_network_is_computed_as_under_masked_execution(case: str, run_rate: float | None) -> None:
    network = Network(RoutedResNet(NETWORKS[case]), SPEC)
    _, v_Bxn = assert_right(network, *fused_check.random_inputs(network.model, 3, run_rate, seed=1))
    assert 0.1 < np.mean(v_Bxn >= THRESHOLD) < 0.9


@pytest.mark.parametrize('case', NETWORKS)
def test_a_static_network_is_computed(case: str) -> None:
    network = Network(RoutedResNet(NETWORKS[case], None), SPEC)
    images, _ = fused_check.random_inputs(network.model, 2, None, seed=3)
    assert (np.asarray(assert_right(network, images, None, np.float32(2))[1]) == 1).all(), 'whatever the threshold'


@pytest.mark.parametrize('run_rate', [0.0, 1.0])
def test_all_blocks_may_run_and_none(run_rate: float) -> None:
    network = Network(RoutedResNet(NETWORKS['option B, of an odd size']), SPEC)
    _, v_Bxn = assert_right(network, *fused_check.random_inputs(network.model, 2, run_rate, seed=4))
    assert (np.asarray(v_Bxn) == run_rate).all()


def test_grey_images_and_a_hundred_classes_are_told_apart() -> None:
    for config in (digits_r14, cifar100_r32):
        network = network_of(8, config=config)
        assert_right(network, *fused_check.random_inputs(network.model, 2, None, seed=5))


@pytest.mark.parametrize('processor', compilers.PROCESSORS)
def test_it_computes_the_same_as_made_for_another_processor(processor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compilers.register_for(processor, cpu, ('TARGET',), monkeypatch)
    monkeypatch.setattr(library.Library, 'register', lambda self, platform: None)
    for case in ('option A', 'bottlenecks that stride later'):
        network = Network(RoutedResNet(NETWORKS[case]), SPEC)
        assert_right(network, *fused_check.random_inputs(network.model, 2, 0.5, seed=6))


# --- Networks that answer early and resume. ---


def resuming() -> Network:
    return Network(RoutedResNet(resumed(first_third(WHOLE), WHOLE), 'resuming'), SPEC)


def test_who_is_unsure_goes_on() -> None:
    network = resuming()
    images, _ = fused_check.random_inputs(network.model, 9, None, seed=7)
    v_B = np.sort(np.asarray(answers(network, images, THRESHOLD, None)[0][1])[:, -1])
    k = np.argmax(np.diff(v_B[2:-2])) + 2
    threshold = np.float32((v_B[k] + v_B[k + 1]) / 2)
    logits_BxY, v_Bxn = (np.asarray(x) for x in assert_right(network, images, None, threshold))
    assert (v_Bxn[:, :3] == 1).all() and 2 < np.sum(v_Bxn[:, -1] >= threshold) < 7
    sure, all_go_on = (np.asarray(assert_right(network, images, None, np.float32(t))[0]) for t in (1, 0))
    goes_on_Bx1 = v_Bxn[:, -1:] >= threshold
    assert np.abs(sure - all_go_on).min(axis=1).max() > 1e-3
    np.testing.assert_array_equal(logits_BxY, np.where(goes_on_Bx1, all_go_on, sure))


def test_of_those_that_go_on_noise_dictates_which_blocks() -> None:
    network = resuming()
    assert_right(network, *fused_check.random_inputs(network.model, 9, 0.6, seed=8))


# --- How it computes. ---


def test_a_tie_runs_and_the_threshold_counts() -> None:
    network = network_of(8)
    images, _ = fused_check.random_inputs(network.model, 1, None, seed=6)
    forward = jax.jit(cpu.program(*network))
    packed = cpu.pack(*network, fused_check.random_folded(network.model))
    first = np.asarray(forward(packed, images, THRESHOLD)[1])[0, 0]
    above = np.nextafter(first, np.float32(2))
    at_first, above_first, skipped = (
        np.asarray(v_Bxn)[0, 1]
        for _, v_Bxn in (
            forward(packed, images, first),
            forward(packed, images, above),
            answers(network, images, above, None)[1],
        )
    )
    assert abs(at_first - skipped) > 1e-3
    assert abs(above_first - skipped) < 1e-6


def test_an_image_gets_the_same_answer_in_any_batch_on_any_device_after_any_network() -> None:
    """A thread's memory holds what networks before it left there."""
    small, large = network_of(8), Network(RoutedResNet(NETWORKS['bottlenecks that stride first']), SPEC)
    inputs = [fused_check.random_inputs(network.model, 16, None, seed=8)[0] for network in (small, large)]
    packed = [cpu.pack(*network, fused_check.random_folded(network.model)) for network in (small, large)]
    mesh = sharding.data_mesh()
    spread = [sharding.spread(cpu.program(*network), mesh) for network in (small, large)]
    for _ in range(2):
        for forward, weights, images, network in zip(spread, packed, inputs, (small, large), strict=True):
            together = forward(
                jax.device_put(weights, sharding.replicated(mesh)), *sharding.put(mesh, images), THRESHOLD
            )
            alone = jax.jit(cpu.program(*network))(weights, images[11:12], THRESHOLD)
            for a, b in zip(together, alone, strict=True):
                np.testing.assert_array_equal(a[11:12], b)


# --- When it is used. ---


def asked_for(network: Network, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The strategies of one image and, if it is another one, of several."""
    asked: list[str] = []

    def ready(model: RoutedResNet, spec: DataSpec, strategy: str, variables: Any) -> tuple[None, None]:
        asked.append(strategy)
        return None, None

    monkeypatch.setattr('codinet_jax.inference.program.ready', ready)
    monkeypatch.setattr('codinet_jax.inference.program.program', lambda *named: asked.append(named[-1]))
    on_devices(*network, {}, None)
    return asked


@pytest.mark.parametrize(
    ('network', 'is_default'),
    [
        (network_of(20), True),
        (network_of(20, None), True),
        (network_of(14, config=digits_r14), True),
        (Network(RoutedResNet(WHOLE, 'recurrent'), SPEC), False),
        (network_of(20, **{'model.dtype': 'bfloat16'}), False),
        (Network(RoutedResNet(imagenet_resnet(18)), SPEC), False),
    ],
    ids=['routed', 'static', 'digits', 'other routers', 'bfloat16', 'large kernels'],
)
def test_it_is_the_default_for_small_networks_in_float32(
    network: Network, is_default: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert asked_for(network, monkeypatch) == ([FUSED] if is_default else ['conditional', 'compacted'])


def refuse(path: Any) -> bool:
    raise PermissionError(13, 'Permission denied', str(path))


@pytest.mark.parametrize('lacks', ['compiler', 'cache', 'home', 'permission', 'the rest of its file'])
def test_where_it_cannot_be_built_others_answer(lacks: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / 'file').touch()
    monkeypatch.setenv('CODINET_JAX_CACHE', str(tmp_path / 'file' if lacks == 'cache' else tmp_path))
    if lacks == 'compiler':
        monkeypatch.setattr(library, 'find_compiler', lambda recipe: None)
    elif lacks == 'home':
        monkeypatch.setenv('CODINET_JAX_CACHE', '~nobody_of_this_name/cache')
    elif lacks == 'permission':  # which root is not refused
        monkeypatch.setattr(library.Path, 'exists', refuse)
    elif lacks == 'the rest of its file':
        cpu.LIBRARY._built('cpu').write_bytes(b'ELF')
    library._can_be_built.cache_clear()
    library._load.cache_clear()
    try:
        assert asked_for(network_of(8), monkeypatch) == ['conditional', 'compacted']
    finally:
        library._can_be_built.cache_clear()
        library._load.cache_clear()


def test_a_predictor_answers_by_it_as_by_any_other() -> None:
    network = network_of(8)
    variables = random_variables(network.model, 0)
    images, _ = fused_check.random_inputs(network.model, 5, None, seed=9)
    ours, other = (load.from_network(*network, variables, strategy=each)(images) for each in (None, 'masked'))
    assert fused.is_default(network.model)
    np.testing.assert_array_equal(ours.decisions_Bxn, other.decisions_Bxn)
    np.testing.assert_allclose(ours.probabilities_BxY, other.probabilities_BxY, rtol=0, atol=1e-5)


# --- What it refuses. ---


@pytest.mark.parametrize(
    ('model', 'word'),
    [
        (RoutedResNet(WHOLE, 'recurrent'), 'recurrent'),
        (RoutedResNet(dataclasses.replace(WHOLE, stem_channels=24)), 'by 16, and CIFAR ResNet-20 has 24'),
        (RoutedResNet(of_one_block(Conv(3, 16))), 'two or more convolutions'),
        (RoutedResNet(of_one_block(Conv(3, 16), Conv(5, 16))), '1x1 or 3x3; CIFAR ResNet-20 has others'),
    ],
)
def test_a_network_it_does_not_compute_is_refused_in_a_sentence(model: RoutedResNet, word: str) -> None:
    with pytest.raises(InputError, match=word) as refused:
        program_of = fused.ready(model, SPEC, {})
        assert program_of
    assert str(refused.value).endswith('.') and '\n' not in str(refused.value)


@pytest.mark.parametrize('case', ['of another network', 'cut short', 'too long', 'other images'])
def test_arrays_of_another_network_are_refused(case: str) -> None:
    network = network_of(8)
    packed = cpu.pack(*network, fused_check.random_folded(network.model))
    images, _ = fused_check.random_inputs(network.model, 1, None, seed=9)
    if case == 'other images':
        images = images[:, 1:]
    elif case == 'of another network':
        packed = cpu.pack(*network_of(14), fused_check.random_folded(network_of(14).model))
    else:
        packed['weights'] = packed['weights'][:-16] if case == 'cut short' else np.pad(packed['weights'], (0, 16))
    words = 'images are of another size' if case == 'other images' else 'weights are of another network'
    with pytest.raises(Exception, match=words):
        jax.block_until_ready(jax.jit(cpu.program(*network))(packed, images, THRESHOLD))
