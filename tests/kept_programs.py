"""What tests compiled, as JAX's compilation cache keeps it on disk: what was not used for long is deleted.

JAX would keep a cache below a size, but takes a lock for each look into it, and reads all entries for each it adds.
"""

import contextlib
import time
from pathlib import Path

UNUSED_SECONDS = 14 * 24 * 3600


def forget_unused(directory: Path) -> None:
    """Deletes what was last read, or written where drives do not note reading, so long ago; it is compiled again."""
    for entry in directory.iterdir():
        with contextlib.suppress(OSError):  # another run has been here
            used = entry.stat()
            if max(used.st_atime, used.st_mtime) < time.time() - UNUSED_SECONDS:
                entry.unlink()
