"""The record of a view: which of its rows serve, which are being written, and which go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from tidemark.errors import StoreConflict
from tidemark.ingest.journal import Journals
from tidemark.model.fingerprint import held_id, state_id
from tidemark.model.graph import Definitions
from tidemark.online.rows import codec
from tidemark.online.states.keys import (
    Record,
    State,
    generation_prefix,
    held_key,
    is_readable,
    read_held,
    read_record,
    record_key,
    view_prefixes,
)
from tidemark.online.stores.protocol import OnlineStore

_ATTEMPTS = 1_000
"""How often the change of generations follows pushes that come in between."""


@dataclass(frozen=True)
class Generations:
    """The generations of rows of one view, all its versions together."""

    online: OnlineStore
    definitions: Definitions
    project: str
    view: str

    @property
    def journals(self) -> Journals:
        """How far rows are that are being written."""
        return Journals(self.online, self.project, self.view)

    def prefix(self, state: State) -> bytes:
        """What the keys of the rows of a state start with."""
        return self._prefix(state.state, state.generation)

    def _prefix(self, state: str, generation: int) -> bytes:
        return generation_prefix(self.project, self.view, state, generation)

    @property
    def _place(self) -> bytes:
        return record_key(self.project, self.view)

    def record(self) -> Record:
        """The record as it is now; raises `StoreUnavailable` for one of another format."""
        (stored,) = self.online.get_many([self._place])
        return read_record(stored)

    def forget_other_format(self) -> None:
        """Delete the rows of a release with another format, which this one cannot read."""
        (stored,) = self.online.get_many([self._place])
        if not is_readable(stored):
            self.online.put_many([], deletes=[self._place])
            self.online.delete(*view_prefixes(self.project, self.view))

    def has(self, state: State) -> bool:
        """Whether the rows of a state serve or are being written."""
        record = self.record()
        serving = record.state(state.state)
        is_current = serving is not None and serving.generation == state.generation
        return is_current or (state.state, state.generation) in record.leaving

    def known_by(self, state: str, moment: int) -> None:
        """Note that a state that serves is that of a later moment as well."""

        def later(record: Record) -> Record:
            states = tuple(
                msgspec.structs.replace(each, until=max(each.until, moment))
                if each.state == state
                else each
                for each in record.states
            )
            return msgspec.structs.replace(record, states=states)

        self.change(later)

    def begin(self, state: State) -> None:
        """Note that rows are written, so that they go if nobody finishes them."""
        mine = (state.state, state.generation)
        self.change(lambda record: _left(record, {*record.leaving, mine}))

    def publish(self, made: Callable[[], State]) -> None:
        """Make a state current; `made` gives it anew whenever the record was moved meanwhile."""
        for _ in range(_ATTEMPTS):
            (stored,) = self.online.get_many([self._place])
            record = read_record(stored)
            new = made()
            states = (new, *(each for each in record.states if each.state != new.state))
            kept = self._needed(states)
            leaving = {(each.state, each.generation) for each in record.states if each not in kept}
            leaving |= {*record.leaving} - {(new.state, new.generation)}
            try:
                self._write(stored, _left(Record(codec.FORMAT, kept), leaving))
            except StoreConflict:
                continue
            return
        raise StoreConflict(
            f"The online state of {self.view} kept changing while it was made.",
            where=self.online.name,
            remedy="Run it again; what was serving serves on.",
        )

    def tidied(self) -> Record:
        """The record, after the rows that neither serve nor are to be gone on with were deleted."""
        record = self.record()
        going = [each for each in record.leaving if not self._is_begun(*each)]
        if not going:
            return record
        self.online.delete(*(self._prefix(*each) for each in going))
        deletes: list[bytes] = []
        for state, generation in going:
            if record.state(state) is None:
                deletes.append(held_key(self.project, self.view, state))
            journal = self.journals.read(state)
            if journal is not None and journal.made.generation == generation:
                deletes.append(self.journals.key(state))
        return self.change(lambda now: _left(now, {*now.leaving} - {*going}), deletes=deletes)

    def _is_begun(self, state: str, generation: int) -> bool:
        """Whether rows can be gone on with: somebody wrote how far they are, and asks for them."""
        journal = self.journals.read(state)
        if journal is None or journal.made.generation != generation:
            return False
        return state in self._own()

    def change(self, change: Callable[[Record], Record], deletes: Sequence[bytes] = ()) -> Record:
        """Change the record as it is then, though pushes move it at the same time."""
        while True:
            (stored,) = self.online.get_many([self._place])
            record = change(read_record(stored))
            try:
                self._write(stored, record, deletes)
            except StoreConflict:
                continue
            return record

    def _write(self, stored: bytes | None, record: Record, deletes: Iterable[bytes] = ()) -> None:
        item = (self._place, msgspec.msgpack.encode(record))
        self.online.put_many([item], deletes=deletes, expect={self._place: stored})

    def _own(self) -> set[str]:
        """The states of the view's versions."""
        return {
            state_id(view, self.definitions.source(view.source))
            for view in self.definitions.variants(self.view)
        }

    def _needed(self, states: Sequence[State]) -> tuple[State, ...]:
        """The states that a view needs: its own, and others for what its own do not hold yet."""
        answers: set[str] = set()
        for view in self.definitions.variants(self.view):
            source = self.definitions.source(view.source)
            answers |= {held_id(view, feature, source) for feature in view.features}
        own = self._own()
        places = [held_key(self.project, self.view, each.state) for each in states]
        holding = [
            read_held(stored)[1].keys() if stored else set[str]()
            for stored in self.online.get_many(places)
        ]
        for state, names in zip(states, holding, strict=True):
            answers -= names if state.state in own else set()
        return tuple(
            state
            for state, names in zip(states, holding, strict=True)
            if state.state in own or answers & names
        )


def _left(record: Record, leaving: Collection[tuple[str, int]]) -> Record:
    return msgspec.structs.replace(record, leaving=tuple(sorted(leaving)))
