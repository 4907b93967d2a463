"""How everything here is measured: fresh processes, taking turns, medians and ratios.

Each contender runs in a process of its own, so that its peak memory is its own and no cache of a
predecessor helps it.  Rounds alternate, so that a busy moment of the machine hits all of them.
The clock starts after imports and stops when the result is an Arrow table.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa

Contender = Callable[[argparse.Namespace], Callable[[], Any]]


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    default = Path(tempfile.gettempdir()) / "tidemark-benchmarks"
    parser.add_argument("--data", type=Path, default=default, help="where data is kept")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="4GB", help="limit given to the engines")
    parser.add_argument("--only", nargs="*", help="contenders to run")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    return parser


def settle(value: Any) -> Any:
    """What is compared between contenders: the sum of each numeric result column."""
    if not isinstance(value, pa.Table):
        return value
    import pyarrow.compute as pc

    numeric = [
        field.name
        for field in value.schema
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    ]
    return {
        "rows": value.num_rows,
        **{name: pc.sum(value[name].cast(pa.float64())).as_py() for name in numeric},
    }


def run_one(contender: Contender, options: argparse.Namespace) -> None:
    """Run a contender in this process and print what it took."""
    job = contender(options)
    cpu, start = time.process_time(), time.perf_counter()
    result = job()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report = {"seconds": seconds, "cpu": cpu, "peak_mb": peak, "result": settle(result)}
    print(json.dumps(report, default=str))


def _child(module: str, name: str, argv: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", module, *argv, "--run", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(
    module: str,
    contenders: Mapping[str, Contender],
    options: argparse.Namespace,
    argv: Sequence[str],
    *,
    same_answer: bool = True,
) -> dict[str, list[dict[str, Any]]]:
    """Run all contenders in turn and print a table of medians; ratios are to the first one.

    With `same_answer`, the totals of their columns are compared as well.
    """
    if options.run:
        run_one(contenders[options.run], options)
        return {}
    chosen = [name for name in contenders if not options.only or name in options.only]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for _ in range(options.rounds):
        for name in chosen:
            runs[name].append(_child(module, name, argv))
    report(runs)
    if same_answer:
        agree(runs)
    return runs


def agree(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Say which contenders' totals differ from Tidemark's; a fast wrong answer is no contender."""
    ours = next((of_one[0]["result"] for name, of_one in runs.items() if name == "Tidemark"), None)
    for name, of_one in runs.items():
        for theirs in (run["result"] for run in of_one):
            if not isinstance(theirs, dict) or not isinstance(ours, dict):
                continue
            shared = [key for key in theirs if key in ours and key != "rows"]
            differ = [
                key for key in shared if not math.isclose(theirs[key], ours[key], rel_tol=1e-9)
            ]
            if differ:
                print(f"  {name}: totals differ in {', '.join(differ)}")
                break


def report(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Print medians; a ratio is to the first contender, taken round by round."""
    first = next(iter(runs.values()))
    print(f"{'':34}{'wall s':>9}{'CPU s':>9}{'ratio':>8}{'peak MB':>9}")
    for name, of_one in runs.items():
        wall, cpu, peak = (median(r[key] for r in of_one) for key in ("seconds", "cpu", "peak_mb"))
        ratio = median(a["seconds"] / b["seconds"] for a, b in zip(of_one, first, strict=True))
        print(f"{name:34}{wall:9.2f}{cpu:9.2f}{ratio:8.2f}{peak:9.0f}", flush=True)
