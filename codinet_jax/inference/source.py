"""Which network a command is about: a run's, an exported one, or one that comes with the package.

Only what that one needs is imported, so that an exported network is used without the code of the models.
"""

from collections.abc import Sequence

from codinet_jax.inference.predictor import Predictor
from codinet_jax.runtime import files


def predictor(
    *,
    workdir: str | None = None,
    exported: str | None = None,
    pretrained: str | None = None,
    imports: Sequence[str] = (),
    operating_point: str | None = None,
    cost: float | None = None,
    strategy: str | None = None,
) -> Predictor:
    """The network that one of the first three names, held to a threshold.

    Args:
      workdir: of a finished run.
      exported: a directory that `codinet_jax.export` or `cascade` wrote.
      pretrained: the name of a network of the package.
      imports: modules or files that the run's routers and the like are from.
      operating_point: a name that `codinet_jax.calibrate` gave to a threshold; the network's own if not given.
      cost: what the mean image may cost instead, as a share of the static network's MACs.
      strategy: how a run's network is executed; see `load.from_network`.

    Raises:
      InputError: there is no such network, operating point or strategy, or the cost cannot be had.
    """
    if workdir:
        from codinet_jax.config import plugins

        plugins.load(imports)

        from codinet_jax.inference import load

        return load.from_workdir(workdir, operating_point=operating_point, cost=cost, strategy=strategy)
    if exported:
        from codinet_jax.inference import exported as exported_files

        found = exported_files.load(exported)
    else:
        from codinet_jax.inference import shipped

        found = shipped.load_pretrained(pretrained or '')
    found.threshold = found.operating_points.threshold(operating_point, cost, otherwise=found.threshold)
    return found


def name(*, workdir: str | None = None, exported: str | None = None, pretrained: str | None = None) -> str:
    """What that network is called: its directory's name, or its own."""
    return pretrained or files.expanded(exported or workdir or '').absolute().name
