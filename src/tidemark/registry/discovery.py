"""Questions about everything that is defined: what there is, what is the same, what it rests on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tidemark.model.graph import Definitions
from tidemark.model.lineage import Consumer, LineageIndex
from tidemark.model.search import Index
from tidemark.model.twins import Twin, twins

_Key = tuple[str, tuple[Consumer, ...]]


class Discovery:
    """Indexes of one revision, made when they are first asked for and kept until the next one."""

    def __init__(self) -> None:
        self._index: tuple[_Key, Index] | None = None
        self._lineage: tuple[_Key, LineageIndex] | None = None
        self._twins: tuple[str, tuple[Twin, ...]] | None = None

    def index(
        self,
        digest: str,
        definitions: Definitions,
        consumers: Iterable[Consumer],
        lifecycles: Mapping[str, str],
    ) -> Index:
        """What is searched."""
        key = digest, tuple(consumers)
        if self._index is None or self._index[0] != key:
            self._index = key, Index(definitions, key[1], lifecycles)
        return self._index[1]

    def lineage(
        self, digest: str, definitions: Definitions, consumers: Iterable[Consumer]
    ) -> LineageIndex:
        """What is asked for lineage."""
        key = digest, tuple(consumers)
        if self._lineage is None or self._lineage[0] != key:
            self._lineage = key, LineageIndex(definitions, key[1])
        return self._lineage[1]

    def twins(self, digest: str, definitions: Definitions) -> tuple[Twin, ...]:
        """All twins."""
        if self._twins is None or self._twins[0] != digest:
            self._twins = digest, twins(definitions)
        return self._twins[1]
