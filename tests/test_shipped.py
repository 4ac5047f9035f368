"""The network that comes with the package answers at once, and its card says what it is."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import codinet_jax
import helpers
from codinet_jax.inference import cascade, shipped
from codinet_jax.runtime.errors import InputError

DIGEST = '15cd30d6fafbbb05c3aceafe4edb9116eda9eb95adf625144b7ed4dd228eaadb'


def test_its_card_says_where_it_comes_from_and_what_it_costs() -> None:
    card, spec = shipped.read_card('cifar10'), codinet_jax.load_pretrained('cifar10').spec
    assert (spec.fixed_macs, spec.static_macs) == (40_551_040, 97_174_144)  # a ResNet-20's and a ResNet-44's
    assert spec.classes[3] == 'cat' and spec.image_shape == (32, 32, 3)
    assert card['threshold'] == cascade.UNSURE
    about = card['about']
    assert [name.split('-')[0] for name in about['weights']] == ['resnet20', 'resnet44']
    assert 'BSD-2-Clause' in about['licence']
    assert 'Copyright (c) 2018, Yerlan Idelbayev' in (shipped.DIRECTORY / 'LICENSE.txt').read_text()
    assert sum(path.stat().st_size for path in shipped.DIRECTORY.iterdir()) < 2e6
    held = next(row for row in about['test'] if row['threshold'] == card['threshold'])
    # Half of the second network's cost, and no less right than it.
    assert held['mmacs'] < 0.51 * 97.17 and held['top1'] >= about['alone']['CIFAR ResNet-44']['top1']


def test_an_image_is_classified_with_no_run_at_hand(tmp_path: Path) -> None:
    image = np.linspace(0, 255, 40 * 50 * 3).astype(np.uint8).reshape(40, 50, 3)
    Image.fromarray(image).save(tmp_path / 'a.png')
    ran = helpers.run_command('predict', '--pretrained=cifar10', str(tmp_path / 'a.png'))
    assert ran.returncode == 0, ran.stderr
    assert 'MMACs' in ran.stdout and ' of 97.17 ' in ran.stdout
    unknown = helpers.run_command('predict', '--pretrained=cifar11', str(tmp_path / 'a.png'))
    assert unknown.returncode == 2 and 'take one of cifar10' in unknown.stderr
    both = helpers.run_command('predict', '--pretrained=cifar10', '--workdir=runs', str(tmp_path / 'a.png'))
    assert both.returncode == 2 and '--workdir=RUN, --exported=DIRECTORY or --pretrained=cifar10' in both.stderr


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"No network called 'imagenet' comes with the package"):
        codinet_jax.load_pretrained('imagenet')


def test_its_weights_are_those_of_the_card() -> None:
    """To the bit: what was measured is what is shipped."""
    digest = hashlib.sha256((shipped.DIRECTORY / 'cifar10.npz').read_bytes()).hexdigest()
    assert digest == DIGEST
