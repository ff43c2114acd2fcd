"""What do calls in other processes cost where everybody shares one processor, and nobody sleeps?"""

from __future__ import annotations

import os

import bench_pool_arrays
import bench_pools
from harness import main

# On two processors a task wakes one of them, and how deeply that has slept decides what it takes.
# On one, whoever waits makes room for who works: what is left is the work of both sides.
ROWS = (
    bench_pools.row_empty,
    bench_pools.row_many,
    bench_pools.row_run,
    bench_pools.row_execute,
    bench_pool_arrays.row_first,
)

if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # and of all that is started
    try:
        main(__doc__, ROWS)
    finally:
        bench_pool_arrays.close()
