"""A process that materializes until it is killed, or is through."""

import sys

import tidemark as tm


def main(folder: str, rate: float) -> None:
    """Wait to be told, then write a few rows at a time."""
    with tm.connect(folder) as store:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        store.materialize(rate=rate)
        sys.stdout.write("done\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
