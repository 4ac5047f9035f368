"""Evaluates a finished run again, on any split: `python -m codinet_jax.evaluate --workdir=runs/digits_r14`.

Prints the summary, records every image's route and those of its augmentations in WORKDIR/routes/SPLIT.npz, what the
images look like in WORKDIR/thumbnails/SPLIT.npz and the numbers in WORKDIR/evaluation_SPLIT.json. At
--operating_point=NAME or --cost=0.5 these are SPLIT_NAME and SPLIT_cost=0.5. Nothing is random: twice gives the same.

With --shuffles=3 every image is also run on the routes of others, three times on any image's and three times on one's
of its class, and WORKDIR/shuffled/SPLIT.npz keeps how often it is right there: its own route is worth the difference,
which is all that tells routing from running so many blocks.
"""

from collections.abc import Sequence

from absl import flags

from codinet_jax.runtime import command, plugins
from codinet_jax.runtime.errors import InputError
from codinet_jax.workdir import Workdir, name_of_point

WORKDIR = flags.DEFINE_string('workdir', None, 'The directory of a finished run, as runs/digits_r14.')
plugins.define_import()
SPLIT = flags.DEFINE_enum('split', 'test', ['train', 'validation', 'test'], 'The images to evaluate on.')
DATA_DIR = flags.DEFINE_string('data_dir', None, "Where the data lie, if not where the run's config says.")
OPERATING_POINT, COST = command.define_operating_point()
BATCH_SIZE = flags.DEFINE_integer('batch_size', None, "Images at a time; the run's own if not given.", lower_bound=1)
SHUFFLES = flags.DEFINE_integer(
    'shuffles', 0, "Times that images are given each other's routes, for what their own are worth.", lower_bound=0
)


def main(argv: Sequence[str]) -> None:
    del argv
    workdir = Workdir.named(WORKDIR.value)

    from codinet_jax.config import setup
    from codinet_jax.data.thumbnails import thumbnails
    from codinet_jax.evaluation.controls import worth_of_routes
    from codinet_jax.evaluation.evaluate import evaluate_weights
    from codinet_jax.evaluation.record import write_routes, write_shuffled, write_thumbnails
    from codinet_jax.evaluation.shuffled import shuffle_routes
    from codinet_jax.evaluation.statistics import readable
    from codinet_jax.inference import load
    from codinet_jax.runtime import provenance

    config = workdir.read_config()
    config.data_dir = DATA_DIR.value or config.data_dir
    config.eval_batch_size = BATCH_SIZE.value or config.eval_batch_size
    threshold = load.operating_points(workdir).threshold(OPERATING_POINT.value, COST.value)
    command.start_devices(config.eval_batch_size)
    named, variables = setup.read(config), workdir.read_weights()
    if SHUFFLES.value and named.model.router is None:
        raise InputError(f'{workdir} holds a static network, which has no routes to shuffle: leave out --shuffles.')
    split, recipe = named.data.open(SPLIT.value), named.recipe
    record, augmented, summary = evaluate_weights(
        named.evaluation_model(),
        named.data.spec,
        variables,
        split,
        batch_size=recipe.eval_batch_size,
        threshold=threshold,
        is_sampled=named.method.samples_in_evaluation,
    )
    summary |= {'split': SPLIT.value, 'threshold': threshold} | {'seed': recipe.seed} | provenance.machine()
    name = '_'.join(filter(None, (SPLIT.value, name_of_point(OPERATING_POINT.value, COST.value))))
    write_routes(workdir, name, record, augmented)
    write_thumbnails(workdir, SPLIT.value, thumbnails(split))
    workdir.write_results(summary, f'evaluation_{name}')
    print(readable(summary))
    if SHUFFLES.value:
        shuffled = shuffle_routes(
            named.evaluation_model(),
            named.data.spec,
            variables,
            split,
            record,
            times=SHUFFLES.value,
            batch_size=recipe.eval_batch_size,
            seed=recipe.seed,
        )
        write_shuffled(workdir, name, shuffled)
        for kind, label in (('all', 'any image'), ('within_class', 'images of the same class')):
            worth = worth_of_routes(record, shuffled)[kind]
            points, error = 100 * worth['difference'], 100 * worth['standard_error']
            print(f'  own routes less those of {label}: {points:+.2f} ± {error:.2f} points')
    print(f'in {workdir}')


if __name__ == '__main__':
    command.run(main)
