"""The network that a page is about, with what is known of its curve and its images."""

import dataclasses

from codinet_jax.demonstration.examples import Examples, read_examples
from codinet_jax.inference.predictor import Predictor
from codinet_jax.runtime.command import NamedNetwork
from codinet_jax.runtime.console import plural
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir

CALIBRATED_ON = 'the images that it was calibrated on'
NO_RUN = 'Images by their routes are shown of a run: give its --workdir.'


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a page is about.

    Its curve was measured on what `measured_on` says. Of images at hand there are `examples`, or a sentence says why
    there are none.
    """

    name: str
    predictor: Predictor
    measured_on: str
    examples: Examples | str


def subject(predictor: Predictor, network: NamedNetwork) -> Subject:
    """A network, which a command was given under this name.

    Raises:
      InputError: what its workdir holds cannot be read.
    """
    name = network.name
    if not network.workdir:
        calibrated_on = f"{name}'s test images" if network.pretrained else CALIBRATED_ON
        return Subject(name, predictor, calibrated_on, NO_RUN)
    run = Workdir(network.workdir)
    return Subject(name, predictor, _calibrated_on(run), _examples(run, predictor))


def _calibrated_on(run: Workdir) -> str:
    found = run.read_cost_curve()
    if found.get('num_images') is None or found.get('split') is None:
        return CALIBRATED_ON
    return f'{plural(found["num_images"], "image")} of the {found["split"]} split'


def _examples(run: Workdir, predictor: Predictor) -> Examples | str:
    try:
        return read_examples(run, predictor.spec)
    except InputError as error:  # the page can do without
        return str(error)
