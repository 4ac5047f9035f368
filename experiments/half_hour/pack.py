"""Packs what a machine without a network lacks, in parts under a size limit:

    python -m experiments.half_hour.pack OUT --python=3.12 --data_dir=DIR --weights=DIR

Wheels are those of a folder (--wheels), or are fetched there as wheels.txt lists them (--python). CIFAR-10 is packed as
lossless WebP sheets of 1,000 images with their labels beside them: 1.64 KiB an image, where its PNGs take 2.31.
`unpack` puts it back. OUT/part_1, OUT/part_2 and so on each go up alone, and any of them may be unpacked first.
"""

import argparse
import io
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent
MIB = 2**20
SHEET, COLUMNS = 1000, 20  # images of a sheet, and side by side in it
CONTENTS = 'contents.json'

Item = tuple[str, bytes | pathlib.Path]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=pathlib.Path, help='A folder, made anew.')
    parser.add_argument('--wheels', type=pathlib.Path, help='A folder of wheels.')
    parser.add_argument('--python', help="Fetch the wheels of wheels.txt for this version of Linux's Python, as 3.12.")
    parser.add_argument('--weights', type=pathlib.Path, help='A folder of .npz files.')
    parser.add_argument('--data_dir', help='Where TFDS prepared CIFAR-10.')
    parser.add_argument('--made_up', type=int, default=0, help='So many random images a split instead, as a rehearsal.')
    parser.add_argument('--limit_mib', type=float, default=60.0, help='Of a part.')
    asked = parser.parse_args(arguments)
    if asked.out.exists() and (not asked.out.is_dir() or any(asked.out.iterdir())):
        sys.exit(f'{asked.out} is not empty: name a new folder.')
    if asked.python:
        asked.wheels = asked.wheels or asked.out.with_name(f'{asked.out.name}_wheels')
        fetch(asked.wheels, asked.python)
    items: list[Item] = []
    for kind, folder, ending in (('wheels', asked.wheels, 'whl'), ('weights', asked.weights, 'npz')):
        if folder:
            found = sorted(folder.glob(f'*.{ending}'))
            if not found:
                sys.exit(f'{folder} holds no *.{ending}.')
            items += [(f'{kind}/{path.name}', path) for path in found]
    splits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    if asked.made_up:
        rng = np.random.default_rng(0)
        for split in ('train', 'test'):
            pixels = rng.integers(0, 256, (asked.made_up, 32, 32, 3), np.uint8)
            splits[split] = pixels, rng.integers(0, 10, asked.made_up)
    elif asked.data_dir:
        from codinet_jax.data import datasets

        for split in ('train', 'test'):
            whole = datasets.source('cifar10', asked.data_dir).open(split)
            assert isinstance(whole, tuple)
            splits[split] = whole
    for line in pack(asked.out, items, splits, asked.limit_mib):
        print(line, flush=True)


def pack(
    out: pathlib.Path,
    items: Sequence[Item],
    splits: dict[str, tuple[np.ndarray, np.ndarray]],
    limit_mib: float = 60.0,
) -> list[str]:
    """Writes files, in this order, and then the sheets of splits into OUT/part_1 and so on; a line on each part.

    Args:
      out: a folder.
      items: names as kind/file, and what each holds: bytes, or a file to copy.
      splits: uint8 images [N, H, W, 3] and classes [N] by name.
      limit_mib: of a part.
    """
    contents = {split: {'images': len(labels), 'shape': images.shape[1:]} for split, (images, labels) in splits.items()}
    about = json.dumps(contents).encode()
    part, room, packed = 0, 0, dict[int, dict[str, list[int]]]()
    for name, held in (*items, *_sheets(splits)):
        size = len(held) if isinstance(held, bytes) else held.stat().st_size
        if size + len(about) > limit_mib * MIB:
            sys.exit(f'{name} alone is {size / MIB:.1f} MiB, and a part may be {limit_mib:g}: raise --limit_mib.')
        if not part or size > room:
            part, room = part + 1, int(limit_mib * MIB) - len(about)
            (out / f'part_{part}').mkdir(parents=True)
            (out / f'part_{part}' / CONTENTS).write_bytes(about)
        path = out / f'part_{part}' / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(held, bytes):
            path.write_bytes(held)
        else:
            shutil.copyfile(held, path)
        room -= size
        kind = name.partition('/')[0] if name.endswith(('whl', 'npz')) else 'sheets and labels'
        packed.setdefault(part, {}).setdefault(kind, []).append(size)
    return [
        f'{out}/part_{part}: {sum(map(sum, kinds.values())) / MIB:.1f} MiB: '
        + ', '.join(f'{kind} ({len(sizes)} files, {sum(sizes) / MIB:.1f} MiB)' for kind, sizes in kinds.items())
        for part, kinds in packed.items()
    ]


def sheet(images_NxHxWxC: np.ndarray) -> bytes:
    """Up to 1,000 RGB images as one lossless WebP, twenty side by side; the last row is filled up with black."""
    num_images, height, width, channels = images_NxHxWxC.shape
    rows = -(-num_images // COLUMNS)
    filled = np.zeros((rows * COLUMNS, height, width, channels), np.uint8)
    filled[:num_images] = images_NxHxWxC
    pixels = filled.reshape(rows, COLUMNS, height, width, channels).transpose(0, 2, 1, 3, 4)
    file = io.BytesIO()
    Image.fromarray(pixels.reshape(rows * height, COLUMNS * width, channels)).save(
        file, 'WEBP', lossless=True, quality=100, method=4
    )
    return file.getvalue()


def fetch(folder: pathlib.Path, python: str) -> None:
    """Wheels of wheels.txt for Linux on x86_64; what has none is made into one here, and must be pure Python."""
    platforms = [f'--platform=manylinux_2_{minor}_x86_64' for minor in (17, 24, 28)] + [
        '--platform=manylinux2014_x86_64'
    ]
    pip = [sys.executable, '-m', 'pip']
    for wanted in (HERE / 'wheels.txt').read_text().splitlines():
        if not wanted.startswith('#'):
            binary = [*pip, 'download', '-q', '--no-deps', '--only-binary=:all:', f'--python-version={python}']
            if subprocess.run([*binary, *platforms, f'--dest={folder}', wanted], capture_output=True).returncode:
                subprocess.run([*pip, 'wheel', '-q', '--no-deps', f'--wheel-dir={folder}', wanted], check=True)


def _sheets(splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> Iterator[Item]:
    for split, (images, labels) in splits.items():
        for start in range(0, len(labels), SHEET):
            file = io.BytesIO()
            np.save(file, labels[start : start + SHEET].astype(np.uint8))
            yield f'cifar/{split}_{start:05d}.npy', file.getvalue()
            yield f'cifar/{split}_{start:05d}.webp', sheet(images[start : start + SHEET])


if __name__ == '__main__':
    main()
