"""The network that a command is about, of a run, exported, or of the package, for all commands alike.

Only what that one needs is imported, so that an exported network is used without the code of the models.
"""

from codinet_jax.inference.predictor import Predictor
from codinet_jax.runtime.command import NamedNetwork


def predictor(
    network: NamedNetwork,
    *,
    operating_point: str | None = None,
    cost: float | None = None,
    strategy: str | None = None,
) -> Predictor:
    """The network of that name, held to a threshold.

    Args:
      network: its name.
      operating_point: a name that `codinet_jax.calibrate` gave to a threshold; the network's own if not given.
      cost: what the mean image may cost instead, as a share of the static network's MACs.
      strategy: how a run's network is executed; see `load.from_network`.

    Raises:
      InputError: there is no such network, operating point or strategy, or the cost cannot be had.
    """
    if network.workdir:
        from codinet_jax.inference import load

        return load.from_workdir(network.workdir, operating_point=operating_point, cost=cost, strategy=strategy)
    if network.exported:
        from codinet_jax.inference import exported

        found = exported.load(network.exported)
    else:
        from codinet_jax.inference import shipped

        found = shipped.load_pretrained(network.pretrained or '')
    found.threshold = found.operating_points.threshold(operating_point, cost, otherwise=found.threshold)
    return found
