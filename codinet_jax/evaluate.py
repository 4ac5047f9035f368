"""Evaluates a finished run again, on any split: `python -m codinet_jax.evaluate --workdir=runs/digits_r14`.

Prints the summary, records every image's route and those of its augmentations in WORKDIR/routes/SPLIT.npz, what the
images look like in WORKDIR/thumbnails/SPLIT.npz and the numbers in WORKDIR/evaluation_SPLIT.json. Nothing is random:
twice gives the same.
"""

from collections.abc import Sequence

from absl import flags

from codinet_jax import doors

WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run is kept.')
SPLIT = flags.DEFINE_enum('split', 'test', ['train', 'validation', 'test'], 'The images to evaluate on.')
DATA_DIR = flags.DEFINE_string('data_dir', None, "Where TFDS keeps its sets, if not where the run's config says.")
BUDGET = flags.DEFINE_string('budget', None, 'A threshold that codinet_jax.calibrate found, by its name.')
BATCH_SIZE = flags.DEFINE_integer('batch_size', None, "Images at a time; the run's own if not given.", lower_bound=1)


def main(argv: Sequence[str]) -> None:
    del argv
    workdir = doors.named_workdir(WORKDIR)

    from codinet_jax import provenance, settings
    from codinet_jax.data.thumbnails import thumbnails
    from codinet_jax.training import evaluate, results

    config = workdir.read_config()
    config.data_dir = DATA_DIR.value or config.data_dir
    config.eval_batch_size = BATCH_SIZE.value or config.eval_batch_size
    threshold = workdir.read_budget(BUDGET.value)
    doors.start_devices(config.eval_batch_size)
    split = settings.split(config, SPLIT.value)
    record, augmented, summary = evaluate.evaluate_weights(config, workdir.read_weights(), split, threshold)
    summary |= {'split': SPLIT.value, 'threshold': threshold} | {'seed': config.seed} | provenance.machine()
    name = '_'.join(filter(None, (SPLIT.value, BUDGET.value)))
    workdir.write_routes(name, record, augmented)
    workdir.write_thumbnails(SPLIT.value, thumbnails(split))
    workdir.write_results(summary, f'evaluation_{name}')
    print(f'{results.readable(summary)}\nin {workdir}')


if __name__ == '__main__':
    doors.open_door(main)
