"""What starting costs: import, --help, and the kernel's first compilation.

python -m benchmarks.startup
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks import harness

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import tidemark": [sys.executable, "-c", "import tidemark"],
    "tidemark --help": [str(Path(sys.executable).with_name("tidemark")), "--help"],
    "import tidemark.kernel": [sys.executable, "-c", "import tidemark.kernel"],
}
COMPILE = "import tidemark.kernel; tidemark.kernel.warm()"


def seconds(command: list[str], **environment: str) -> tuple[float, float]:
    """The wall and CPU time of a command in a fresh process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def line(name: str, runs: list[tuple[float, float]]) -> None:
    """Print the medians of some runs in milliseconds."""
    wall, cpu = (median(run[i] for run in runs) * 1e3 for i in (0, 1))
    print(f"{name:34}{wall:9.0f}{cpu:9.0f}", flush=True)


if __name__ == "__main__":
    options = harness.arguments(__doc__ or "").parse_args()
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(max(5, options.rounds)):
        for name, command in COMMANDS.items():
            runs[name].append(seconds(command))
    print(f"{'':34}{'wall ms':>9}{'CPU ms':>9}")
    for name, times in runs.items():
        line(name, times)
    with tempfile.TemporaryDirectory() as empty:
        for name in ("kernel, first compilation", "kernel, from the cache"):
            line(name, [seconds([sys.executable, "-c", COMPILE], NUMBA_CACHE_DIR=empty)])
