"""Weights that torchvision and timm publish: found by name in their caches, fetched if it is allowed, else refused."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import helpers
from codinet_jax.models import hub, weights_file
from codinet_jax.runtime.errors import InputError

NO_NETWORK = dict.fromkeys(('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'), 'http://127.0.0.1:9')


def refusal(source: str, *, may_download: bool = False) -> str:
    with pytest.raises(InputError) as refused:
        hub.find(source, may_download=may_download)
    assert '\n' not in str(refused.value)
    return str(refused.value)


def test_a_name_has_the_library_before_it_and_all_else_is_a_file() -> None:
    assert hub.is_name('timm:resnet18') and hub.is_name('torchvision:resnet50.IMAGENET1K_V1')
    assert not any(map(hub.is_name, ('timm', 'resnet18', 'weights:2.pth', '/timm:/net.pth', 'timm/resnet18.pth')))


@pytest.mark.parametrize('library', ['torchvision', 'timm'])
@pytest.mark.parametrize(
    ('name', 'near'),
    [
        ('resnet512', ['resnet152', 'resnet50']),
        ('resnext50_32x4d.a1_in1k', ['resnet50']),
        ('', ['resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152']),
        ('vit_base', ['resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152']),
    ],
)
def test_a_network_that_we_do_not_have_is_answered_with_near_ones(library: str, name: str, near: list[str]) -> None:
    told = refusal(f'{library}:{name}')
    assert told.startswith(f'{library}:{name} names no network that we have: give one like ')
    assert all(f'{library}:{each}' in told for each in near), told


@pytest.mark.parametrize(('library', 'module'), [('torchvision', 'torchvision.models'), ('timm', 'timm')])
def test_a_library_that_is_not_there_is_to_be_installed(
    library: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # importing it now fails as if it were not there
    told = refusal(f'{library}:resnet18')
    assert told.startswith(f'{module} cannot be imported (')
    assert told.endswith(f'): pip install {library}, or give --source a file.')


# --- With the libraries themselves; the weights are random, and lie where theirs would. ---


@pytest.fixture
def torchvision_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one, and no way out."""
    pytest.importorskip('torchvision')
    for name, value in NO_NETWORK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    return tmp_path / 'torch' / 'hub' / 'checkpoints'


def assert_same_weights(one: Path, other: Path) -> None:
    left, right = (helpers.by_path(weights_file.read(path)) for path in (one, other))
    assert left.keys() == right.keys() and len(left) > 20
    for name in left:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def imported(source: str | Path, output: Path, *flags: str, **variables: str) -> str:
    ended = helpers.run_command('import_weights', f'--source={source}', f'--output={output}', *flags, **variables)
    assert (ended.returncode, ended.stderr) == (0, ''), ended.stderr
    return ended.stdout


@pytest.mark.torch
def test_torchvisions_weights_are_those_of_the_file_in_its_cache(torchvision_cache: Path, tmp_path: Path) -> None:
    import torch
    from torchvision import models

    file = torchvision_cache / 'resnet18-f37072fd.pth'
    file.parent.mkdir(parents=True)
    torch.save(models.resnet18().state_dict(), file)
    said = imported('torchvision:resnet18', tmp_path / 'by_name.npz')
    assert said.startswith('torchvision:resnet18.IMAGENET1K_V1: ResNet-18, 11.69 M parameters, 1000 classes\n')
    imported(file, tmp_path / 'by_file.npz')
    assert_same_weights(tmp_path / 'by_name.npz', tmp_path / 'by_file.npz')
    found = weights_file.read_input(tmp_path / 'by_name.npz')
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    assert found == (mean, std, 'torchvision:resnet18.IMAGENET1K_V1', sha256)
    assert [path.name for path in torchvision_cache.iterdir()] == [file.name]


@pytest.mark.torch
def test_torchvisions_weights_are_fetched_only_where_that_is_allowed(
    torchvision_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import models

    source, path = 'torchvision:resnet50.IMAGENET1K_V2', torchvision_cache / 'resnet50-11ad3fa6.pth'
    for name in ('torchvision:resnet50', source, 'torchvision:resnet50.DEFAULT'):
        assert refusal(name) == f'{source} is not in the cache ({path}): give --download to fetch it.'
    assert not torchvision_cache.exists()
    assert refusal(source, may_download=True).startswith(f'{source} cannot be fetched (')
    assert list(torchvision_cache.iterdir()) == []

    elsewhere = tmp_path / f'resnet50-{hashlib.sha256(b"weights").hexdigest()[:8]}.pth'
    elsewhere.write_bytes(b'weights')
    weights: Any = models.ResNet50_Weights.IMAGENET1K_V2.value
    monkeypatch.setattr(weights, 'url', elsewhere.as_uri())
    found = hub.find(source, may_download=True)
    assert found.path == torchvision_cache / elsewhere.name and found.path.read_bytes() == b'weights'
    found.path.unlink()
    elsewhere.write_bytes(b'other weights')
    assert 'invalid hash value' in refusal(source, may_download=True)
    assert list(torchvision_cache.iterdir()) == []


@pytest.mark.torch
def test_weights_that_torchvision_does_not_publish_are_answered_with_near_ones(torchvision_cache: Path) -> None:
    told = refusal('torchvision:resnet50.IMAGENET1K_V3')
    assert told.startswith(
        'torchvision publishes no weights resnet50.IMAGENET1K_V3: give one like torchvision:resnet50.'
    )
    assert 'torchvision:resnet50.IMAGENET1K_V1' in told and 'torchvision:resnet50.IMAGENET1K_V2' in told
    assert 'torchvision:resnet18.IMAGENET1K_V1' in refusal('torchvision:resnet18.IMAGENET1K_V2')


@pytest.mark.torch
def test_timms_weights_are_those_of_the_file_in_its_cache(tmp_path: Path) -> None:
    """Of weights that are not normalised as ImageNet's are: timm says so, and the file is told."""
    timm, safetensors = pytest.importorskip('timm'), pytest.importorskip('safetensors.torch')
    tag = 'resnet34.ra4_e3600_r224_in1k'
    repository = tmp_path / 'hub' / f'models--timm--{tag}'
    file = repository / 'snapshots' / 'c0ffee' / 'model.safetensors'
    for path, name in ((file, ''), (repository / 'refs' / 'main', 'c0ffee')):
        path.parent.mkdir(parents=True)
        path.write_text(name)
    safetensors.save_file(timm.create_model('resnet34', num_classes=2).half().state_dict(), file)
    variables = NO_NETWORK | {'HF_HUB_CACHE': str(tmp_path / 'hub')}
    said = imported(f'timm:{tag}', tmp_path / 'by_name.npz', **variables)
    assert said.startswith(f'timm:{tag}: ResNet-34, ')
    imported(file, tmp_path / 'by_file.npz')
    assert_same_weights(tmp_path / 'by_name.npz', tmp_path / 'by_file.npz')
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    halves = (0.5, 0.5, 0.5)
    assert weights_file.read_input(tmp_path / 'by_name.npz') == (halves, halves, f'timm:{tag}', sha256)
    imported(f'timm:{tag}', tmp_path / 'own.npz', '--mean=0.25,0.25,0.25', **variables)
    assert weights_file.read_input(tmp_path / 'own.npz') == ((0.25,) * 3, halves, f'timm:{tag}', sha256)


@pytest.mark.torch
@pytest.mark.parametrize(
    ('source', 'flags', 'told'),
    [
        (
            'timm:resnet18',
            (),
            'timm:resnet18.a1_in1k is not in the cache (timm/resnet18.a1_in1k in {}): give --download',
        ),
        ('timm:resnet18', ('--download',), 'timm:resnet18.a1_in1k cannot be fetched ('),
        (
            'timm:resnet18.a1_in1',
            (),
            'timm publishes no weights resnet18.a1_in1: give one like timm:resnet18.a1_in1k, ',
        ),
    ],
    ids=['not allowed', 'offline', 'unknown'],
)
def test_timms_weights_are_fetched_only_where_that_is_allowed(
    source: str, flags: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    pytest.importorskip('timm')
    variables = NO_NETWORK | {'HF_HUB_CACHE': str(tmp_path / 'hub'), 'HF_HUB_OFFLINE': '1'}  # or it tries for long
    ended = helpers.run_command(
        'import_weights', f'--source={source}', f'--output={tmp_path}/output.npz', *flags, **variables
    )
    *_, last = ended.stderr.splitlines()  # the client may warn before it gives up
    assert ended.returncode == 2 and last.startswith(f'error: {told.format(tmp_path / "hub")}'), ended.stderr
    assert not list(tmp_path.rglob('*.npz')) and not list(tmp_path.rglob('*.safetensors'))
