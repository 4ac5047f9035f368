"""The two stages of section 3.4, read top to bottom: train blocks and routers together on relaxed decisions, then
freeze the routers and train the blocks on the decisions that inference will take."""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from codinet_jax import hosts, provenance, settings, sharding
from codinet_jax.data.ahead import ahead
from codinet_jax.data.split import Split
from codinet_jax.data.thumbnails import thumbnails
from codinet_jax.errors import Diverged, InputError
from codinet_jax.models import pretrained
from codinet_jax.models.codinet import fresh_variables
from codinet_jax.record import AugmentedRecord, Record
from codinet_jax.training import hold
from codinet_jax.training import state as train_state
from codinet_jax.training.checkpoint import Checkpoints
from codinet_jax.training.evaluate import evaluate, evaluate_augmented, make_forward, summarise
from codinet_jax.training.metrics import (
    MetricWriter,
    ProgressLines,
    RunningMeans,
    first_not_finite,
    routing_warning,
    say,
)
from codinet_jax.training.signals import stop_signals
from codinet_jax.training.stages import Stage, compiled, plan
from codinet_jax.training.state import TrainState
from codinet_jax.training.step import Metrics
from codinet_jax.workdir import WeightsInput, Workdir, read_weights_file, read_weights_input

MOST_SKIPPED_IN_A_ROW = 20
MOST_UNREAD, MOST_SECONDS_UNREAD = 10, 0.2  # steps whose metrics wait on the devices

Normalisation = tuple[tuple[float, ...] | None, tuple[float, ...] | None]  # the config's mean and std


class Stopped(Exception):
    """The run was asked to stop, and has saved its state."""

    def __init__(self, step: int, signal_number: int):
        super().__init__(f'stopped and saved at step {step}; the same command goes on from there.')
        self.signal_number = signal_number


@dataclasses.dataclass
class Progress:
    """What a resumed run must know beside the train state; saved with it as JSON."""

    stage: int = 1
    step: int = 0
    top1_stage1: float | None = None
    seconds: float = 0.0
    timed_steps: int = 0  # all but those that compiled or waited for something else than a step
    timed_seconds: float = 0.0
    metrics_bytes: int = 0
    num_skipped: int = 0
    skipped_in_a_row: int = 0
    is_evaluation_due: bool = False  # a signal ended the one of this step
    window: dict[str, Any] = dataclasses.field(default_factory=dict)


def train(config: ConfigDict, workdir: Workdir) -> dict[str, Any] | None:
    """Trains, or goes on with, the run of a workdir and returns its results, on the first host alone.

    Raises:
      InputError: the config, the data or the workdir cannot be used; nothing has been written then.
      Stopped: a signal came; the state is saved.
    """
    mesh, is_first_host = sharding.data_mesh(), jax.process_index() == 0

    def normalisation() -> Normalisation:
        settings.check(config)
        settings.check_devices(config, mesh.size)
        # A network drive goes on hiding for a while what a host has once looked for in vain: the others look later.
        return _normalisation(config, workdir) if is_first_host else (None, None)

    def look() -> dict[str, Any] | None:
        if not is_first_host:
            return None
        settings.check(config)
        workdir.check(config)
        return workdir.read_results()

    config = settings.normalised_by(config, *hosts.sent_by_first(hosts.together(normalisation)))
    finished = hosts.together(look)
    if hosts.of_first(finished is not None):
        say(f'{workdir} holds a finished run.')
        return finished
    test_split = 'validation' if config.val_split else 'test'
    train_set, test_set = hosts.together(lambda: (settings.split(config, 'train'), settings.split(config, test_split)))
    imported = hosts.together(lambda: _imported(config))
    with contextlib.ExitStack() as open_files:
        hosts.together(lambda: open_files.enter_context(workdir.claimed(config)) if is_first_host else None)
        hosts.together(lambda: _check_claimed(workdir, config))
        with hosts.none_alone(Stopped, Diverged):
            run = Run(config, mesh, train_set, test_set, workdir, open_files, imported)
            record, outcome = run.both_stages()
            augmented = run.augmented()
            outcome |= {'split': test_split}
            if not is_first_host:
                return None
            workdir.write_routes(test_split, record, augmented)
            workdir.write_thumbnails(test_split, thumbnails(test_set))
            workdir.write_weights(jax.device_get(run.state.variables), _trained_on(config))
            workdir.write_results(outcome)
            return outcome


class Run:
    """A run under way: its network and data, its files, its state, and how far it is.

    Goes on from the newest checkpoint of the workdir, or starts afresh; what it opens, `open_files` closes.
    """

    def __init__(
        self,
        config: ConfigDict,
        mesh: Mesh,
        train_set: Split,
        test_set: Split,
        workdir: Workdir,
        open_files: contextlib.ExitStack,
        imported: dict[str, Any] | None,
    ):
        self.config, self.mesh, self.train_set, self.test_set = config, mesh, train_set, test_set
        self.model, self.costs = settings.trained_network(config), settings.costs(config)
        dataset = settings.dataset(config)
        self.forward = make_forward(self.model, dataset, mesh)
        self.leaning = jax.jit(hold.leaning, out_shardings=sharding.replicated(mesh))
        self.stages = plan(config, self.model, self.costs, dataset, train_set.num_images)
        self.checkpoints = open_files.enter_context(Checkpoints(workdir.checkpoints))
        saved = self.checkpoints.newest(self._abstract)
        self.progress, self.state = (Progress(**saved[0]), saved[1]) if saved else (Progress(), self._created(imported))
        self.writer = open_files.enter_context(MetricWriter(workdir, self.progress.metrics_bytes))
        self.signals = open_files.enter_context(stop_signals())
        self.window = RunningMeans(**self.progress.window)
        batches = train_set.train_batches(
            self.progress.step, config.batch_size, config.num_views, config.seed, hosts.this()
        )
        self.batches = open_files.enter_context(
            contextlib.closing(ahead(sharding.put(mesh, *batch) for batch in batches))
        )
        self._started = time.monotonic() - self.progress.seconds
        self._read_at = 0.0
        self._last_read: float | None = None
        self._last_warning: str | None = None
        self._greet(resumed=bool(saved))

    def both_stages(self) -> tuple[Record, dict[str, Any]]:
        """Section 3.4. Returns the record of the final evaluation and the run's results."""
        progress = self.progress
        for stage in self.stages[progress.stage - 1 :]:
            if stage.number > progress.stage:
                progress.stage = stage.number
                self._hold_cost()
                self.state = dataclasses.replace(self.state, opt_state=stage.step.optimizer.init(self.state.params))
            self._train(stage)
            if stage.number == 2:
                self._hold_cost()
            record, summary = self._evaluate()
            if stage.number == 1:
                progress.top1_stage1 = summary['top1']
        images = progress.timed_steps * self.config.batch_size
        return record, summary | {
            'top1_stage1': progress.top1_stage1,
            'num_params': train_state.num_params(self.state.params),
            'gamma': float(self.state.budget.gamma),
            'num_steps': progress.step,
            'num_skipped': progress.num_skipped,
            'seconds_train': time.monotonic() - self._started,
            'images_per_second': images / progress.timed_seconds if progress.timed_seconds else 0.0,
            'seed': self.config.seed,
        } | provenance.machine()

    def _train(self, stage: Stage) -> None:
        config, step_fn = self.config, compiled(stage.step, self.mesh)
        lines = ProgressLines(stage.number, self.stages[-1].end, config.batch_size)
        if self.progress.is_evaluation_due:
            self._evaluate_on_the_way()
        evaluate_every = round(config.eval_every_epochs * self.train_set.num_images / config.batch_size)
        unread: list[Metrics] = []
        # Several hosts keep step by reading: one far ahead would be asked to stop at a step that it has passed.
        most_unread = MOST_UNREAD if jax.process_count() == 1 else 1
        for done in range(self.progress.step + 1, stage.end + 1):
            self.state, metrics = step_fn(self.state, *next(self.batches))
            # Those of steps before, now that the next one is on its way: no device waits for the host. Where steps are
            # short, reading each by itself would cost the host as much as a step. The first one starts the clock.
            is_late = self._last_read is None or time.monotonic() - self._read_at > MOST_SECONDS_UNREAD
            if len(unread) >= (1 if is_late else most_unread):
                self._read(unread, stage, lines)
                unread = []
            unread.append(metrics)
            is_stopping = bool(self.signals) or self.checkpoints.is_preempted(done)
            is_evaluated = evaluate_every and done % evaluate_every == 0 and done < stage.end
            is_saved = done % config.checkpoint_every_steps == 0 or done == stage.end or is_stopping
            if is_evaluated or is_saved:
                self._read(unread, stage, lines)
                unread, self._last_read = [], None
            if is_evaluated:
                self._evaluate_on_the_way()
            if is_saved:
                self._save()
            if is_stopping:
                raise Stopped(done, self.signals[0] if self.signals else signal.SIGTERM)

    def _read(self, metrics_of_steps: Sequence[Metrics], stage: Stage, lines: ProgressLines) -> None:
        """Waits for the metrics of some steps, and counts, times and tells of these steps."""
        progress = self.progress
        for values in jax.device_get(metrics_of_steps):
            self._check_finite(values)
            progress.step += 1
            if values.get('skipped'):
                progress.num_skipped += 1
            else:
                self.window.add(values)
            if progress.step % self.config.log_every_steps == 0 or progress.step == stage.end:
                self._log(stage, lines.images_per_second)
        self._read_at = time.monotonic()
        if metrics_of_steps:
            if self._last_read is not None:
                progress.timed_steps += len(metrics_of_steps)
                progress.timed_seconds += self._read_at - self._last_read
            self._last_read = self._read_at
            lines.update(progress.step, values, progress.timed_steps, progress.timed_seconds)

    def _check_finite(self, values: Mapping[str, Any]) -> None:
        """Stops for numbers that no later step can mend, or for too many skipped steps, before any of it is saved."""
        term, progress = first_not_finite(values), self.progress
        progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if term and values.get('skipped') else 0
        if term is None or 0 < progress.skipped_in_a_row < MOST_SKIPPED_IN_A_ROW:
            return
        saved = self.checkpoints.newest_step
        kept = f'the checkpoint of step {saved} is kept' if saved else 'no checkpoint was due yet'
        many = f' for {MOST_SKIPPED_IN_A_ROW} steps in a row' if progress.skipped_in_a_row else ''
        hint = '' if progress.skipped_in_a_row else ', or skip such steps (optimizer.skip_nonfinite=True)'
        raise Diverged(
            f'Step {progress.step + 1} has a {term.replace("_", " ")} of {values[term]}{many} ({kept}): '
            f'train with a lower stage{progress.stage}.learning_rate or a warm-up{hint}, in another --workdir.'
        )

    def _log(self, stage: Stage, images_per_second: float | None) -> None:
        step, means = self.progress.step, self.window.means()
        rate = {'images_per_second': images_per_second}
        self.checkpoints.check()
        self.writer.write(step, 'train', {'stage': stage.number} | means | rate)
        self.window = RunningMeans()
        warning = routing_warning(means)
        if warning and warning != self._last_warning:
            say(f'warning: {warning}')
        self._last_warning = warning

    def augmented(self) -> AugmentedRecord:
        """What the network does with the augmentations of the images it is evaluated on."""
        return evaluate_augmented(
            self.forward,
            self.state.variables,
            self.test_set,
            self.config.eval_batch_size,
            self.mesh,
            self._stop_if_asked,
        )[1]

    def _evaluate_on_the_way(self) -> None:
        before, self.progress.is_evaluation_due = self.state, True
        try:
            if self.progress.stage == 2:
                self._hold_cost()  # the blocks go on changing what the routers see
            self._evaluate()
        except Stopped:
            self.state = before
            self._save()
            raise
        self.progress.is_evaluation_due = False

    def _stop_if_asked(self) -> None:
        """Ends an evaluation that takes longer than a person waits; one of several hosts is never asked alone."""
        if self.signals:
            raise Stopped(self.progress.step, self.signals[0])

    def _recorded(self, variables: Any, split: Split) -> Record:
        return evaluate(self.forward, variables, split, self.config.eval_batch_size, self.mesh, self._stop_if_asked)

    def _evaluate(self) -> tuple[Record, dict[str, Any]]:
        record = self._recorded(self.state.variables, self.test_set)
        summary = summarise(record, self.costs)
        self.writer.write(self.progress.step, 'evaluation', {'stage': self.progress.stage} | summary)
        say(
            f'evaluated at step {self.progress.step}: top-1 {summary["top1"]:.2%}, '
            f'K {summary["mean_path_length"]:.1f}/{summary["num_blocks"]}, {summary["num_paths"]} routes, '
            f'{summary["macs_share"]:.0%} of the static MACs'
        )
        return record, summary

    def _hold_cost(self) -> None:
        """Has hard decisions on plain images of the training set cost what is wanted, if anything is."""
        target = self.config.loss.target_cost
        if target is None or self.model.router is None:
            return
        images = self.train_set.sample(hold.NUM_IMAGES, self.config.seed)

        def cost_at(lead: float) -> float:
            record = self._recorded(self.leaning(self.state, lead).variables, images)
            return self.costs.mean_macs(record.decisions_Nxn.mean(axis=0)) / self.costs.static_macs

        lead, cost = hold.nearest_lead(cost_at, target)
        self.state = self.leaning(self.state, lead)
        say(f'routers lean {lead:+.2f} to running: hard decisions cost {cost:.1%} of {images.num_images} train images')
        if abs(cost - target) > hold.MISSED:
            say(f'warning: that is not the {target:.1%} asked for, and no lean comes nearer.')

    def _save(self) -> None:
        self.progress.seconds = time.monotonic() - self._started
        self.progress.metrics_bytes = self.writer.tell()
        self.progress.window = self.window.as_json()
        self.checkpoints.save(self.progress.step, self.state, dataclasses.asdict(self.progress))

    def _first(self, variables: dict[str, Any], stage: int = 1) -> TrainState:
        optimizer, is_averaged = self.stages[stage - 1].step.optimizer, self.config.optimizer.ema_decay > 0
        return train_state.create(variables, optimizer, self.config.loss.gamma, is_averaged=is_averaged)

    def _fresh(self) -> dict[str, Any]:
        return fresh_variables(self.model, self.config.seed)

    def _created(self, imported: dict[str, Any] | None) -> TrainState:
        variables = jax.device_get(jax.jit(self._fresh)())
        if imported is not None:
            say(self._beginning(variables, imported))
            variables = pretrained.into(variables, imported, self.config.init_from)
        return jax.jit(self._first, out_shardings=sharding.replicated(self.mesh))(variables)

    def _beginning(self, variables: dict[str, Any], imported: dict[str, Any]) -> str:
        config, dataset = self.config, settings.dataset(self.config)
        classes = pretrained.other_classes(variables, imported)
        head = f'; its head is of {classes} classes, so one of {dataset.num_classes} starts fresh' if classes else ''
        return f'starting from {config.init_from}, pixels normalised by mean {dataset.mean}, std {dataset.std}{head}'

    def _abstract(self, progress: dict[str, Any]) -> TrainState:
        """The shapes and shardings of the state that was saved with a progress."""
        everywhere = sharding.replicated(self.mesh)
        stage = Progress(**progress).stage
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
            jax.eval_shape(lambda: self._first(self._fresh(), stage)),
        )

    def _greet(self, *, resumed: bool) -> None:
        config, macs = self.config, self.costs.static_macs / 1e6
        say(
            f'{config.dataset}: {self.train_set.num_images} images to train on, '
            f'{self.test_set.num_images} to evaluate on\n'
            f'{config.model.backbone} {config.model.depth}, router {config.model.router}: '
            f'{self.costs.num_blocks} blocks, {train_state.num_params(self.state.params):,} parameters, '
            f'{macs:.2f} MMACs static\n'
            f'{config.batch_size} images x {config.num_views} views a step on {jax.device_count()} '
            f'{jax.default_backend()} device(s), stages of '
            f'{" and ".join(str(stage.end - stage.start) for stage in self.stages)} steps'
        )
        say(f'going on from step {self.progress.step}' if resumed else 'compiling the first step ...')


def _check_claimed(workdir: Workdir, config: ConfigDict) -> None:
    """Refuses hosts that do not share their workdir, or were given different configs."""
    try:
        workdir.read_config()
    except InputError as error:
        raise InputError(
            f'{workdir} is not the same directory on every host: give --workdir one they share.'
        ) from error
    workdir.check(config)


def _normalisation(config: ConfigDict, workdir: Workdir) -> Normalisation:
    """The config's mean and std; where they are unset, those of the weights to start from, if their file has any.

    A run that was begun goes on under what it recorded, even if the file is gone or another one since.
    """
    own = (config.mean, config.std)
    if config.init_from is None or own != (None, None):
        return own
    if workdir.holds_run:
        begun = workdir.read_config()
        if begun.init_from == config.init_from:
            return begun.mean, begun.std
    found = read_weights_input(config.init_from)
    if found is None:
        return own
    if len(found.mean) != settings.dataset(config).num_channels:
        raise InputError(
            f'{config.init_from} holds weights for images of {len(found.mean)} channels, and those of {config.dataset} '
            f'have {settings.dataset(config).num_channels}: give other weights to start from.'
        )
    return found.mean, found.std


def _trained_on(config: ConfigDict) -> WeightsInput | None:
    if config.mean is None:
        return None
    return WeightsInput(tuple(config.mean), tuple(config.std))


def _imported(config: ConfigDict) -> dict[str, Any] | None:
    """The weights of `config.init_from`, which fit the network, or it is said before anything is written."""
    if config.init_from is None:
        return None
    variables = read_weights_file(config.init_from)
    model = settings.network(config)
    pretrained.into(jax.eval_shape(lambda: fresh_variables(model, config.seed)), variables, config.init_from)
    return variables
