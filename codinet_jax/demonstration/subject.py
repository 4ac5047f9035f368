"""The network that a page is about, with what is known of it besides: its curve, its images, the names of its parts."""

import dataclasses
import math

from codinet_jax.demonstration.examples import Examples, read_examples
from codinet_jax.inference import shipped
from codinet_jax.inference.operating_points import Point
from codinet_jax.inference.predictor import Predictor
from codinet_jax.runtime.command import NamedNetwork
from codinet_jax.runtime.console import plural
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir

NO_RUN = 'Images by their routes are shown of a run: give its --workdir.'


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a page is about.

    `members` are the names of a cascade's networks, where they are known. The `curve` was measured on what
    `measured_on` says. Of images at hand there are `examples`, or a sentence says why there are none.
    """

    name: str
    predictor: Predictor
    members: tuple[str, ...]
    curve: tuple[Point, ...]
    measured_on: str
    examples: Examples | str


def subject(predictor: Predictor, network: NamedNetwork) -> Subject:
    """A network, which a command was given under this name.

    Raises:
      InputError: what its workdir holds cannot be read.
    """
    name = network.name
    if network.pretrained:
        return _of_package(name, predictor)
    curve = predictor.operating_points.curve
    if not network.workdir:
        return Subject(name, predictor, (), curve, 'the images that it was calibrated on', NO_RUN)
    run = Workdir(network.workdir)
    return Subject(name, predictor, (), curve, _calibrated_on(run), _examples(run, predictor))


def _of_package(name: str, predictor: Predictor) -> Subject:
    about = shipped.read_card(name)['about']
    curve = [
        Point(each['threshold'], 1e6 * each['mmacs'] / predictor.spec.static_macs, each['top1'], math.nan)
        for each in about['test']
    ]
    curve.sort()
    members = tuple(about['name'].split(' > '))
    return Subject(name, predictor, members, tuple(curve), f"{name}'s test images", NO_RUN)


def _calibrated_on(run: Workdir) -> str:
    found = run.read_cost_curve()
    if found.get('num_images') is None or found.get('split') is None:
        return 'the images that it was calibrated on'
    return f'{plural(found["num_images"], "image")} of the {found["split"]} split'


def _examples(run: Workdir, predictor: Predictor) -> Examples | str:
    try:
        return read_examples(run, predictor.spec)
    except InputError as error:  # the page can do without
        return str(error)
