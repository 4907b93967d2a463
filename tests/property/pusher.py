"""A process that pushes until it is killed, and says on its output what was acknowledged."""

import random
import sys
from datetime import UTC, datetime, timedelta

import tidemark as tm


def main(folder: str, name: str, seed: int) -> None:
    """Wait to be told, then push events `NAME-0`, `NAME-1`, ... in batches of any size."""
    with tm.connect(folder) as store:
        store.events.catch_up()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
        chance = random.Random(seed)
        number = 0
        while True:
            batch = [f"{name}-{number + i}" for i in range(chance.choice([1, 1, 3, 50]))]
            number += len(batch)
            store.push("order", [an_event(chance, order) for order in batch])
            sys.stdout.write(" ".join(batch) + "\n")
            sys.stdout.flush()


def an_event(chance: random.Random, order: str) -> dict[str, object]:
    """An event of somebody, of any moment."""
    return {
        "order": order,
        "user_id": chance.choice(["ada", "bob", "cyd"]),
        "shop": chance.choice([1, 2]),
        "amount": chance.choice([0.1, 0.2, 1e17, -1e17]),
        "status": chance.choice(["paid", "open"]),
        "at": datetime.now(UTC) - timedelta(seconds=chance.randrange(7_200)),
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
