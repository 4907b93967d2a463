"""Online rows of views that nothing defines any more, and how they go.

An online store keeps no list of its keys, so the names of the views that were ever written are kept
beside the rows, each with the registry that it was written for.  A name is taken from the list only
after its rows are gone: whatever is interrupted is finished by the next materialization.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import msgspec

from tidemark.online.keys import read_written, record_key, view_prefixes, written_key
from tidemark.online.protocol import OnlineStore


@dataclass(frozen=True)
class Published:
    """What a registry defines: `registry` identifies it, `views` gives the names, as of now."""

    registry: str
    views: Callable[[], Collection[str]]


def note(online: OnlineStore, project: str, views: Collection[str], published: Published) -> None:
    """Note, before rows of these views are written, that they will be."""
    place = written_key(project)
    (stored,) = online.get_many([place])
    written = read_written(stored)
    noted = written | dict.fromkeys(views, published.registry)
    if noted != written:
        online.put_many([(place, msgspec.msgpack.encode(noted, order="sorted"))])


def tidy(online: OnlineStore, project: str, published: Published) -> tuple[str, ...]:
    """Delete all rows of views that the registry no longer defines; gives their names.

    To be called with the lock `materialize` held, so that nobody writes such rows meanwhile.
    """
    place = written_key(project)
    (stored,) = online.get_many([place])
    written = read_written(stored)
    ours = {view for view, registry in written.items() if registry == published.registry}
    gone = tuple(sorted(ours.difference(published.views()))) if ours else ()
    for view in gone:
        online.delete(record_key(project, view))  # first: from here on nobody reads them
        for prefix in view_prefixes(project, view):
            online.delete(prefix)
    if gone:
        left = {view: registry for view, registry in written.items() if view not in gone}
        online.put_many([(place, msgspec.msgpack.encode(left, order="sorted"))])
    return gone
