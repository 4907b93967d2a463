"""What is watched, and pushed as it happens: for the specs of the audit."""

from __future__ import annotations

from datetime import datetime

import tidemark as tm


class Person(tm.Entity):
    """A person."""

    user_id: tm.Key[str]


class Watch(tm.Source, time="at", unique=("watch_id",)):
    """What was watched, as it happens; there is no history but what was pushed."""

    watch_id: tm.Col[str]
    user_id: tm.Col[str]
    minutes: tm.Col[float]
    at: tm.Col[datetime]
