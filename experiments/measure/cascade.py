"""Time of a cascade beside its networks alone: `python -m experiments.measure.cascade --members=runs/r20,runs/r56`.

Members are finished static runs, cheapest first, `--beside=runs/r32` are more that are no part of the cascade, and
`--routed=runs/resumed` are routed runs, which decide by a threshold of 0.5. All answer the same test images of the last
member's data set, in turns, in batches of each size; medians of turns count. `--results=FILE.json` keeps the numbers.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from codinet_jax.config import setup
from codinet_jax.inference import cascade, load
from codinet_jax.runtime import command, provenance
from codinet_jax.workdir import Workdir
from experiments.measure import report

MEMBERS = flags.DEFINE_list('members', None, 'Workdirs of finished static runs, cheapest first.', required=True)
BESIDE = flags.DEFINE_list('beside', [], 'Workdirs of other finished static runs, which are timed alone.')
ROUTED = flags.DEFINE_list('routed', [], 'Workdirs of finished routed runs, which are timed too.')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS keeps its sets.')
THRESHOLD = flags.DEFINE_float('threshold', cascade.UNSURE, 'How unsure a network is of what the next one sees.')
BATCH_SIZES = flags.DEFINE_list('batch_size', ['1', '128'], 'Images at a time.')
TURNS = flags.DEFINE_integer('turns', 15, 'Of all, for each size.', lower_bound=1)
RESULTS = flags.DEFINE_string('results', None, 'A JSON file to keep the numbers.')


def main(argv: Sequence[str]) -> None:
    del argv
    command.output_file(RESULTS)  # refused before anything is measured
    command.start_devices()
    members = cascade.read_members(MEMBERS.value)
    config = Workdir(MEMBERS.value[-1]).read_config()
    config.data_dir = DATA_DIR.value or config.data_dir
    images = setup.read(config).data.open('test').sample(2048, 0).images_NxHxWxC
    names = [f'{k}: {member.model.architecture.name}' for k, member in enumerate(members, start=1)]
    contestants: dict[str, Any] = {
        name: load.from_network(*member) for name, member in zip(names, members, strict=True)
    }
    contestants |= {
        f'beside: {each.model.architecture.name}': load.from_network(*each)
        for each in cascade.read_members(BESIDE.value)
    }
    deciding: dict[str, Any] = {f'routed: {path}': load.from_workdir(path) for path in ROUTED.value}
    deciding['cascade'] = cascade.from_networks(members, threshold=THRESHOLD.value)
    contestants |= deciding
    rows = []
    for batch_size in map(int, BATCH_SIZES.value):
        for contestant in contestants.values():
            contestant.warm_up([batch_size])
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        macs: dict[str, list[float]] = {name: [] for name in deciding}
        # A turn of one image is of many, for an image may cost twice what another does.
        num_batches = max(1, 64 // batch_size)
        for turn in range(TURNS.value):
            first = turn * num_batches * batch_size
            for name, contestant in contestants.items():
                started = time.perf_counter()
                for i in range(num_batches):
                    rows_B = (first + i * batch_size + np.arange(batch_size)) % len(images)
                    answers = contestant(images[rows_B])
                    if name in deciding:
                        macs[name].append(answers.macs_B.mean())
                seconds[name].append((time.perf_counter() - started) / num_batches)
        last = float(np.median(seconds[names[-1]]))
        for name, each in seconds.items():
            median = float(np.median(each))
            row: dict[str, Any] = {
                'batch_size': batch_size,
                'network': name,
                'seconds': median,
                'to_last': median / last,
            }
            spent = ''
            if name in deciding:
                row['mean_macs'] = float(np.mean(macs[name]))
                row['macs_share'] = row['mean_macs'] / contestants[names[-1]].spec.static_macs
                spent = f', for {row["macs_share"]:.3f} of its MACs'
            rows.append(row)
            print(
                f'batch {batch_size:4}  {name:24} {1e3 * median:8.2f} ms  {median / last:.3f} of the last alone{spent}'
            )
    numbers = {'machine': provenance.machine(), 'turns': TURNS.value, 'threshold': THRESHOLD.value, 'rows': rows}
    report.show(numbers, RESULTS.value)


if __name__ == '__main__':
    command.run(main)
