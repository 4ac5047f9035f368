"""Cascades: every image goes through the first of some networks, and those that it is unsure of through the next too.

The answer is the mean of the probabilities of those that were asked, as in "Wisdom of Committees" (arXiv 2012.01988),
for what the cheaper ones found costs nothing more.

The first may be a network that resumes (`models.resuming`). It answers in two steps, and its second answer is in place
of its first; every other network is one step. To whoever uses it a cascade is a routed network with a gated block for
every step but the first: v is how unsure the answer so far is, 1 less the largest probability, and the next step is
taken where v reaches the threshold. So it has a dial, is calibrated, exported, timed and served as any network is, and
a batch's unsure rows alone go on.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from codinet_jax.config import setup
from codinet_jax.data.spec import DataSpec
from codinet_jax.inference import exported, fused
from codinet_jax.inference.calibration import RUN_FORCED
from codinet_jax.inference.folding import cast, fold
from codinet_jax.inference.operating_points import OperatingPoints
from codinet_jax.inference.predictor import NetworkSpec, Predictor, Program
from codinet_jax.inference.program import FUSED, STRATEGIES, program, ready
from codinet_jax.models.fitting import fitting
from codinet_jax.models.network import RoutedResNet
from codinet_jax.runtime import sharding
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir

UNSURE = 0.1  # a threshold to begin with: the next network is asked where the likeliest class has less than 90 %


class Member(NamedTuple):
    """A network of a cascade, static or one that resumes: the network, the images it takes, and its variables."""

    model: RoutedResNet
    data_spec: DataSpec
    variables: Mapping[str, Any]

    @property
    def resumes(self) -> bool:
        return self.model.architecture.first_pass > 0


class Step(NamedTuple):
    """One answer more: whose, what it adds to an image's MACs, and what the network takes to give it alone."""

    name: str
    macs: int
    macs_alone: int


def steps(members: Sequence[Member]) -> list[Step]:
    """The answers that a cascade may give, in order: a network's one, or the two of one that resumes."""
    found = []
    for member in members:
        costs, name = member.model.costs, member.model.architecture.name
        if member.resumes:
            macs_n, is_first_n = np.asarray(costs.blocks_n), np.asarray(member.model.always_run_n)
            first, rest = costs.fixed_macs + int(macs_n[is_first_n].sum()), int(macs_n[~is_first_n].sum())
            found += [Step(name, first, first), Step(member.model.architecture.in_order.name, rest, first + rest)]
        else:
            found.append(Step(name, costs.static_macs, costs.static_macs))
    return found


def from_networks(
    members: Sequence[Member],
    *,
    threshold: float = UNSURE,
    about: Mapping[str, Any] | None = None,
    operating_points: OperatingPoints | None = None,
) -> Predictor:
    """A cascade of networks, cheapest first, on all devices; it can be exported.

    Args:
      members: two or more, of the same images and classes; all static, but that the first may be one that resumes.
      threshold: how unsure the answer to an image is, 1 less its largest probability, for the next step to be taken.
      about: the networks' settings, for the reader of what is exported.
      operating_points: what calibration found of it.

    Raises:
      InputError: they cannot be one cascade. That variables are not of their network is told by this or, where nothing
        has to be traced before, by the first answer.
    """
    spec, known = network_spec(members), operating_points or OperatingPoints()
    members = [deciding_as_a_cascade(member) for member in members]

    is_fused = [fused.is_default(member.model) for member in members]
    with _fitting(members):
        several, weights = zip(
            *(
                ready(member.model, member.data_spec, FUSED if is_one else 'compacted', member.variables)
                for member, is_one in zip(members, is_fused, strict=True)
            ),
            strict=True,
        )
    single = [
        network if is_one else program(member.model, member.data_spec, 'conditional')
        for network, member, is_one in zip(several, members, is_fused, strict=True)
    ]
    on_devices = sharding.on_devices(
        _forward(single, 'conditional', members[0]), _forward(several, 'compacted', members[0]), weights
    )

    def forward(images_BxHxWxC: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
        with _fitting(members):
            return on_devices(images_BxHxWxC, threshold)

    names = [member.model.architecture.name for member in members]

    def write(directory: str | os.PathLike[str], threshold: float) -> None:
        by_xla = [program(member.model, member.data_spec, 'compacted') for member in members]
        compacted = _forward(by_xla, 'compacted', members[0])
        numbered = {str(k): fold(member.variables) for k, member in enumerate(members)}

        def of_flat(flat: Mapping[str, jax.Array], *inputs: Any) -> Any:
            tree = traverse_util.unflatten_dict(flat, sep='/')
            return compacted(tuple(cast(tree[str(k)], member.model.dtype) for k, member in enumerate(members)), *inputs)

        means, stds = zip(*(member.data_spec.normalisation for member in members), strict=True)
        with _fitting(members):
            exported.write(
                directory,
                of_flat,
                traverse_util.flatten_dict(numbered, sep='/'),
                spec,
                threshold,
                preprocessing={'normalisation': '(pixels / 255 - mean) / std, by network', 'mean': means, 'std': stds},
                network=about or {'name': ' > '.join(names)},
                operating_points=known,
            )

    return Predictor(spec, forward, float(threshold), write, known)


@contextlib.contextmanager
def _fitting(members: Sequence[Member]) -> Iterator[None]:
    """`fitting` of each."""
    with contextlib.ExitStack() as all_of_them:
        for member in members:
            all_of_them.enter_context(fitting(member.model, member.variables))
        yield


def read_members(paths: Sequence[str | os.PathLike[str]]) -> list[Member]:
    """The networks of finished runs.

    Raises:
      InputError: there is no finished run in one of the workdirs.
    """
    members = []
    for workdir in map(Workdir, paths):
        found = setup.read(workdir.read_config())
        members.append(Member(found.model, found.data.spec, workdir.read_weights()))
    return members


def deciding_as_a_cascade(member: Member) -> Member:
    """One that resumes decides by how unsure it is and a bias: without the bias, v is how unsure it is."""
    if not member.resumes:
        return member
    params = {**member.variables['params'], 'router_start': {'bias': np.float32(0)}}
    return member._replace(variables={**member.variables, 'params': params})


def joined(mean_BxY: Any, probabilities_BxY: Any, num_before: int) -> Any:
    """The mean of one more than those that `mean_BxY` is the mean of."""
    before = np.float32(num_before)
    return (before * mean_BxY + probabilities_BxY) / (before + np.float32(1))


def network_spec(members: Sequence[Member]) -> NetworkSpec:
    """What is to be known of a cascade; its cost is a share of the last network's, alone.

    Raises:
      InputError: its networks are fewer than two, routed, of other images or classes, or not from cheap to expensive; a
        first one that resumes is as cheap as its first answer.
    """
    if len(members) < 2:
        raise InputError('A cascade is of two networks or more, cheapest first: name another.')
    first, last = members[0], members[-1]
    for k, member in enumerate(members):
        name, arch = member.model.architecture.name, member.model.architecture
        if member.model.router is not None and not (member.resumes and k == 0):
            raise InputError(
                f'{name} is routed, and a cascade is of static networks, of which the first alone may be one that '
                'resumes: train it with method=static.'
            )
        if _takes(member) != _takes(first):
            raise InputError(f'{name} is not of the images and classes of {first.model.architecture.name}.')
    macs = [steps([member])[0].macs for member in members]
    for k, (before, after) in enumerate(itertools.pairwise(macs), start=2):
        if before >= after:
            raise InputError(
                f'Network {k} of the cascade costs {after / 1e6:.2f} MMACs, and the one before it {before / 1e6:.2f}: '
                'give the cheaper ones first.'
            )
    arch, (at_first, *then) = last.model.architecture, steps(members)
    return NetworkSpec(
        classes=first.data_spec.class_names,
        image_size=arch.image_size,
        num_channels=arch.image_channels,
        center_crop=first.data_spec.center_crop,
        blocks_per_stage=(len(then),),
        blocks_macs=tuple(step.macs for step in then),
        fixed_macs=at_first.macs,
        static_macs=macs[-1],
    )


def _takes(member: Member) -> tuple[Any, ...]:
    """What all networks of a cascade must have in common."""
    arch, spec = member.model.architecture, member.data_spec
    return arch.image_size, arch.image_channels, spec.class_names, spec.center_crop


def _forward(networks: Sequence[Program], strategy: str, first_member: Member) -> Program:
    """The pure function of a cascade: of each network's weights, uint8 images and a threshold."""
    first, *others = networks

    def forward(weights: Sequence[Any], images_BxHxWxC: jax.Array, threshold: jax.Array) -> tuple[jax.Array, jax.Array]:
        execution = STRATEGIES[strategy](threshold)
        # Above one even the blocks before the first answer of one that resumes would not run.
        logits_BxY, v_Bxn = first(weights[0], images_BxHxWxC, jnp.minimum(threshold, RUN_FORCED))
        mean_BxY = jax.nn.softmax(logits_BxY)
        unsure = [v_Bxn[:, -1]] if first_member.resumes else []
        for k, (network, variables) in enumerate(zip(others, weights[1:], strict=True), start=1):
            now_B = 1 - jnp.max(mean_BxY, axis=-1)
            # Whoever went no further before is as unsure as then, and goes no further now.
            unsure.append(jnp.where(unsure[-1] >= threshold, now_B, unsure[-1]) if unsure else now_B)

            def ask(
                images: jax.Array, mean: jax.Array, network: Program = network, variables: Any = variables, k: int = k
            ) -> jax.Array:
                return joined(mean, jax.nn.softmax(network(variables, images, threshold)[0]), k)

            mean_BxY = execution.combine(ask, lambda _, mean: mean, (images_BxHxWxC, mean_BxY), unsure[-1])
        # Logits to whoever takes the softmax: what has no probability has the smallest there is.
        return jnp.log(jnp.maximum(mean_BxY, np.finfo(np.float32).tiny)), jnp.stack(unsure, axis=-1)

    return forward
