"""A streaming service: watching is pushed as it happens, one call gives what a prompt needs.

`make recommender` runs it from the root of the repository.  The project is the template that
`tidemark init --template recommender` writes, as it is.  It runs on the embedded store, then, with
one line of `tidemark.toml` changed, on Redis behind the HTTP service; it exits with 1 if a value, a
status or an age differs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from examples.printing import console, facts, heading, note, percentiles, timed, verdict
from examples.processes import own_redis, serving
from pyarrow import parquet

import tidemark as tm
from tidemark.client import Client

SERVICE, KNOWN, NEWCOMER = "recommend", "u1", "newcomer"
LIVE = 50
"""Plays that are pushed one by one, each followed by a read."""

COMMENTED = '# online = "redis://localhost:6379/0"'
"""The line of the template's tidemark.toml that moves it to Redis."""

SHOWN = ("user_segment", "watch_count_30d", "last_genre", "user_context")

Answer = dict[str, tuple[Any, str, timedelta | None]]
"""The value, the status and the age of each feature."""


def main(redis: str | None = None) -> int:
    """Run the example; 1 if embedded and Redis disagree.  `redis` is the address of one to use."""
    console.print("[bold]Tidemark[/]  What a prompt should know of who is watching right now.")
    with TemporaryDirectory(prefix="recommender-") as folder:
        project = make(Path(folder) / "project")
        moment, answers = embedded(project)
        server = own_redis(Path(folder)) if redis is None else nullcontext(redis)
        with server as url:
            if url is None:
                note("There is no redis-server here, so that is all.")
                return 0
            return 0 if on_redis(project, url, moment, answers) else 1


def make(project: Path) -> Path:
    """Let `tidemark init` write the template."""
    heading("1", "Project", "tidemark init --template recommender")
    command = [sys.executable, "-m", "tidemark", "init", str(project), "--template", "recommender"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own
    files = sorted(path for path in project.rglob("*") if path.is_file())
    facts(("files", ", ".join(str(path.relative_to(project)) for path in files)))
    return project


def embedded(project: Path) -> tuple[datetime, dict[str, Answer]]:
    """Apply, materialize, push and read in this process; gives a moment, and all answers at it."""
    heading("2", "Embedded", "LMDB in the project's folder, nothing else to run")
    with tm.connect(project) as store:
        store.apply(store.plan(), reason="The example")
        written, seconds = timed(store.materialize)
        facts(("state", f"{written.entities} rows from {written.events:,} events, {seconds:.1f} s"))
        tell("before", store.online(SERVICE, {"user_id": KNOWN}))
        store.push("watch", (project / "data" / "late.ndjson").read_bytes())
        known = store.online(SERVICE, {"user_id": KNOWN})
        tell("after a push", known)
        details(known)

        heading("3", "As it happens", f"{LIVE} plays, pushed one by one, a read after each")
        follow(project, "live", lambda play: store.push("watch", [play]), reads_of(store))
        newcomer = {"user_id": NEWCOMER}
        tell("a new user", store.online(SERVICE, newcomer))
        store.push("watch", [play_of(project, "first", NEWCOMER)])
        tell("at once", store.online(SERVICE, newcomer))
        tell(
            "in an hour", store.online(SERVICE, newcomer, at=datetime.now(UTC) + timedelta(hours=1))
        )
        note("The last genre follows each event; the count moves by the full hour (step=).")
        moment = datetime.now(UTC)
        return moment, {user: read(store, user, moment) for user in users(project)}


def on_redis(project: Path, url: str, moment: datetime, answers: Mapping[str, Answer]) -> bool:
    """Change the line, and ask the same over HTTP; whether all answers are the same."""
    heading("4", "Redis", "the same project, one line of tidemark.toml changed")
    settings = project / "tidemark.toml"
    line = f'online = "{url}"'
    before = settings.read_text("utf-8")
    settings.write_text(before.replace(COMMENTED, line), "utf-8")
    with tm.connect(project) as store:
        written, seconds = timed(store.materialize)
    facts(
        ("changed", line),
        ("state", f"{written.entities} rows, from history and what was pushed, {seconds:.1f} s"),
    )
    with serving(project) as address, Client(address, timeout=60) as client:
        again = {user: read(client, user, moment) for user in answers}
        values = [(answers[user][name], again[user][name]) for user in answers for name in SHOWN]
        differing = sum(embedded != redis for embedded, redis in values)
        facts(
            ("over HTTP", "tidemark serve, tidemark.client"),
            ("compared", f"{len(values)} values, statuses and ages of {len(answers)} users"),
            ("differ", verdict(differing)),
        )
        follow(project, "http", lambda play: client.push("watch", [play]), reads_of(client))
        tell(KNOWN, client.online(SERVICE, {"user_id": KNOWN}))
    return not differing


def follow(
    project: Path,
    name: str,
    push: Callable[[dict[str, Any]], object],
    genre: Callable[[str], str],
) -> None:
    """Push plays of now one by one; the next read of each user must know of it."""
    pushes: list[float] = []
    reads: list[float] = []
    known = 0
    for number in range(LIVE):
        play = play_of(project, f"{name}{number}", f"u{2 + number % 38}", seed=number)
        pushes.append(timed(lambda play=play: push(play))[1])
        last, seconds = timed(lambda play=play: genre(play["user_id"]))
        reads.append(seconds)
        known += last == play["genre"]
    facts(
        ("push", f"{percentiles(pushes)}; durable when it returns"),
        ("read", percentiles(reads)),
        ("seen", f"{known} of {LIVE} by the very next read"),
    )
    if known < LIVE:
        raise SystemExit("A play that was pushed is not in the next read.")


def play_of(project: Path, play_id: str, user: str, seed: int = 0) -> dict[str, Any]:
    """Somebody begins to watch one of the titles of the history, now."""
    titles = parquet.read_table(project / "data" / "watched", columns=["title", "genre"])
    chosen = titles.slice(int(np.random.default_rng(seed).integers(len(titles))), 1).to_pylist()[0]
    return {"play_id": play_id, "user_id": user, **chosen, "watched_at": datetime.now(UTC)}


def users(project: Path) -> list[str]:
    """All users of the history, the newcomer, and one whom nobody knows."""
    told = parquet.read_table(project / "data" / "segments.parquet", columns=["user_id"])
    return [*sorted(told["user_id"].unique().to_pylist()), NEWCOMER, "nobody"]


def reads_of(source: tm.Store | Client) -> Callable[[str], str]:
    """What tells the last genre of a user."""
    return lambda user: source.online(SERVICE, {"user_id": user})["last_genre"]


def read(source: tm.Store | Client, user: str, moment: datetime) -> Answer:
    """All that one call tells of a user at a moment."""
    vector = source.online(SERVICE, {"user_id": user}, at=moment)
    return {name: (vector[name], str(vector.status(name)), vector.age(name)) for name in vector}


def tell(when: str, vector: Any) -> None:
    """Print the line for the prompt."""
    facts((when, f"[bold]{vector['user_context']}[/]"))


def details(vector: Any) -> None:
    """Print the values behind the line, and how old each is."""
    rows = [
        ("", name, repr(vector[name]), str(vector.status(name)), f"{vector.age(name)} old")
        for name in SHOWN[:-1]
    ]
    facts(*rows)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
