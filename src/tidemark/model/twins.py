"""Twins: features that mean the same under two names, or nearly the same.

Names and owners do not count, nor does the name of a source: two sources that read one history in
one way are one source.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set as AbstractSet
from functools import lru_cache
from heapq import nsmallest
from itertools import combinations
from typing import Literal, TypeVar

import msgspec
from msgspec.structs import replace

from tidemark.model.diff import FieldChange, feature_name, meaning_fields
from tidemark.model.fingerprint import meaning, on_demand_meaning
from tidemark.model.graph import Definitions, Feature, FeatureView, OnDemand, Source
from tidemark.model.window import format_duration

NEAREST = 3
"""How many near twins of one feature are told, of those with the fewest differences."""

LARGE = 100_000
"""Where there are more pairs of comparable features, only a single difference is looked for."""

_Key = TypeVar("_Key")


class Twin(msgspec.Struct, frozen=True):
    """Two features, in the order of their names, and what differs between them.

    `same` means that every value of one is the value of the other; `near` that only the fields
    listed differ, among them none of source, entity, aggregate function and value.
    """

    kind: Literal["same", "near"]
    first: str
    second: str
    differences: tuple[FieldChange, ...] = ()
    owners: tuple[str, str] = ("", "")

    def __str__(self) -> str:
        joined = "means the same as" if self.kind == "same" else "is nearly"
        lines = [
            f"{_owned(self.first, self.owners[0])} {joined} {_owned(self.second, self.owners[1])}"
        ]
        lines += [
            f"  {each.field}: {each.before or 'none'} | {each.after or 'none'}"
            for each in self.differences
        ]
        return "\n".join(lines)


class _Candidate(msgspec.Struct, frozen=True, gc=False):
    reference: str
    view: FeatureView
    feature: Feature
    source: Source

    @property
    def owner(self) -> str:
        return self.feature.owner or self.view.owner


_Near = tuple[int, _Candidate, _Candidate]
# Views and sources are the same for many features.
_shared_fields = lru_cache(maxsize=1_024)(meaning_fields)


def twins(definitions: Definitions, among: AbstractSet[str] | None = None) -> tuple[Twin, ...]:
    """All pairs of features that mean the same or nearly so; exact ones first.

    With `among`, only pairs that hold one of these references.  Versions of one feature are no
    twins.  Features of one view are near twins to nobody but other views: whoever wrote them one
    below the other knew.
    """
    found: list[Twin] = []
    near: dict[str, list[_Near]] = defaultdict(list)
    for group in _groups(definitions).values():
        if len(group) == 1 or not any(_concerns(each, each, among) for each in group):
            continue
        meanings = {each.reference: _meaning(each) for each in group}
        fields = {each.reference: _fields(each) for each in group}
        for alike in _alike(group, meanings).values():
            found += [
                _twin("same", one, other)
                for one, other in combinations(alike, 2)
                if _bare(one) != _bare(other) and _concerns(one, other, among)
            ]
        for one, other in _comparable(group, among, fields):
            if meanings[one.reference] != meanings[other.reference]:
                far = _distance(fields[one.reference], fields[other.reference])
                near[one.reference].append((far, one, other))
                near[other.reference].append((far, one, other))
    found += _on_demand_twins(definitions, among)
    told = {
        (one.reference, other.reference): _twin("near", one, other)
        for reference, pairs in near.items()
        if among is None or reference in among
        for one, other in _nearest(pairs)
    }
    return (
        *sorted(found, key=lambda twin: (twin.first, twin.second)),
        *sorted(told.values(), key=lambda twin: (len(twin.differences), twin.first, twin.second)),
    )


def _groups(definitions: Definitions) -> dict[object, list[_Candidate]]:
    """Features by what near twins share: history, keys, aggregate and value."""
    sources = {source.name: source for source in definitions.sources}
    found: dict[object, list[_Candidate]] = defaultdict(list)
    for view in definitions.views:
        source = sources[view.source]
        origin = source.history if source.history is not None else source.name
        for feature in view.features:
            aggregate = feature.aggregate
            shared = aggregate.function, aggregate.value, aggregate.n, aggregate.q
            candidate = _Candidate(feature_name(view, feature), view, feature, source)
            found[origin, view.keys, shared].append(candidate)
    for group in found.values():
        group.sort(key=lambda each: each.reference)
    return found


def _concerns(one: _Candidate, other: _Candidate, among: AbstractSet[str] | None) -> bool:
    return among is None or one.reference in among or other.reference in among


def _alike(group: Iterable[_Candidate], by: Mapping[str, _Key]) -> dict[_Key, list[_Candidate]]:
    """Candidates by something that is known of each."""
    found: dict[_Key, list[_Candidate]] = defaultdict(list)
    for each in group:
        found[by[each.reference]].append(each)
    return found


def _comparable(
    group: list[_Candidate],
    among: AbstractSet[str] | None,
    fields: Mapping[str, Mapping[str, str]],
) -> Iterator[tuple[_Candidate, _Candidate]]:
    """Pairs of different views that may be near; of a large group those with one difference."""
    chosen = group if among is None else [each for each in group if each.reference in among]
    if len(chosen) * len(group) > LARGE:
        for path in {path for each in fields.values() for path in each}:
            rest = {
                reference: frozenset((key, value) for key, value in each.items() if key != path)
                for reference, each in fields.items()
            }
            for alike in _alike(group, rest).values():
                for place, one in enumerate(alike):
                    others = alike[place + 1 : place + 1 + 2 * NEAREST]
                    for other in others:
                        if one.view.name != other.view.name and _concerns(one, other, among):
                            yield one, other
        return
    for one in chosen:
        for other in group:
            twice = other.reference <= one.reference and (among is None or other.reference in among)
            if not twice and one.view.name != other.view.name:
                yield (one, other) if one.reference < other.reference else (other, one)


def _meaning(candidate: _Candidate) -> str:
    """The fingerprint of what is computed, whatever view and source are called."""
    view, source = candidate.view, candidate.source
    if source.history is not None:
        view, source = replace(view, source=""), replace(source, name="")
    return meaning(view, candidate.feature, source)


def _bare(candidate: _Candidate) -> str:
    return candidate.reference.rpartition("@")[0]


def _twin(kind: Literal["same", "near"], one: _Candidate, other: _Candidate) -> Twin:
    before, after = _fields(one), _fields(other)
    paths = (path for path in {**before, **after} if before.get(path) != after.get(path))
    changes = tuple(FieldChange(path, before.get(path), after.get(path)) for path in paths)
    if not changes:
        # Types differ, or what breaks a tie by content.
        changes = (FieldChange("columns", _columns(one.source), _columns(other.source)),)
    owners = one.owner, other.owner
    return Twin(kind, one.reference, other.reference, changes if kind == "near" else (), owners)


def _fields(candidate: _Candidate) -> dict[str, str]:
    """What a feature is computed from, each field as text; names left out."""
    view, source = candidate.view, candidate.source
    if not candidate.feature.aggregate.rule.stored:
        view = replace(view, max_age=0)
    fields = meaning_fields(candidate.feature)
    window = candidate.feature.aggregate.window
    fields["window"] = {"all": "all time", "to_date": f"{window.unit} so far"}.get(
        window.kind, format_duration(window.length)
    )
    parts = {
        "offset": format_duration(window.offset) if window.offset else "",
        "zone": window.zone,
        "rows": f"the newest {window.rows}" if window.rows else "",
    }
    return {
        **fields,
        **{path: text for path, text in parts.items() if text},
        **_shared_fields(replace(view, name="", source="", features=())),
        **_shared_fields(replace(source, name="", columns=())),
    }


def _columns(source: Source) -> str:
    return ", ".join(f"{column.name} {column.type}" for column in source.columns)


def _distance(before: Mapping[str, str], after: Mapping[str, str]) -> int:
    return len(before.items() ^ after.items())


def _nearest(pairs: list[_Near]) -> list[tuple[_Candidate, _Candidate]]:
    """Those with the fewest differences, not more than are told."""
    ranked = nsmallest(NEAREST, pairs, key=_nearness)
    return [(one, other) for far, one, other in ranked if far == ranked[0][0]]


def _nearness(pair: _Near) -> tuple[int, str, str]:
    far, one, other = pair
    return far, one.reference, other.reference


def _on_demand_twins(definitions: Definitions, among: AbstractSet[str] | None) -> Iterable[Twin]:
    """On-demand features that do the same with the same values.

    Functions whose source is not known are the same only where they are one function.
    """
    groups: dict[object, list[OnDemand]] = defaultdict(list)
    for item in definitions.on_demand:
        function = "" if item.code else item.function
        groups[on_demand_meaning(item), item.type, function].append(item)
    for group in groups.values():
        for one, other in combinations(group, 2):
            names = [f"{item.name}@{item.version}" for item in (one, other)]
            if one.name != other.name and (among is None or not among.isdisjoint(names)):
                yield Twin("same", names[0], names[1], (), (one.owner, other.owner))


def _owned(reference: str, owner: str) -> str:
    return f"{reference} ({owner})" if owner else reference
