"""The two stages of section 3.4, read top to bottom: train blocks and routers together on relaxed decisions, then
freeze the routers and train the blocks on the decisions that inference will take."""

import contextlib
import dataclasses
import itertools
import signal
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import jax

from codinet_jax.config.setup import Setup
from codinet_jax.data.prefetch import prefetch
from codinet_jax.data.split import Split
from codinet_jax.data.thumbnails import thumbnails
from codinet_jax.evaluation.evaluate import EVALUATING, evaluate, evaluate_augmented, make_forward
from codinet_jax.evaluation.record import AugmentedRecord, Record, write_routes, write_thumbnails
from codinet_jax.evaluation.statistics import summarise
from codinet_jax.runtime import hosts, provenance, sharding
from codinet_jax.runtime.console import log, plural
from codinet_jax.runtime.errors import Diverged
from codinet_jax.runtime.signals import Stopped, stop_signals
from codinet_jax.runtime.waiting import first_reported, waiting
from codinet_jax.training import cost_matching, start
from codinet_jax.training import state as train_state
from codinet_jax.training.checkpoint import Checkpoints
from codinet_jax.training.metric_files import MetricWriter
from codinet_jax.training.progress import Progress, StepReader
from codinet_jax.training.stages import Stage, compiled, plan
from codinet_jax.training.state import TrainState
from codinet_jax.workdir import Workdir


def train(setup: Setup, workdir: Workdir) -> dict[str, Any] | None:
    """Trains, or goes on with, the run of a workdir and returns its results, on the first host alone.

    Raises:
      InputError: the setup, the data or the workdir cannot be used, and nothing has been written then; or, later, the
        disk refuses a file, and the checkpoints before are whole.
      Diverged: a loss or gradient is not finite; the checkpoint before it is kept.
      Stopped: a signal came; the state is saved.
    """
    is_first_host = jax.process_index() == 0

    def look() -> dict[str, Any] | None:
        if not is_first_host:
            return None
        workdir.check(setup.record)
        return workdir.read_results()

    finished = hosts.together(look)
    if hosts.of_first(finished is not None):
        log(f'{workdir} holds a finished run.')
        return finished
    train_set, test_set = hosts.together(lambda: (setup.data.open('train'), setup.data.open(setup.test_split)))
    hosts.together(lambda: setup.recipe.check_images(train_set.num_images))
    start.check_shared((train_set.num_images, test_set.num_images), setup.recipe)
    # A run that has a checkpoint goes on, though the weights it once started from are gone.
    is_begun = hosts.of_first(is_first_host and workdir.has_checkpoints)
    variables, teacher = (None, None) if is_begun else hosts.together(lambda: start.given_variables(setup, train_set))
    with contextlib.ExitStack() as open_files:
        hosts.together(lambda: open_files.enter_context(workdir.claimed(setup.record)) if is_first_host else None)
        hosts.together(lambda: start.check_claimed(workdir, setup))
        with hosts.none_alone(Stopped, Diverged):
            run = Run(setup, train_set, test_set, workdir, open_files, variables, teacher)
            run.both_stages()
            record, outcome = run.evaluated()
            augmented = run.augmented(test_set)
            outcome |= {'split': setup.test_split}
            if not is_first_host:
                return None
            write_routes(workdir, setup.test_split, record, augmented)
            write_thumbnails(workdir, setup.test_split, thumbnails(test_set))
            variables = jax.device_get(run.state.variables)
            expected = start.trained_on(setup), setup.model.architecture.stride_on, start.class_names(setup)
            workdir.write_weights(variables, *expected)
            workdir.write_results(outcome)
            return outcome


class Run:
    """A run under way: its network and data, its files, its state, and how far it is.

    Goes on from the newest checkpoint of the workdir, or starts afresh; what it opens, `open_files` closes. Without a
    workdir nothing is kept, and without a test set nothing is evaluated.
    """

    def __init__(
        self,
        setup: Setup,
        train_set: Split,
        test_set: Split | None,
        workdir: Workdir | None,
        open_files: contextlib.ExitStack,
        variables: Mapping[str, Any] | None = None,
        teacher: Mapping[str, Any] | None = None,
    ):
        self.setup, self.recipe, self.costs = setup, setup.recipe, setup.costs
        self.mesh, self.train_set, self.test_set = sharding.data_mesh(), train_set, test_set
        self.stages = plan(setup, train_set.num_images)
        self.forward = make_forward(
            setup.evaluation_model(), setup.data.spec, self.mesh, is_sampled=setup.method.samples_in_evaluation
        )
        self.checkpoints = open_files.enter_context(Checkpoints(workdir.checkpoints if workdir else None))
        saved = self.checkpoints.newest(self._abstract)
        if saved is None:
            with waiting('making the weights'):
                self.progress, self.state = Progress(), self.stages[0].placed_state(self.mesh, variables, teacher)
        else:
            self.progress, self.state = Progress(**saved[0]), saved[1]
        start.check_unchanged(self.progress.num_images, train_set.num_images)
        self.progress.num_images = train_set.num_images
        self.writer = open_files.enter_context(MetricWriter(workdir, self.progress.metrics_bytes))
        self.steps = StepReader(
            *(self.progress, self.writer, self.recipe),
            self.checkpoints.newest_written if workdir else None,
            self.checkpoints.check,
            'diversity_margin' in setup.method.settings(),
        )
        self.signals = open_files.enter_context(stop_signals()) if workdir else []
        self.batches = open_files.enter_context(contextlib.closing(self._batches()))
        self._started = time.monotonic() - self.progress.seconds
        self._evaluation: tuple[Record, dict[str, Any]] | None = None
        self._greet(resumed=bool(saved))

    def both_stages(self) -> None:
        """Section 3.4."""
        progress = self.progress
        for stage in self.stages[progress.stage - 1 :]:
            if stage.number > progress.stage:
                progress.stage = stage.number
                if stage.step.model.routers_frozen:  # else they go on learning, and from where they are
                    self.state = self.state.with_averaged_routers()
                    self._match_cost()
                self.state = stage.begun_from(self.state, self.mesh)
            self._train(stage)
            if stage.number == 2:
                self._match_cost()
            self._evaluate()
            if stage.number == 1 and self._evaluation:
                progress.top1_stage1 = self._evaluation[1]['top1']

    def evaluated(self) -> tuple[Record, dict[str, Any]]:
        """The record of the last evaluation and the run's results."""
        assert self._evaluation is not None
        record, summary = self._evaluation
        return record, summary | self._outcome()

    def augmented(self, split: Split) -> AugmentedRecord:
        """What the network does with the augmentations of images."""
        variables, batch_size = self.state.variables, self.recipe.eval_batch_size
        return evaluate_augmented(self.forward, variables, split, batch_size, self.mesh, self._stop_if_asked)[1]

    def _train(self, stage: Stage) -> None:
        recipe, steps = self.recipe, self.steps
        step_fn = first_reported(compiled(stage.step, self.mesh), f'compiling stage {stage.number}')
        steps.begin(stage.number, stage.end, self.stages[-1].end, stage.always_run_n)
        if self.progress.is_evaluation_due:
            self._pause(stage, self.progress.step)
        for done in range(self.progress.step + 1, stage.end + 1):
            batch = next(self.batches)
            if self.signals:  # which came while the batch was waited for
                self._stop(self.signals[0])
            self.state, metrics = step_fn(self.state, *batch)
            steps.add(metrics)
            is_stopping = bool(self.signals) or self.checkpoints.is_preempted(done)
            is_pausing = self._is_matched(stage, done) or self._is_evaluated(stage, done)
            is_saved = done % recipe.checkpoint_every_steps == 0 or done == stage.end
            if is_pausing or is_saved:
                steps.read_all()
            if is_pausing:
                self._pause(stage, done)
            if is_saved:
                self._save()
            if is_stopping:
                self._stop(self.signals[0] if self.signals else signal.SIGTERM)

    def _stop(self, signal_number: int) -> NoReturn:
        self.steps.read_all()
        self._save()
        raise Stopped(self.progress.step, signal_number)

    def _is_matched(self, stage: Stage, step: int) -> bool:
        """Whether the cost is matched within stage 2: the blocks go on changing what frozen routers see."""
        return (
            stage.number == 2
            and stage.step.model.routers_frozen
            and self._is_due(self.recipe.match_every_epochs, stage, step)
        )

    def _is_evaluated(self, stage: Stage, step: int) -> bool:
        return self._is_due(self.recipe.eval_every_epochs, stage, step)

    def _is_due(self, every_epochs: float, stage: Stage, step: int) -> bool:
        every = round(every_epochs * self.train_set.num_images / self.recipe.batch_size)
        return bool(every) and step % every == 0 and step < stage.end

    def _pause(self, stage: Stage, step: int) -> None:
        """What is due between two steps, so that a stop within it loses nothing."""
        before, self.progress.is_evaluation_due = self.state, True
        try:
            if self._is_matched(stage, step):
                self._match_cost()
            if self._is_evaluated(stage, step):
                self._evaluate()
        except Stopped:
            self.state = before
            self._save()
            raise
        self.progress.is_evaluation_due = False

    def _evaluate(self) -> None:
        if self.test_set is None:
            return
        record = self._recorded(self.state.variables, self.test_set)
        summary = summarise(record, self.costs)
        self.writer.write(self.progress.step, 'evaluation', {'stage': self.progress.stage} | summary)
        log(
            f'evaluated at step {self.progress.step}: top-1 {summary["top1"]:.2%}, '
            f'K {summary["mean_path_length"]:.1f}/{summary["num_blocks"]}, {plural(summary["num_paths"], "route")}, '
            f'{summary["macs_share"]:.0%} of the static MACs'
        )
        self._evaluation = record, summary

    def _match_cost(self) -> None:
        """Has hard decisions on plain images of the training set cost what is wanted, if anything is."""
        target, router = self.setup.method.target_cost, self.setup.model.router
        if target is None or router is None:
            return
        images = self.train_set.sample(cost_matching.NUM_IMAGES, self.recipe.seed)
        everywhere = sharding.replicated(self.mesh)
        shifted = jax.jit(cost_matching.shifted_state, static_argnums=1, out_shardings=everywhere)

        trials = itertools.count(1)

        def cost_at(shift: float) -> float:
            what = f'matching the cost, trial {next(trials)}'
            record = self._recorded(shifted(self.state, router, shift).variables, images, what)
            return self.costs.mean_macs(record.decisions_Nxn.mean(axis=0)) / self.costs.static_macs

        shift = cost_matching.matching_shift(cost_at, target, images.num_images)
        self.state = shifted(self.state, router, shift)

    def _recorded(self, variables: Any, split: Split, what: str = EVALUATING) -> Record:
        batch_size = self.recipe.eval_batch_size
        return evaluate(self.forward, variables, split, batch_size, self.mesh, self._stop_if_asked, what)

    def _stop_if_asked(self) -> None:
        """Ends an evaluation that takes longer than a person waits; one of several hosts is never asked alone."""
        if self.signals:
            raise Stopped(self.progress.step, self.signals[0])

    def _save(self) -> None:
        self.progress.seconds = time.monotonic() - self._started
        self.progress.metrics_bytes = self.writer.tell()
        self.progress.window = self.steps.window.as_json()
        self.checkpoints.save(self.progress.step, self.state, dataclasses.asdict(self.progress))

    def _outcome(self) -> dict[str, Any]:
        progress = self.progress
        images = progress.timed_steps * self.recipe.batch_size
        return {
            'top1_stage1': progress.top1_stage1,
            'num_params': train_state.num_params(self.state.params),
            'gamma': float(self.state.controller.gamma),
            'num_steps': progress.step,
            'num_skipped': progress.num_skipped,
            'seconds_train': time.monotonic() - self._started,
            'images_per_second': images / progress.timed_seconds if progress.timed_seconds else 0.0,
            'seed': self.recipe.seed,
        } | provenance.machine()

    def _batches(self) -> Any:
        recipe = self.recipe
        batches = self.train_set.train_batches(
            self.progress.step, recipe.batch_size, recipe.num_views, recipe.seed, hosts.this()
        )
        return prefetch(sharding.put(self.mesh, *batch) for batch in batches)

    def _abstract(self, progress: dict[str, Any]) -> TrainState:
        """The shapes and shardings of the state that was saved with a progress."""
        everywhere = sharding.replicated(self.mesh)
        stage = self.stages[Progress(**progress).stage - 1]
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
            jax.eval_shape(stage.first_state),
        )

    def _greet(self, *, resumed: bool) -> None:
        model, recipe = self.setup.model, self.recipe
        tested = f', {self.test_set.num_images} to evaluate on' if self.test_set else ''
        log(
            f'{self.setup.data.name}: {self.train_set.num_images} images to train on{tested}\n'
            f'{model.architecture.name}, router {model.router or "none"}: '
            f'{plural(self.costs.num_blocks, "block")}, {train_state.num_params(self.state.params):,} parameters, '
            f'{self.costs.static_macs / 1e6:.2f} MMACs static\n'
            f'{plural(recipe.batch_size, "image")} x {plural(recipe.num_views, "view")} a step on '
            f'{plural(jax.device_count(), jax.default_backend() + " device")}, stages of '
            f'{" and ".join(str(stage.end - stage.start) for stage in self.stages)} steps'
        )
        for sentence in recipe.never_reached():
            log(f'warning: {sentence}')
        if resumed:
            log(f'going on from step {self.progress.step}')
