"""What a streaming service knows of its viewers, for a recommender and its language model.

Edit it, then `tidemark plan` shows what would change; test_features.py shows on a few rows what the
features give.
"""

from __future__ import annotations

from datetime import datetime

import tidemark as tm


class User(tm.Entity):
    """A person who watches."""

    user_id: tm.Key[str]


class Segments(tm.Source, history=tm.parquet("data/segments.parquet"), time="day"):
    """What kind of viewer each user is: a table of the warehouse, written every night."""

    user_id: tm.Col[str]
    segment: tm.Col[str]
    day: tm.Col[datetime] = tm.column(description="The midnight at which the table was written")


class Watch(
    tm.Source,
    history=tm.parquet("data/watched/*.parquet"),
    time="watched_at",
    unique=("play_id",),  # a play that is reported twice counts once
):
    """Titles as they are watched: the past in files, the present pushed as it happens."""

    play_id: tm.Col[str]
    user_id: tm.Col[str]
    title: tm.Col[str]
    genre: tm.Col[str]
    watched_at: tm.Col[datetime]


class UserSegment(
    tm.FeatureView,
    entity=User,
    source=Segments,
    columns=(Segments.segment,),
    max_age="7d",  # an older segment says nothing about the user of today
    freshness="26h",  # it is written every night; two hours of patience
    owner="growth@example.com",
):
    """The user's segment, by the last nightly table."""

    segment: tm.Feature[str]


class WatchHabits(tm.FeatureView, entity=User, source=Watch, step="1h", owner="growth@example.com"):
    """How much a user watches, by the full hour."""

    watch_count_30d = tm.count(over="30d")


class LastWatched(tm.FeatureView, entity=User, source=Watch, owner="growth@example.com"):
    """What a user watched last, by the last event."""

    last_genre = tm.last(Watch.genre)


@tm.on_demand(
    segment=UserSegment.segment, watched=WatchHabits.watch_count_30d, genre=LastWatched.last_genre
)
def user_context(segment: str | None, watched: int, genre: str | None) -> str:
    """The line about the user that goes into the prompt of a language model."""
    if segment is None and genre is None:
        return "User context: a new user, nothing watched yet"
    titles = "1 title" if watched == 1 else f"{watched} titles"
    return (
        f"User context: segment={segment or 'unknown'}, watched {titles} in the last 30 days, "
        f"last genre watched: {genre or 'none yet'}"
    )


class Recommend(tm.FeatureService, owner="growth@example.com"):
    """What the recommender knows of a user, in numbers and in words."""

    user_segment = UserSegment.segment
    watch_count_30d = WatchHabits.watch_count_30d
    last_genre = LastWatched.last_genre
    user_context = user_context
