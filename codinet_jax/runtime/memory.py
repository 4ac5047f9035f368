"""Memory of a process that computes on a CPU, which is kept, and in large pages.

XLA:CPU asks malloc for the buffers of every call and frees them after it. glibc gets what is large from the kernel each
time, and the kernel fills it with zeros, page by page of 4 KiB, as it is first written to. In training that is a third
of the time.
"""

import ctypes
import functools
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h
_MADV_HUGEPAGE = 14  # of Linux's mman.h
LARGE_PAGE = 1 << 21


@functools.cache
def keep() -> None:
    """From now on what is freed is used again, of one heap, in large pages where Linux has them; elsewhere nothing.

    The process keeps as much memory as it had at its peak. Half of the machine's memory is set aside as addresses,
    which take none.
    """
    if not sys.platform.startswith('linux'):
        return
    libc = ctypes.CDLL(None)
    if not hasattr(libc, 'mallopt') or not hasattr(libc, 'gnu_get_libc_version'):
        return
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for setting, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1)):
        libc.mallopt(setting, value)
    size = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') // 2
    heap = libc.malloc(size)
    if heap:
        begin = -(-heap // LARGE_PAGE) * LARGE_PAGE
        libc.madvise(begin, (heap + size - begin) // LARGE_PAGE * LARGE_PAGE, _MADV_HUGEPAGE)
        libc.free(heap)
