"""Training from Python: arrays in, a state out, as the loop of commands trains; and what does not fit is refused."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import codinet_jax as cj
import helpers
from codinet_jax.methods import terms
from codinet_jax.methods.method import Seen, Term
from codinet_jax.models import routers
from codinet_jax.models.network import RoutedResNet
from codinet_jax.models.routers import RouterKind
from codinet_jax.runtime.errors import Diverged, InputError
from codinet_jax.training import cost_matching

SPEC = cj.DataSpec(classes=10, mean=0.3, std=0.4, crop_padding=1)
IMAGES = helpers.noise_images(64)
SMALL: dict[str, Any] = {'batch_size': 16, 'num_views': 2}


def trainer(method: Any = None, router: str | None = 'linear', **recipe: Any) -> cj.Trainer:
    return cj.Trainer(
        helpers.tiny_network(router), SPEC, method or cj.methods.CoDiNet(), learning_rate=0.05, **SMALL | recipe
    )


@pytest.mark.long
def test_a_network_is_trained_by_both_stages_to_the_cost_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_matching, 'NUM_IMAGES', 64)
    state = trainer(cj.methods.CoDiNet(target_cost=0.6)).fit(IMAGES, epochs=(1, 1))
    assert state.step == 8
    network = helpers.tiny_network()
    record, augmented, summary = cj.evaluate_weights(network, SPEC, state.variables, tuple(IMAGES), batch_size=64)
    assert summary['macs_share'] == pytest.approx(0.6, abs=0.02)
    answers = cj.predictor(network, SPEC, state.variables).in_batches(IMAGES.images_NxHxWxC, 64)
    assert np.mean(answers.decisions_Bxn == record.decisions_Nxn) > 0.99
    assert augmented.augmented_decisions_AxNxn.shape == (4, 64, 4)


def test_training_starts_from_given_variables() -> None:
    static = jax.device_put(helpers.random_variables(helpers.tiny_network(None)), jax.devices()[0])
    state = trainer(seed=3).fit(IMAGES, epochs=(0, 0), variables=static)
    found, given = helpers.by_path(state.variables), helpers.by_path(static)
    assert given.keys() < found.keys()
    for path, leaf in given.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def test_a_static_network_teaches_one_that_resumes() -> None:
    network = RoutedResNet(helpers.suited(helpers.tiny_architecture(), 'resuming'), 'resuming', unroll=2)
    static = jax.tree.map(np.asarray, helpers.random_variables(network.static))
    taught = cj.Trainer(network, SPEC, cj.methods.Resumed(), distillation_weight=1.0, **SMALL)
    state = taught.fit(IMAGES, epochs=(0, 0), teacher=static)
    jax.tree.map(np.testing.assert_array_equal, state.teacher, static)
    with pytest.raises(InputError, match=r'and a network that resumes does not teach: give fit a static one as teach'):
        taught.fit(IMAGES, variables=state.variables)
    with pytest.raises(InputError, match=r'^A teacher is given, and distillation_weight is 0'):
        trainer().fit(IMAGES, teacher=static)


def test_what_cannot_teach_is_refused_in_words_of_no_file_and_no_config() -> None:
    static = helpers.random_variables(helpers.tiny_network(None))
    params, taught = dict(static['params']), trainer(distillation_weight=1.0)
    del params['stem_conv']
    with pytest.raises(
        InputError, match=r'^What is to teach does not fit .*/stem_conv/.* is missing in it and float32'
    ):
        taught.fit(IMAGES, teacher={**static, 'params': params})
    params = static['params'] | {'head': {'kernel': np.ones((8, 7), np.float32), 'bias': np.ones(7, np.float32)}}
    with pytest.raises(InputError, match=r'nothing to teach a network of 10: .*, or leave distillation out\.$'):
        taught.fit(IMAGES, teacher={**static, 'params': params})


def test_of_a_loss_that_diverges_nothing_is_advised_that_only_a_command_has() -> None:
    of_static = cj.Trainer(helpers.tiny_network(None), SPEC, cj.methods.Static(), learning_rate=1e30, **SMALL)
    advice = r': give the Trainer a lower learning_rate, or skip such steps \(skip_nonfinite=True\)\.$'
    with pytest.raises(Diverged, match=r'^Step [23] has a .* of (nan|inf|-inf)' + advice):
        of_static.fit(IMAGES, epochs=(1, 0))


def test_a_networks_own_convolution_is_kept() -> None:
    own = functools.partial(jax.lax.conv_general_dilated, precision='highest')
    network = helpers.tiny_network().clone(convolution=own)
    setup = cj.Trainer(network, SPEC, cj.methods.CoDiNet(), **SMALL)._setup((1, 1))
    assert setup.training_model().convolution is own and setup.evaluation_model().convolution is own


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r'^CoDiNet trains networks with routers; this one has router None'):
        trainer(router=None)
    with pytest.raises(InputError, match=r"^CoDiNet does not train router 'exits': give the network another, or take"):
        trainer(router='exits')
    with pytest.raises(InputError, match=r"^ACT does not train router 'linear': give the network halting, or take"):
        trainer(cj.methods.ACT())
    for name in ('init_from', 'resumes', 'teacher'):
        with pytest.raises(
            InputError, match=f'^A Trainer reads no files, and {name} names one: give fit the variables'
        ):
            cj.Trainer(helpers.tiny_network(), SPEC, cj.methods.CoDiNet(), **{name: 'weights.npz'})
    with pytest.raises(InputError, match=r'^The network has 10 classes and the data 3'):
        cj.Trainer(helpers.tiny_network(), cj.DataSpec(3, 0.3, 0.4), cj.methods.CoDiNet())
    rgb = cj.DataSpec(10, (0.3, 0.3, 0.3), 0.4)
    with pytest.raises(InputError, match=r'^mean is \(0\.3, 0\.3, 0\.3\), and images of the network have 1 channel'):
        cj.Trainer(helpers.tiny_network(), rgb, cj.methods.CoDiNet())
    with pytest.raises(InputError, match=r'^std is \(0\.4, 0\.4\), and images of the network have 1 channel'):
        cj.predictor(helpers.tiny_network(), cj.DataSpec(10, 0.3, (0.4, 0.4)), {})
    with pytest.raises(InputError, match=r'^batch_size 16 in 1 part\(s\) cannot be divided evenly into 3 groups'):
        cj.Trainer(helpers.tiny_network().clone(norm_groups=3), SPEC, cj.methods.CoDiNet(), **SMALL).fit(IMAGES)
    with pytest.raises(InputError, match=r'^Images are float64 \[64, 8, 8, 1\]: give uint8 \[N, 8, 8, 1\]'):
        cj.evaluate_weights(helpers.tiny_network(), SPEC, {}, (IMAGES[0] / 255, IMAGES[1]))
    with pytest.raises(
        InputError, match=r"are untrained: give .* a Trainer's fit the variables of a static network\.$"
    ):
        trainer(cj.methods.BlockDrop(), 'policy').fit(IMAGES)
    with pytest.raises(InputError, match='an image that skips every block costs'):
        trainer(cj.methods.CoDiNet(target_cost=0.001)).fit(IMAGES)
    monkeypatch.setitem(routers.ROUTERS, 'unbiased', RouterKind(routers.LinearRouter, lambda block: 0, bias=None))
    with pytest.raises(InputError, match=r"target_cost is 0\.6, but router 'unbiased' has no bias to meet it with"):
        trainer(cj.methods.CoDiNet(target_cost=0.6), 'unbiased').fit(IMAGES)
    with pytest.raises(InputError, match=r'^Images are uint8 \[64, 4, 8, 1\]: give uint8 \[N, 8, 8, 1\]'):
        trainer().fit(cj.ImageSet(IMAGES.images_NxHxWxC[:, ::2], IMAGES.labels_N))
    with pytest.raises(InputError, match='Labels go from 0 to 10, and there are 10 classes'):
        trainer().fit(cj.ImageSet(IMAGES.images_NxHxWxC, np.arange(64) % 11))


def test_a_loss_term_may_not_take_the_place_of_the_methods_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(terms.TERMS, 'consistency', lambda seen: jnp.zeros(()))
    both = terms.extended(lambda seen: {'consistency': Term(seen.cross_entropy)}, {'consistency': 1.0})
    seen: Any = Seen(None, jnp.zeros(1), 1, None, jnp.zeros(()), jnp.ones(()))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has a loss term 'consistency' already"):
        both(seen)


def test_the_face_of_the_library_is_all_there() -> None:
    assert all(getattr(cj, name) is not None for name in cj.__all__) and set(cj.__all__) <= set(dir(cj))
    with pytest.raises(AttributeError, match='no attribute'):
        cj.nothing  # noqa: B018
    assert jax.tree.leaves(cj.methods.METHODS)
