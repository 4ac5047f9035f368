"""What is known of trained networks before a gate is trained; nothing is trained here.

`python -m experiments.real_accuracy.audit --full=resnet32.npz --cheap=resnet20.npz --data_dir=DIR --output=DIR`

Writes audit_FULL.json, .md and .png: (a) cascades of all networks given, (b) accuracy without blocks, alone and in
greedy order, norms re-estimated, (c) the share of views that are wrong under each augmentation, (d) how well what a
router reads tells, by depth, which images the cheap network alone gets wrong, (e) accuracy with gates drawn by chance.
Each part is kept in the cache when it is done, so that the same command goes on where it was stopped; --parts=ad makes
some of them alone.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from codinet_jax.runtime import command, files, provenance
from codinet_jax.runtime.errors import InputError
from experiments.real_accuracy import audit_report, cascade, images, kept, networks, ordering, probing, questions
from experiments.real_accuracy.progress import log

FLAGS = flags.FLAGS


def main(argv: Sequence[str]) -> None:
    del argv
    cache, output = pathlib.Path(FLAGS.cache), pathlib.Path(FLAGS.output)
    settings = {name: FLAGS[name].value for name in OF_NUMBERS}
    settings['others'] = [pathlib.Path(path).stem for path in FLAGS.others]
    kept.check_weights(cache, [FLAGS.full, FLAGS.cheap, *FLAGS.others])
    full, cheap = (_probe(path) for path in (FLAGS.full, FLAGS.cheap))
    if cheap.costs.static_macs >= full.costs.static_macs:
        raise InputError(f'{FLAGS.cheap} costs no less than {FLAGS.full}: give the cheaper network to --cheap.')
    name = full.start.name
    test = images.read('test', FLAGS.data_dir, cache).part(slice(FLAGS.test_images))
    train = images.read('train', FLAGS.data_dir, cache)
    log(f'{name} and {cheap.start.name}, {len(test.labels_N)} test images')

    def part(letter: str, find: Callable[[], Any]) -> Any:
        kept = cache / f'audit_{name}_{cheap.start.name}_{letter}.json'
        return _kept(kept, settings, find) if letter in FLAGS.parts else None

    def cascades() -> Any:
        given = [FLAGS.cheap, FLAGS.full, *FLAGS.others]
        cascade.ask_all(given, FLAGS.data_dir, cache, FLAGS.test_images, FLAGS.calibration, FLAGS.batch)
        asked = [cascade.read(cascade.answers_of(path, cache)) for path in given]
        alone = [{'name': each.name, 'macs': each.macs, 'accuracy': each.accuracy} for each in asked]
        return {'alone': alone, 'pairs': cascade.table(asked)}

    norm_views = probing.views(train.part(slice(FLAGS.norm_images)), 'crop')
    few = test.part(slice(FLAGS.block_test_images))
    place_n = ordering.places_n(cache, full.start, train, FLAGS.order_images)
    order = ordering.read(cache, full.start.name, FLAGS.order_images)
    log('the order of blocks is known')
    found: dict[str, Any] = {
        'drawn_gates': part('e', lambda: questions.drawn_gates(full, test, FLAGS.seed)),
        'without_blocks': part('b', lambda: questions.without_blocks(full, place_n, order, norm_views, few)),
    }
    subject = questions.subject(full, cheap, place_n, norm_views)
    seen = train.part(slice(FLAGS.seen_images))
    found['rung'] = {'blocks': subject.rung_n.tolist(), 'macs': full.costs.mean_macs(subject.rung_n)}
    found['wrong_views'] = part('c', lambda: questions.wrong_views(subject, seen, test))
    fitted_on = train.part(slice(FLAGS.fit_images))
    found['foretold'] = part('d', lambda: questions.foretold(subject, fitted_on, FLAGS.fit_views, test))
    found['cascades'] = part('a', cascades)
    found = {part: value for part, value in found.items() if value is not None}
    about = (
        {'full': name, 'cheap': cheap.start.name, 'settings': settings} | {'seed': FLAGS.seed} | provenance.machine()
    )
    audit_report.write(output / f'audit_{name}', about | found)
    print(audit_report.markdown(about | found))


def _probe(path: str) -> probing.Probe:
    return probing.Probe(networks.read(path), FLAGS.batch)


def _kept(path: pathlib.Path, settings: dict[str, Any], find: Callable[[], Any]) -> Any:
    """What was found before under these settings, or is found now and kept."""
    if path.exists() and (kept := json.loads(path.read_text()))['settings'] == settings:
        log(f'{path.name} is there')
        return kept['found']
    found = find()
    files.write(path, lambda file: file.write(files.json_bytes({'settings': settings, 'found': found})))
    log(f'{path.name} is done')
    return found


OF_NUMBERS = (
    *('seed', 'test_images', 'block_test_images', 'order_images', 'norm_images', 'seen_images', 'fit_images'),
    *('fit_views', 'calibration'),
)

if __name__ == '__main__':
    flags.DEFINE_string(
        'full', None, 'The network whose blocks are looked at, as import_weights writes it.', required=True
    )
    flags.DEFINE_string('cheap', None, 'A cheaper one, whose errors are to be foretold.', required=True)
    flags.DEFINE_string('parts', 'abcde', 'Which of (a) to (e), as ad.')
    flags.DEFINE_list('others', [], 'More networks, for cascades alone.')
    flags.DEFINE_string('data_dir', None, 'Where TFDS prepared CIFAR-10; not needed once the cache holds it.')
    flags.DEFINE_string('cache', 'runs/real_accuracy/cache', 'What is kept of the parts, and shared with other runs.')
    flags.DEFINE_string('output', 'runs/real_accuracy', 'Where the audit goes.')
    flags.DEFINE_integer('seed', 0, 'Of the gates that are drawn.')
    flags.DEFINE_integer('test_images', 10_000, 'Images of test, from the first.')
    flags.DEFINE_integer('block_test_images', 10_000, 'Of these, on which networks without blocks are tested.')
    flags.DEFINE_integer('order_images', 2048, 'Augmented training images that the order of blocks is found on.')
    flags.DEFINE_integer('norm_images', 1000, 'Training images that norms are re-estimated on, in one batch.')
    flags.DEFINE_integer('seen_images', 5000, 'Training images of which wrong views are counted.')
    flags.DEFINE_integer('fit_images', 10_000, 'Training images that logistic fits see,')
    flags.DEFINE_integer('fit_views', 2, 'each in so many strongly augmented views.')
    flags.DEFINE_integer('calibration', 2500, 'Training images that thresholds of cascades are also set on.')
    flags.DEFINE_integer('batch', 500, 'Images at a time.')
    command.run(main)
