"""How fast photographs become views on this machine: the training pipeline against what a plain one would do.

    python -m experiments.measure.input_rate --data_dir=../shared/tfds

For every number of views M: the pipeline, which decodes a photograph once and cuts M windows out of it, and M decodes
of it, each of one window alone. Beside them the bare decoding of the same files, which nothing that decodes outruns.
All use every core, take turns, so that a machine that slows down slows all, and are begun anew at each turn; medians.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from codinet_jax.runtime import command, optional_tensorflow
from codinet_jax.runtime.errors import InputError

DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS prepared the set, as tfrecord files.', required=True)
DATASET = flags.DEFINE_string('dataset', 'imagenet2012', 'Its name in TFDS.')
IMAGE_SIZE = flags.DEFINE_integer('image_size', 224, 'Pixels a side of a view.', lower_bound=32)
VIEWS = flags.DEFINE_list('views', '1,2,4', 'Numbers of views of each photograph.')
BATCH_SIZE = flags.DEFINE_integer('batch_size', 64, 'Photographs a batch.', lower_bound=1)
SECONDS = flags.DEFINE_float('seconds', 3.0, 'That every turn is timed for.', lower_bound=0.1)
REPEATS = flags.DEFINE_integer('repeats', 5, 'Turns of each.', lower_bound=1)
SEED = flags.DEFINE_integer('seed', 0, 'Of order and crops.', lower_bound=0)
OUTPUT = flags.DEFINE_string('output', None, 'A JSON file to write the numbers to.')

# More than any of the pipelines has in store when it is first asked.
UNTIMED_BATCHES = 5


def main(argv: Sequence[str]) -> None:
    del argv
    output = command.output_file(OUTPUT)
    if not all(number.isdecimal() and int(number) for number in VIEWS.value):
        raise InputError(f'--views is {",".join(VIEWS.value)}: give numbers from 1, as --views=1,2,4.')
    command.start_devices()

    from codinet_jax.runtime import provenance

    pipelines = _pipelines()
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in pipelines}
    for _ in range(REPEATS.value):
        for key, start in pipelines.items():
            rates[key].append(_images_per_second(start()))
    rows = []
    print(f'{"":18} {"views":>5} {"images/s":>9} {"views/s":>9}')
    for (name, num_views), measured in rates.items():
        images = statistics.median(measured)
        rows.append({'name': name, 'views': num_views, 'images_per_second': round(images, 1), 'repeats': len(measured)})
        views = (num_views, f'{images * num_views:.0f}') if num_views else ('', '')
        print(f'{name:18} {views[0]:>5} {images:9.0f} {views[1]:>9}')
    if output:
        setting = {name: flags.FLAGS[name].value for name in ('dataset', 'image_size', 'batch_size', 'seconds', 'seed')}
        output.write_text(json.dumps(setting | {'rates': rows} | provenance.machine(), indent=2) + '\n')


def _pipelines() -> dict[tuple[str, int], Callable[[], Iterator[Any]]]:
    """What is timed, by name and number of views: functions that begin it anew and yield its batches."""
    from codinet_jax.data import tfds_photographs
    from codinet_jax.data.photographs import Cut
    from codinet_jax.runtime.hosts import Host

    tf = optional_tensorflow.load()
    encoded = _encoded_images()
    train_set = tfds_photographs.open_split(DATASET.value, 'train', Path(DATA_DIR.value), Cut(IMAGE_SIZE.value))

    def pipeline(num_views: int) -> Callable[[], Iterator[Any]]:
        return lambda: train_set.train_batches(0, BATCH_SIZE.value, num_views, SEED.value, Host())

    def mapped(function: Callable[[Any, Any], Any]) -> Callable[[], Iterator[Any]]:
        images = encoded.enumerate().map(function, num_parallel_calls=tf.data.AUTOTUNE)
        return lambda: images.batch(BATCH_SIZE.value).prefetch(2).as_numpy_iterator()

    # The shape is all that leaves, because pictures of several sizes make no batch.
    bare = mapped(lambda _, image: tf.shape(tf.io.decode_jpeg(image, channels=3)))
    rows: dict[tuple[str, int], Callable[[], Iterator[Any]]] = {('decoding alone', 0): bare}
    for num_views in map(int, VIEWS.value):
        rows['pipeline', num_views] = pipeline(num_views)
        rows['a decode a view', num_views] = mapped(_a_decode_a_view(num_views))
    return rows


def _encoded_images() -> Any:
    """The training set's files, encoded, over and over."""
    import tensorflow_datasets as tfds

    from codinet_jax.data import tfds_files

    prepared = tfds_files.open_split(DATASET.value, 'train', (None, None, 3), Path(DATA_DIR.value))
    if prepared.file_format != 'tfrecord':
        raise InputError(f'{prepared.directory} holds {prepared.file_format} files: point data_dir at tfrecord files.')
    examples = prepared.builder.as_dataset(
        'train', decoders={'image': tfds.decode.SkipDecoding()}, read_config=tfds.ReadConfig(try_autocache=False)
    )
    return examples.map(lambda example: example['image']).repeat()


def _a_decode_a_view(num_views: int) -> Callable[[Any, Any], Any]:
    """The plain way to the same views: header, windows, and a decode of each and a resize of TensorFlow's."""
    from codinet_jax.data import crops

    tf = optional_tensorflow.load()

    def boxes(index: int, height: int, width: int) -> np.ndarray:
        return crops.boxes(crops.uniform(num_views, SEED.value, int(index)), height, width).astype(np.int32)

    def views(index: Any, image: Any) -> Any:
        height, width = tf.unstack(tf.io.extract_jpeg_shape(image)[:2])
        boxes_Mx4 = tf.numpy_function(boxes, [index, height, width], tf.int32)
        resized = []
        for box in tf.unstack(tf.ensure_shape(boxes_Mx4, (num_views, 4))):
            window = tf.cast(tf.io.decode_and_crop_jpeg(image, box, channels=3), tf.float32)
            view = tf.raw_ops.ResizeBilinear(images=window[None], size=[IMAGE_SIZE.value] * 2, half_pixel_centers=True)
            resized.append(tf.cast(view + 0.5, tf.uint8))
        return tf.concat(resized, axis=0)

    return views


def _images_per_second(batches: Iterator[Any]) -> float:
    for _ in range(UNTIMED_BATCHES):
        next(batches)
    num_images, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < SECONDS.value:
        num_images += len(_first(next(batches)))
    return num_images / elapsed


def _first(batch: Any) -> np.ndarray:
    return batch[0] if isinstance(batch, tuple) else batch


if __name__ == '__main__':
    command.run(main)
