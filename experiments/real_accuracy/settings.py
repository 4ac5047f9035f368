"""The flags that the commands of this package share."""

from absl import flags

flags.DEFINE_string('data_dir', None, 'Where TFDS prepared CIFAR-10; not needed once the cache holds it.')
flags.DEFINE_string('cache', 'runs/real_accuracy/cache', 'What runs share: images, soft targets, orders of blocks.')
flags.DEFINE_list('teachers', [], 'Static networks whose mean logits are distilled; none means the start itself.')
flags.DEFINE_integer('pool', 32, 'Views of each image to draw from; half of them have a square cut out.')
flags.DEFINE_integer('cut', 12, 'Pixels a side of that square.')
flags.DEFINE_integer('train_images', 50_000, 'Images of train, from the first.')
flags.DEFINE_integer('teacher_batch', 5000, 'Images at a time; a divisor of train_images.')
