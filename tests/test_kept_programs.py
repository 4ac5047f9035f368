"""The cache of what tests compiled does not grow for ever."""

import os
import time
from pathlib import Path

import kept_programs


def test_what_was_neither_read_nor_written_for_long_is_deleted(tmp_path: Path) -> None:
    now, long_ago = time.time(), time.time() - 1.01 * kept_programs.UNUSED_SECONDS
    for name, times in {
        'new': (now, now),
        'read': (now, long_ago),
        'written': (long_ago, now),
        'old': (long_ago,) * 2,
    }.items():
        (tmp_path / name).write_bytes(b'program')
        os.utime(tmp_path / name, times)
    kept_programs.forget_unused(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {'new', 'read', 'written'}
