"""Online rows of views that nothing defines any more, and how they go.

An online store keeps no list of its keys, so the names of the views that were ever written are kept
beside the rows, each with the registry that it was written for.  A name is taken from the list only
after its rows are gone: whatever is interrupted is finished by the next materialization.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import msgspec

from tidemark.online.states.keys import (
    Written,
    read_written,
    record_key,
    view_prefixes,
    written_key,
)
from tidemark.online.stores.protocol import OnlineStore


@dataclass(frozen=True)
class Published:
    """What a registry defines: `registry` identifies it, `views` gives the names, as of now."""

    registry: str
    views: Callable[[], Collection[str]]


def note(online: OnlineStore, project: str, views: Collection[str], published: Published) -> None:
    """Note, before rows of these views are written, that they will be."""
    written = _written(online, project)
    new = {
        view: Written(published.registry)
        for view in views
        if view not in written or written[view].registry != published.registry
    }
    if new:
        _write(online, project, written | new)


def measured(
    online: OnlineStore, project: str, seconds: Mapping[str, float], published: Published
) -> None:
    """Note how long the rows of these views took."""
    new = {view: Written(published.registry, taken) for view, taken in seconds.items()}
    if new:
        _write(online, project, _written(online, project) | new)


def tidy(online: OnlineStore, project: str, published: Published) -> tuple[str, ...]:
    """Delete all rows of views that the registry no longer defines; gives their names.

    To be called with the lock `materialize` held, so that nobody writes such rows meanwhile.
    """
    written = _written(online, project)
    ours = {view for view, known in written.items() if known.registry == published.registry}
    gone = tuple(sorted(ours.difference(published.views()))) if ours else ()
    if gone:
        records = [record_key(project, view) for view in gone]
        online.put_many([], deletes=records)  # first: from here on nobody reads their rows
        online.delete(*(prefix for view in gone for prefix in view_prefixes(project, view)))
        left = {view: known for view, known in written.items() if view not in gone}
        _write(online, project, left)
    return gone


def _written(online: OnlineStore, project: str) -> dict[str, Written]:
    (stored,) = online.get_many([written_key(project)])
    return read_written(stored)


def _write(online: OnlineStore, project: str, written: Mapping[str, Written]) -> None:
    online.put_many([(written_key(project), msgspec.msgpack.encode(written, order="sorted"))])
