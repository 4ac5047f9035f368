"""The network that comes with the package answers at once, and its card says what it is."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import codinet_jax
import helpers
from codinet_jax.inference import shipped
from codinet_jax.runtime.errors import InputError

DIGEST = '361cd02c4399ffc3b6a3cb6aa219f48d0577cedfc6c53992ff355ca79f6c4c18'


def test_its_card_says_where_it_comes_from_and_what_it_costs() -> None:
    card, spec = shipped.read_card('cifar10'), codinet_jax.load_pretrained('cifar10').spec
    # Nine blocks are a ResNet-20's and all 27 a ResNet-56's, with a head of 64 x 10 and five 1x1 convolutions more.
    joins = 16 * 16 * 32**2 + (32 * 32 + 16 * 32) * 16**2 + (64 * 64 + 32 * 64) * 8**2
    assert spec.static_macs == 125_485_696
    assert spec.fixed_macs + sum(spec.blocks_macs[:9]) == 40_551_040 + 64 * 10
    assert spec.fixed_macs + sum(spec.blocks_macs) == 125_485_696 + 64 * 10 + joins
    assert spec.classes[3] == 'cat' and spec.image_shape == (32, 32, 3)
    about = card['about']
    assert [name.split('-')[0] for name in about['start']] == ['resnet20', 'resnet56']
    assert 'BSD-2-Clause' in about['licence']
    assert 'Copyright (c) 2018, Yerlan Idelbayev' in (shipped.DIRECTORY / 'LICENSE.txt').read_text()
    assert sum(path.stat().st_size for path in shipped.DIRECTORY.iterdir()) < 2e6


def test_its_dial_reaches_from_one_answer_to_the_other() -> None:
    predictor = codinet_jax.load_pretrained()
    squares = np.random.default_rng(5).integers(0, 256, (16, 4, 4, 3), np.uint8)
    images = squares.repeat(8, axis=1).repeat(8, axis=2)
    first, last = predictor(images, threshold=1.0), predictor(images, threshold=0.0)
    assert (first.decisions_Bxn.sum(axis=1) == 9).all() and (last.decisions_Bxn.sum(axis=1) == 27).all()
    own = predictor(images)
    goes_on_B = own.decisions_Bxn[:, -1]
    assert (goes_on_B == (first.probabilities_BxY.max(axis=1) < 0.9)).all() and 0 < goes_on_B.sum() < 16
    assert (own.labels_B == np.where(goes_on_B, last.labels_B, first.labels_B)).all()
    # A cost is read off the curve of its card.
    curve = predictor.operating_points.curve
    below, above = predictor.operating_points.threshold(cost=0.4), predictor.operating_points.threshold(cost=0.5)
    assert curve[0].threshold < above < below < 0.5 < curve[-1].threshold


def test_an_image_is_classified_with_no_run_at_hand(tmp_path: Path) -> None:
    image = np.linspace(0, 255, 40 * 50 * 3).astype(np.uint8).reshape(40, 50, 3)
    Image.fromarray(image).save(tmp_path / 'a.png')
    ran = helpers.run_command('predict', '--pretrained=cifar10', str(tmp_path / 'a.png'))
    assert ran.returncode == 0, ran.stderr
    assert 'MMACs' in ran.stdout and ' of 125.49 ' in ran.stdout
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
