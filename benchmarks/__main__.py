"""Run the short benchmarks: `make bench`, or `make bench ARGS="--events 1000000"`."""

import subprocess
import sys

SHORT = [
    ["benchmarks.startup"],
    ["benchmarks.latest"],
    ["benchmarks.windows"],
    ["benchmarks.windows", "--hot"],
    ["benchmarks.online"],
    ["benchmarks.registry"],
]

if __name__ == "__main__":
    for module, *options in SHORT:
        print(f"\n{' '.join([module, *options])}", flush=True)
        subprocess.run([sys.executable, "-m", module, *options, *sys.argv[1:]], check=True)
