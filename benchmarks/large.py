"""100 M events x 1 M labels under a memory limit of 6 GiB: counts and sums over four windows.

python -m benchmarks.large               # writes 1.5 GB of data on first use; minutes
"""

from __future__ import annotations

import sys

from benchmarks import data, harness
from benchmarks.tidemark_jobs import training

CONTENDERS = {"Tidemark": lambda options: training(options, "windows", values=["amount"])}

if __name__ == "__main__":
    parser = harness.arguments(__doc__ or "")
    parser.set_defaults(events=100_000_000, rounds=1, memory="6GiB")
    options = parser.parse_args()
    data.events_file(options, values=["amount"])
    data.labels_file(options)
    harness.compare("benchmarks.large", CONTENDERS, options, sys.argv[1:])
