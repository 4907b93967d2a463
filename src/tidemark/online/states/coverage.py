"""Which features the online rows do not answer for yet."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from tidemark.model.aggregates import APPROXIMATE
from tidemark.model.diff import feature_name
from tidemark.model.fingerprint import held_id
from tidemark.model.graph import Definitions
from tidemark.online.states.keys import (
    held_key,
    read_held,
    read_record,
    read_written,
    record_key,
    written_key,
)
from tidemark.online.stores.protocol import OnlineStore

LARGE = 10_000
"""Events of one entity from which on a read shows what grows with them."""


class Unserved(msgspec.Struct, frozen=True):
    """Features of a view without rows, and what its newest state has and took to write.

    `growing` are those whose reads grow with the events of the largest entity, which has so many
    that it shows, and the aggregates that would not.
    """

    view: str
    features: tuple[str, ...]
    rows: int | None
    events: int | None
    seconds: float | None
    largest: int | None
    growing: tuple[tuple[str, str], ...]


def unserved(
    online: OnlineStore, definitions: Definitions, among: Collection[str], *, project: str
) -> list[Unserved]:
    """The features among these (`view:feature@1`) that cannot be served, view by view."""
    found = standing(online, definitions, among, project=project, missing=True)
    return [each for each in found if each.features]


def standing(
    online: OnlineStore,
    definitions: Definitions,
    among: Collection[str],
    *,
    project: str,
    missing: bool = False,
) -> list[Unserved]:
    """The features among these, view by view, and how the rows of their view stand.

    With `missing`, only those that no rows answer for.
    """
    found: list[Unserved] = []
    (stored,) = online.get_many([written_key(project)])
    written = read_written(stored)
    for name in sorted({each.rpartition(":")[0] for each in among} - {""}):
        (stored,) = online.get_many([record_key(project, name)])
        states = read_record(stored).states
        places = [held_key(project, name, each.state) for each in states]
        held: set[str] = set()
        for text in online.get_many(places) if missing else ():
            held |= read_held(bytes(text))[1].keys() if text is not None else set[str]()
        features = {
            feature_name(view, feature): feature.aggregate
            for view in definitions.variants(name)
            for feature in view.features
            if feature_name(view, feature) in among
            and held_id(view, feature, definitions.source(view.source)) not in held
        }
        newest = states[0] if states else None
        growing = tuple(
            (feature, APPROXIMATE[aggregate.function])
            for feature, aggregate in features.items()
            if aggregate.function in APPROXIMATE and not aggregate.window.rows
        )
        found.append(
            Unserved(
                name,
                tuple(features),
                newest.rows if newest else None,
                newest.events if newest else None,
                written[name].seconds if newest and name in written else None,
                newest.largest if newest else None,
                growing if newest and newest.largest >= LARGE else (),
            )
        )
    return found
