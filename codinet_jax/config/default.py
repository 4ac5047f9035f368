"""Every setting there is, at the paper's values (section 4.1) where the paper gives one.

A config takes a variant's name after a colon, and any field can be set on the command line:

    python -m codinet_jax.main --config=cifar10_r110:vanilla --config.loss.gamma=0.02
"""

import json
from collections.abc import Mapping
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from codinet_jax.methods import METHODS
from codinet_jax.runtime.errors import InputError


def get_config(variant: str = 'codinet') -> ConfigDict:
    """ResNet-110 on CIFAR-10."""
    config = ConfigDict()
    config.seed = 0
    config.method = 'codinet'  # static, random, one more of codinet_jax/methods; or of a module of --import
    config.imports = ()  # modules or files that add to what is named here; --import adds to them
    config.dataset = 'cifar10'  # digits, cifar100, svhn, imagenet2012; tfds:NAME, any of TFDS's; folder, of your own
    config.data_dir = placeholder(str)  # the folder, or where TFDS keeps its sets; unset: TFDS's own default
    # Pixels a side, of imagenet2012, a folder or tfds:NAME. Unset: 224; the images' own of tfds:NAME, if all are
    # squares of up to 96. What is unset of a folder or tfds:NAME is found there, and config.json then records it.
    config.image_size = placeholder(int)
    config.image_channels = placeholder(int)  # of these two alone, as the next two: 3 or 1; unset: 3 of a folder
    config.classes = placeholder(tuple)  # their names in the order of labels; unset: sorted of a folder
    # photographs: crops of all sizes, cut by the host, and the centre at evaluation, as of ImageNet. small: images are
    # resized, held in memory up to 2 GB, padded and cropped on the device, as of CIFAR; unset: small up to 96 pixels.
    config.views = placeholder(str)
    config.flip = placeholder(bool)  # whether views are mirrored; unset: of all but digits and svhn, so mind tfds:mnist
    config.val_split = 0.0  # share of train held out; if above 0, it is evaluated in place of the test split
    config.train_images = placeholder(int)  # the first so many of train, of a set held in memory; unset: all
    config.batch_size = 64  # L: images a step, over all devices
    config.num_views = 4  # M: augmentations of each
    config.accumulate_steps = 1  # parts that a batch is worked through in, one after another, to need less memory
    config.init_from = placeholder(str)  # weights to start from: of codinet_jax.import_weights, or a run's weights.npz
    # Of pixels in [0, 1], per channel, as (0.485, 0.456, 0.406). Unset: what the weights of init_from were trained
    # under, if their file says so, and the run's config.json then records it; else the data set's own: ImageNet's of a
    # folder and of photographs, and of small images of tfds:NAME what is measured, and recorded.
    config.mean = placeholder(tuple)  # what is taken from them
    config.std = placeholder(tuple)  # what they are divided by then

    config.model = ConfigDict()
    config.model.backbone = 'cifar_resnet'  # or imagenet_resnet
    config.model.depth = 110
    # Of router resuming, weights of a trained static network: it answers first, and is joined to that of init_from.
    config.model.resumes = placeholder(str)
    # Of the shallower network that answers first; unset: that of model.resumes, which the run's config.json then
    # records, or without it a third of each stage's blocks.
    config.model.first_depth = placeholder(int)
    config.model.shortcut = 'pad'  # of a cifar_resnet, where a block changes the shape: pad (A) or projection (B)
    config.model.stride_on = '3x3'  # of an imagenet_resnet from depth 50: the convolution that strides, 1x1 or 3x3
    # conv, recurrent; gate_unit, one_layer, independent, lstm, feedforward1 and 2, policy of other authors; random;
    # halting, exits, resuming: each of one method; static: of method static, all run.
    config.model.router = 'linear'
    config.model.dtype = 'float32'  # of convolutions and norms; bfloat16 leaves parameters, routes, losses in float32
    config.model.batch_norm = 'global'  # statistics of the whole batch; device: of as many groups as there are devices
    config.model.norm_groups = placeholder(int)  # those; unset: of the devices that a run begins on, and recorded
    # Of training: xla; simd, kernels of our own for CPUs, made by g++; cuda, on one GPU and in bfloat16. Unset: what a
    # run begins with, and recorded; simd on CPUs with g++.
    config.model.convolution = placeholder(str)
    config.model.remat = False  # blocks computed again in the backward pass, to need less memory
    config.model.unroll = placeholder(int)  # equal blocks unrolled at a time; unset: one on TPU, all elsewhere

    config.routing = ConfigDict()
    config.routing.relaxation = 'gumbel_softmax'  # softmax, sampling, gumbel_straight_through, rounded
    config.routing.temperature = 1.0
    config.routing.final_temperature = placeholder(float)  # what methods that lower it come to in stage 1; unset: same
    config.routing.noisy_evaluation = False  # whether ConvNet-AIG and stochastic gates draw decisions in evaluation too
    config.routing.curriculum = 0.5  # share of stage 1 by which a policy decides all blocks; at first only the last one
    config.routing.initial_run_rate = 0.5  # how likely an untrained router runs its block; near 1: blocks learn first

    config.loss = ConfigDict()
    config.loss.alpha = 0.2  # weight of consistency
    config.loss.beta = 0.2  # weight of diversity
    config.loss.gamma = 0.0  # weight of cost; where it starts, if there is a target cost
    config.loss.consistency_margin = 0.2
    config.loss.diversity_margin = 0.5
    config.loss.noise_free = False  # whether the routing losses are of v without noise, at temperature 1
    config.loss.rate_weight = 2.0  # of run rates off target, in methods that have a target for them
    config.loss.target_rate = 0.7  # it: of each block, of all in the mean, or of the share of static MACs, by method
    config.loss.block_rates = ()  # in its place one for each block, in methods that can; one of 1 is left out
    config.loss.one_sided = False  # whether a mean run rate below target is free, in methods that look at the mean
    config.loss.policy_weight = 1.0  # of the policy gradient, in methods that draw decisions and learn from the outcome
    config.loss.skip_reward = 0.0  # beside gamma, what these earn by skipping all blocks, if in proportion
    config.loss.wrong_penalties = (1.0, 10.0)  # what a wrong class costs those that earn by a right one, in each stage
    config.loss.entropy_weight = 0.1  # what a policy earns by the entropy of its decisions while it learns alone
    config.loss.ponder_weight = 0.01  # of a block more in a stage, in methods that halt there
    config.loss.exit_weight = 1.0  # of the cross-entropies of all heads before the last, in methods that have some
    config.loss.label_smoothing = 0.0
    config.loss.target_cost = placeholder(float)  # wanted share of static MACs: gamma adapts, stage 2 matches it
    config.loss.gamma_gain = 0.1  # how fast: gamma a step, per unit of cost off target
    config.loss.gamma_damping_steps = 100.0  # steps by which cost lags behind gamma; more damps more
    config.loss.gamma_window = 20.0  # steps over which the cost is averaged
    config.loss.gamma_max = 10.0  # where gamma stops if the target is out of reach
    config.loss.extra_terms = ()  # names of loss terms that a module of --import registers, added where routers learn
    config.loss.extra_weights = ()  # one for each

    config.distillation = ConfigDict()  # in both stages (blockdrop: in 2), from a static network's answers
    config.distillation.weight = 0.0  # of T^2 times the divergence from those, beside cross-entropy; 0: none
    config.distillation.temperature = 2.0  # T
    config.distillation.teacher = placeholder(str)  # its weights; unset: those of init_from with every block run
    config.distillation.teacher_depth = placeholder(int)  # unset: that of the file, and config.json then records it

    config.optimizer = ConfigDict()
    config.optimizer.kind = 'sgd'  # or adam, to whose gradient decay is added as well
    config.optimizer.momentum = 0.9  # of adam: its β1
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 1e-4
    config.optimizer.base_batch_size = placeholder(int)  # batch the learning rates are meant for; unset: batch_size
    config.optimizer.router_factor = 1.0  # times the learning rate: of routers
    config.optimizer.block_factor = 1.0  # times the learning rate: of stem and blocks; a head that starts fresh wants 1
    config.optimizer.ema_decay = 0.0  # above 0: weights averaged over steps are evaluated and kept
    config.optimizer.skip_nonfinite = False  # leave out steps of infinite loss or gradient, where else a run stops

    config.stage1 = ConfigDict()  # blocks and routers together, relaxed decisions (Eq. 12)
    config.stage1.epochs = 250.0
    config.stage1.learning_rate = 0.1
    config.stage1.warmup_epochs = 0.0
    config.stage1.decay = 'steps'  # at decay_epochs, by decay_factor; cosine, linear: to zero at the end of the stage
    config.stage1.decay_epochs = (150.0, 200.0)
    config.stage1.decay_factor = 0.1

    config.stage2 = ConfigDict()  # routers frozen, hard decisions, classification alone
    config.stage2.epochs = 50.0
    config.stage2.learning_rate = 0.01
    config.stage2.warmup_epochs = 0.0
    config.stage2.decay = 'steps'
    config.stage2.decay_epochs = (25.0,)
    config.stage2.decay_factor = 0.1

    config.eval_batch_size = 500
    config.eval_every_epochs = 10.0  # 0: only at the end of each stage
    config.match_every_epochs = 10.0  # of stage 2, where there is a target cost; 0: only at its start and end
    config.log_every_steps = 100
    config.checkpoint_every_steps = 1000
    config.lock()  # so that a config file cannot set a field that is not here
    return with_variant(config, variant)


def missing(config: ConfigDict) -> list[str]:
    """Settings that a config does not have, by name."""
    has = _flat(config)
    return [name for name in _flat(get_config()) if name not in has]


# Settings that are tuples of text; all others are of numbers.
TEXTS = ('imports', 'classes', 'loss.extra_terms')


def check_types(config: ConfigDict, where: str = '') -> None:
    """Refuses a value of another type than the setting's here; only what is unset here may be unset.

    Raises:
      InputError: the first such setting, by name; `where` begins the sentence.
    """
    defaults, settings = get_config(), _flat(config)
    for name, value in _flat(defaults).items():
        section, _, field = name.rpartition('.')
        given, kind = settings.get(name), (defaults[section] if section else defaults).get_type(field)
        wanted = {float: (int, float), tuple: (tuple, list)}.get(kind, (kind,))
        if given is None and value is None:
            continue
        if not isinstance(given, wanted) or isinstance(given, bool) != (kind is bool):
            like = f'like {value!r}' if value is not None else f'of type {kind.__name__}, or None'
            raise InputError(f'{where}{name} is {given!r}; it must be {like}.')
        if isinstance(given, tuple | list) and name not in TEXTS and not all(map(_is_number, given)):
            raise InputError(f'{where}{name} is {given!r}; it must be of numbers.')
    for name in sorted(settings.keys() - _flat(defaults).keys()):  # of a user's own method
        try:
            json.dumps(settings[name])
        except (TypeError, ValueError) as error:
            raise InputError(
                f'{where}{name} is a {type(settings[name]).__name__}; write numbers, texts and tuples of these, for a '
                'run keeps its config as JSON.'
            ) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _flat(config: ConfigDict) -> dict[str, Any]:
    return {
        f'{name}.{inner}' if isinstance(value, ConfigDict) else name: each
        for name, value in config.items()
        for inner, each in (value.items() if isinstance(value, ConfigDict) else ((name, value),))
    }


# What settings were called before; workdirs written then are read.
RENAMED = {'loss.gamma_lead': 'loss.gamma_damping_steps'}


def of_record(record: Mapping[str, Any]) -> ConfigDict:
    """The config that a run recorded; what the version that wrote it did not know is as it was then."""
    written = traverse_util.flatten_dict(dict(record), sep='.')
    written = {RENAMED.get(name, name): value for name, value in written.items()}
    # Evaluating was matching the cost.
    written.setdefault('match_every_epochs', written.get('eval_every_epochs', get_config().eval_every_epochs))
    router = written.get('model.router')
    if 'method' not in written and router in ('static', 'random'):
        written['method'] = router
        written |= {'loss.target_cost': None} if router == 'static' else {'routing.initial_run_rate': 0.9}
    known = traverse_util.flatten_dict(json.loads(get_config().to_json()), sep='.')
    return ConfigDict(traverse_util.unflatten_dict(known | written, sep='.'))


def variants() -> dict[str, Mapping[str, Any]]:
    """What may follow a config's name after a colon: of each, the settings that it changes, by dotted name."""
    return {name: changes for method in METHODS.values() for name, changes in method.variants.items()}


def with_variant(config: ConfigDict, variant: str) -> ConfigDict:
    """The config with a variant of a method applied.

    Raises:
      InputError: no method has one of this name.
    """
    known = variants()
    if variant not in known:
        raise InputError(f'There is no variant {variant!r}: after the colon write one of {", ".join(known)}.')
    config.update_from_flattened_dict(known[variant])
    return config
