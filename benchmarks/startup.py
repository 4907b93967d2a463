"""What starting costs: import, --help, and the kernel's first compilation.

python -m benchmarks.startup
"""

from __future__ import annotations

import os
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


def seconds(command: list[str], **environment: str) -> float:
    """The wall time of a command in a fresh process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
    return time.perf_counter() - start


if __name__ == "__main__":
    options = harness.arguments(__doc__ or "").parse_args()
    runs: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(max(5, options.rounds)):
        for name, command in COMMANDS.items():
            runs[name].append(seconds(command))
    nothing = median(runs["python -c pass"])
    print(f"{'':34}{'wall ms':>9}{'above python':>14}")
    for name, times in runs.items():
        print(f"{name:34}{median(times) * 1e3:9.0f}{(median(times) - nothing) * 1e3:14.0f}")
    with tempfile.TemporaryDirectory() as empty:
        first = seconds([sys.executable, "-c", COMPILE], NUMBA_CACHE_DIR=empty)
        again = seconds([sys.executable, "-c", COMPILE], NUMBA_CACHE_DIR=empty)
    print(f"{'kernel, first compilation':34}{first * 1e3:9.0f}")
    print(f"{'kernel, from the cache':34}{again * 1e3:9.0f}")
