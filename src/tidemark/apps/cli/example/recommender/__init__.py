"""What people watch: nightly segments, plays of the past, and one that is reported late."""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random
from typing import Any

ABOUT = "a streaming service, with live events and a line for a prompt"
COMMANDS = (
    "tidemark plan",
    "tidemark apply --yes",
    "tidemark materialize",
    "tidemark online recommend --key user_id=u1",
    "tidemark push watch data/late.ndjson",
    "tidemark online recommend --key user_id=u1",
    "tidemark train recommend --labels data/labels.parquet --out training.parquet",
)
_DAYS = 40
_USERS = 40
_TITLES = {
    "comedy": ("Two Left Shoes", "The Intern's Intern"),
    "crime": ("Harbour Lights", "The Quiet Ledger"),
    "documentary": ("Rivers of Ice", "The Bread Makers"),
    "drama": ("A House in Autumn", "Letters Home"),
    "science fiction": ("The Ninth Orbit", "Salt and Silicon"),
}
_SEGMENTS = ("casual", "weekend_viewer", "binge_watcher")

KNOWN, KNOWN_PLAYS = "u1", 46
"""A power user who has watched so many titles, none of them a documentary."""


def tables(end: datetime) -> dict[str, list[dict[str, Any]]]:
    """The rows of each file, up to a moment, which is a full hour.

    `late.ndjson` is a documentary that the known user watched at that hour and that is told of
    later: it is to be pushed, and counts at once, as its hour is over.
    """
    random = Random(2026)  # noqa: S311 - the same users and titles everywhere
    plays = _plays(end, random)
    late = _play(len(plays) + 1, KNOWN, "documentary", end, random)
    return {
        "data/segments.parquet": _segments(end, random),
        "data/watched/part-0.parquet": plays,
        "data/labels.parquet": _labels(plays, random),
        "data/late.ndjson": [late],
    }


def _segments(end: datetime, random: Random) -> list[dict[str, Any]]:
    """Each user's segment, night after night; now and then one becomes another."""
    segments = {f"u{number}": random.choice(_SEGMENTS) for number in range(_USERS)}
    rows: list[dict[str, Any]] = []
    for day in range(_DAYS, -1, -1):
        segments[f"u{random.randrange(_USERS)}"] = random.choice(_SEGMENTS)
        segments[KNOWN] = "power_user"
        midnight = end.replace(hour=0) - timedelta(days=day)
        rows += [
            {"user_id": user, "segment": segment, "day": midnight}
            for user, segment in segments.items()
        ]
    return rows


def _plays(end: datetime, random: Random) -> list[dict[str, Any]]:
    """Plays of the last weeks; those of the known user are in every 30 days that end this week."""
    others = [f"u{number}" for number in range(_USERS) if f"u{number}" != KNOWN]
    moments = [
        (end - timedelta(seconds=random.randrange(_DAYS * 86_400)), random.choice(others))
        for _ in range(2_000)
    ]
    moments += [
        (end - timedelta(seconds=random.randrange(86_400, 22 * 86_400)), KNOWN)
        for _ in range(KNOWN_PLAYS)
    ]
    genres = {user: [*_TITLES] for user in others}
    genres[KNOWN] = [genre for genre in _TITLES if genre != "documentary"]
    return [
        _play(number, user, random.choice(genres[user]), moment, random)
        for number, (moment, user) in enumerate(sorted(moments), 1)
    ]


def _play(number: int, user: str, genre: str, moment: datetime, random: Random) -> dict[str, Any]:
    return {
        "play_id": f"p{number}",
        "user_id": user,
        "title": random.choice(_TITLES[genre]),
        "genre": genre,
        "watched_at": moment,
    }


def _labels(plays: list[dict[str, Any]], random: Random) -> list[dict[str, Any]]:
    """What was recommended a minute before a play, and whether it was of that genre."""
    return [
        {
            "user_id": play["user_id"],
            "shown_at": play["watched_at"] - timedelta(minutes=1),
            "shown_genre": (shown := random.choice([*_TITLES])),
            "was_watched": shown == play["genre"],
        }
        for play in plays[::10]
    ]
