"""Finding what is defined by what people call it.

Each definition is a bag of words, every word with a weight for where it stands: its name, its
description, the sentence that its definition reads as, its tags, entity, columns and owner.  A word
asked for also finds its other forms, its synonyms, what it begins, and what differs from it by a
slip of the finger; each counts less than the word itself.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, get_args

import msgspec

from tidemark.errors import DefinitionError, NotFound
from tidemark.model import prose
from tidemark.model.diff import all_consumers
from tidemark.model.graph import Definitions, Feature, OnDemand
from tidemark.model.lineage import Consumer
from tidemark.model.types import parse_type
from tidemark.model.vocabulary import Vocabulary, stem, words
from tidemark.model.wording import Entry, EntryKind, Wording

# Where a word stands, and what it is worth there.
_WEIGHTS = {
    "name": 5.0,
    "window": 4.0,
    "entity": 3.0,
    "tag": 3.0,
    "aggregate": 2.5,
    "column": 2.0,
    "description": 2.0,
    "view": 1.5,
    "source": 1.5,
    "definition": 1.0,
    "owner": 1.0,
}
# People look for values; what values are made of comes second.
_KIND_WEIGHTS = {"feature": 1.0, "on-demand feature": 1.0, "service": 0.85}
_OTHER_KIND = 0.75
_KINDS: tuple[EntryKind, ...] = get_args(EntryKind)
_FACETS = ("kind", "entity", "owner", "type", "source")


class Hit(msgspec.Struct, frozen=True):
    """One definition that was found.

    `why` says, for each word asked for, which word it met and where.  `consumers` are the services
    and models that read it.  `type` is that of the value, empty where there is none.
    """

    reference: str
    kind: EntryKind
    definition: str
    owner: str
    entity: str
    type: str
    lifecycle: str
    tags: tuple[str, ...]
    consumers: tuple[str, ...]
    score: float
    why: tuple[str, ...]


class Results(msgspec.Struct, frozen=True):
    """The best hits, how many there are in all, and how all of them divide.

    `facets` counts the values of entity, owner, tag, type, source, kind and lifecycle, most
    frequent first.  `hint` says of an owner or a tag that nothing has which one is the nearest.
    """

    hits: tuple[Hit, ...]
    total: int
    facets: dict[str, dict[str, int]]
    hint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The results as JSON values."""
        return dict(msgspec.to_builtins(self))

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __len__(self) -> int:
        return len(self.hits)

    def __str__(self) -> str:
        if not self.hits:
            return (
                self.hint or "Nothing was found. Without words and filters, everything is listed."
            )
        lines: list[str] = []
        for hit in self.hits:
            kind = "" if hit.kind == "feature" else f"  {hit.kind}"
            state = f"  {hit.lifecycle}" if hit.lifecycle else ""
            lines += [f"{hit.reference}{kind}{state}", f"  {hit.definition}"]
            readers = ", ".join(hit.consumers[:3]) or "nothing yet"
            more = f" and {len(hit.consumers) - 3} more" if len(hit.consumers) > 3 else ""
            lines.append(f"  owner {hit.owner or 'nobody'}; read by {readers}{more}")
            if hit.why:
                lines.append(f"  found by {'; '.join(hit.why)}")
        if self.total > len(self.hits):
            lines += ["", f"{len(self.hits)} of {self.total}; there are, by"]
            for name, counts in self.facets.items():
                if len(counts) > 1:
                    most = [f"{value} {count}" for value, count in list(counts.items())[:5]]
                    lines.append(f"  {name:9} {', '.join(most)}")
        return "\n".join(lines)


class Index:
    """Everything that is defined, ready to be searched.

    `consumers` are the models and datasets that read them, beside the services that are defined;
    `lifecycles` names the state of features by reference.
    """

    def __init__(
        self,
        definitions: Definitions,
        consumers: Iterable[Consumer] = (),
        lifecycles: Mapping[str, str] | None = None,
    ) -> None:
        self._definitions = definitions
        self._sources = {item.name: item for item in definitions.sources}
        self._lifecycles = lifecycles or {}
        self._readers = _readers(definitions, consumers)
        self._entries: list[Entry] = []
        # For each word: the entries that hold it, and where it weighs most in each.
        self._postings: dict[str, dict[int, str]] = {}
        reading = Wording(definitions)
        for entry, places in reading.entries():
            self._add(entry, places)
        self._spelled = reading.spelled
        self._vocabulary = Vocabulary(self._postings)
        self._standing = [self._standing_of(entry) for entry in self._entries]

    def search(
        self,
        text: str,
        *,
        entity: str | None = None,
        owner: str | None = None,
        tag: str | None = None,
        type: str | None = None,  # noqa: A002
        source: str | None = None,
        kind: str | None = None,
        limit: int = 10,
    ) -> Results:
        """The definitions that fit the words best, of those that fit the filters exactly.

        Without words, all that fit the filters, most used first.  Raises `NotFound` for an entity,
        a source, a kind or a type that there is not; an owner or a tag that nothing has is merely
        not found.
        """
        if entity is not None:
            self._definitions.entity(entity)
        if source is not None:
            self._definitions.source(source)
        if kind is not None and kind not in _KINDS:
            raise NotFound.named("kind of definition", kind, _KINDS)
        if type is not None:
            type = self._type(type)  # noqa: A001
        wanted = {"entity": entity, "owner": owner, "type": type, "source": source, "kind": kind}
        exact = {name: value for name, value in wanted.items() if value is not None}
        asked = words(text)
        scores, why = self._scores(asked)
        chosen = [
            (score, number)
            for number, score in scores.items()
            if all(getattr(self._entries[number], name) == value for name, value in exact.items())
            and (tag is None or tag in self._entries[number].tags)
        ]
        best = heapq.nsmallest(
            limit, chosen, key=lambda each: (-each[0], self._entries[each[1]].reference)
        )
        met = list(zip(asked, why, strict=True)) if asked else []
        hits = tuple(self._hit(number, score, met) for score, number in best)
        hint = "" if hits else self._hint(owner, tag)
        return Results(hits, len(chosen), self._facets(number for _, number in chosen), hint)

    def _type(self, text: str) -> str:
        """A type as definitions spell it; of one that is none, what they have is the nearest."""
        try:
            return str(parse_type(text))
        except DefinitionError:
            known = {entry.type for entry in self._entries} - {""}
            raise NotFound.named("type", text, known) from None

    def _hint(self, owner: str | None, tag: str | None) -> str:
        """What is said of an owner or a tag that nothing has: it is none, but may be meant well."""
        owners = {entry.owner for entry in self._entries} - {""}
        tags = {tag for entry in self._entries for tag in entry.tags}
        if owner is not None and owner not in owners:
            return str(NotFound.named("owner", owner, owners, make="Say it: owner=..."))
        if tag is not None and tag not in tags:
            return str(NotFound.named("tag", tag, tags, make="Say it: tags=(...)."))
        return ""

    def _add(self, entry: Entry, places: Iterable[tuple[str, Iterable[str]]]) -> None:
        number = len(self._entries)
        self._entries.append(entry)
        postings = self._postings
        for place, found in places:  # the weightiest place first: what is there stays
            for word in found:
                entries = postings.get(word)
                if entries is None:
                    postings[word] = {number: place}
                elif number not in entries:
                    entries[number] = place

    def _scores(self, asked: list[str]) -> tuple[dict[int, float], list[dict[int, str]]]:
        """For each entry its score; for each word asked for, which word of an entry it met."""
        if not asked:
            return dict(enumerate(self._standing)), []
        total: dict[int, float] = {}
        met: Counter[int] = Counter()
        why: list[dict[int, str]] = []
        meant = {stem(term) for term in asked}
        for term in asked:
            best: dict[int, float] = {}
            how: dict[int, str] = {}
            for word, likeness in self._vocabulary.like(term).items():
                if likeness < 1 and word in meant:
                    continue  # another word asked for says that itself
                entries = self._postings[word]
                rarity = math.log(1 + len(self._entries) / len(entries))
                for number, place in entries.items():
                    worth = likeness * rarity * _WEIGHTS[place]
                    if worth > best.get(number, 0.0):
                        best[number] = worth
                        how[number] = word
            for number, worth in best.items():
                total[number] = total.get(number, 0.0) + worth
            met.update(best.keys())
            why.append(how)
        # Half of the words are worth much less than half of the score.
        return {
            number: score * (met[number] / len(asked)) ** 2 * self._standing[number]
            for number, score in total.items()
        }, why

    def _standing_of(self, entry: Entry) -> float:
        """What an entry is worth whatever the words: its kind, its use, and a plain name."""
        used = 1 + 0.08 * math.log1p(len(self._readers.get(entry.reference, ())))
        plain = 1 - 0.02 * min(10, entry.reference.count("_"))
        retired = 0.3 if self._lifecycles.get(entry.reference) in {"deprecated", "retired"} else 1.0
        return _KIND_WEIGHTS.get(entry.kind, _OTHER_KIND) * used * plain * retired

    def _hit(self, number: int, score: float, met: list[tuple[str, dict[int, str]]]) -> Hit:
        entry = self._entries[number]
        why: list[str] = []
        for term, how in met:
            word = how.get(number)
            if word is not None:
                same = word in {term, stem(term)}
                meant = term if same else f"{term} as {self._spelled.get(word, word)}"
                why.append(f"{meant} ({self._postings[word][number]})")
        return Hit(
            reference=entry.reference,
            kind=entry.kind,
            definition=self._definition(entry),
            owner=entry.owner,
            entity=entry.entity,
            type=entry.type,
            lifecycle=self._lifecycles.get(entry.reference, ""),
            tags=entry.tags,
            consumers=tuple(self._readers.get(entry.reference, ())),
            score=round(score, 3),
            why=tuple(why),
        )

    def _definition(self, entry: Entry) -> str:
        item = entry.item
        if isinstance(item, Feature) and entry.view is not None:
            return prose.sentence(entry.view, item, self._sources[entry.view.source])
        if isinstance(item, OnDemand):
            return prose.on_demand_sentence(item)
        return item.description.partition("\n")[0]

    def _facets(self, numbers: Iterable[int]) -> dict[str, dict[str, int]]:
        found = [self._entries[number] for number in numbers]
        counts = {name: Counter(map(attrgetter(name), found)) for name in _FACETS}
        counts["tag"] = Counter(tag for entry in found for tag in entry.tags)
        states = self._lifecycles
        counts["lifecycle"] = Counter(states.get(entry.reference, "") for entry in found)
        return {
            name: {value: count for value, count in counter.most_common() if value}
            for name, counter in counts.items()
        }


def _readers(definitions: Definitions, consumers: Iterable[Consumer]) -> dict[str, list[str]]:
    """For each reference, and for each service, everything that reads it."""
    found = {name: list(names) for name, names in all_consumers(definitions).items()}
    through: dict[str, list[str]] = {}
    for name, names in found.items():
        for each in names:
            through.setdefault(each, []).append(name)
    for consumer in consumers:
        read = set(consumer.reads)
        for ref in consumer.reads:
            read.update(through.get(f"service {ref}", ()))
        for name in read:
            found.setdefault(name, []).append(f"{consumer.kind} {consumer.name}")
    return found
