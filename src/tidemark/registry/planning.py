"""How a plan is made: what is said, what is kept, what changes, and whom it reaches."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from msgspec.structs import replace

from tidemark.errors import DefinitionError, NotFound, Problem
from tidemark.model.check import check_merged
from tidemark.model.defaults import BUILT_IN, Defaults
from tidemark.model.diff import Change, FieldChange, consumers, diff
from tidemark.model.fingerprint import ENGINE_EPOCH
from tidemark.model.graph import Definitions, Reference
from tidemark.model.merge import kept, merged, references
from tidemark.model.records import Confirmation, Model, Records
from tidemark.model.twins import twins
from tidemark.model.window import format_duration
from tidemark.registry.consumers import reads
from tidemark.registry.plan import Impact, Plan
from tidemark.registry.snapshots import Snapshot

_FEATURES = frozenset({"feature", "on-demand feature"})


def make_plan(
    now: Snapshot, said: Definitions, restated: Sequence[str] = (), defaults: Defaults = BUILT_IN
) -> Plan:
    """What applying the definitions to a snapshot would change.

    Raises `DefinitionError` if they do not fit what the registry keeps.
    """
    drafts = {name for name, stage in now.records.stages().items() if stage == "draft"}
    whole = merged(said, now.definitions, drafts)
    problems = [*_redefined(now.records.defaults, defaults), *_retired(said, now.records)]
    problems = problems or _unfit(whole, said)
    if problems:
        raise DefinitionError(problems)
    changes = [*diff(now.definitions, whole), *_restated(whole, restated)]
    changes += _renamed(now.records.defaults, defaults)
    new_epoch = now.revision > 0 and now.epoch != ENGINE_EPOCH
    models = tuple(_impacts(now, whole, changes, everything=new_epoch))
    features = {each.name for each in changes if each.what == "added" and each.kind in _FEATURES}
    return Plan(
        revision=now.revision,
        base=now.digest,
        epoch=now.epoch,
        definitions=whole,
        changes=tuple(_reaching(change, whole, now.records) for change in changes),
        twins=twins(whole, features),
        kept=kept(said, whole),
        drafts=tuple(sorted(drafts)),
        restated=tuple(restated),
        defaults=defaults,
        models=models,
    )


def records_after(
    records: Records, plan: Plan, confirmed: Iterable[Confirmation], *, draft: bool
) -> Records:
    """What is kept beside the definitions of a plan once it is applied.

    Drafts that are gone leave nothing behind; with `draft`, what the plan adds are drafts.
    """
    there = set(references(plan.definitions))
    lives = tuple(
        each for each in records.lifecycle if each.stage != "draft" or each.feature in there
    )
    records = replace(
        records, lifecycle=lives, confirmations=tuple(confirmed), defaults=plan.defaults
    )
    if draft:
        for change in plan.changes:
            if change.what == "added" and change.kind in _FEATURES:
                records = records.with_life(replace(records.life(change.name), stage="draft"))
    return records


def _redefined(before: Defaults, after: Defaults) -> Iterator[Problem]:
    """A set of defaults that changed under its name."""
    if before.name == after.name and before != after:
        yield Problem(
            f"The defaults {after.name!r} are not what they were.",
            "\n".join(
                f"{each.field}: {each.before} -> {each.after}" for each in _between(before, after)
            ),
            "A changed set is another one: give it the next name, such as acme-2.",
        )


def _renamed(before: Defaults, after: Defaults) -> Iterator[Change]:
    if before != after:
        yield Change("metadata", "defaults", after.name, fields=tuple(_between(before, after)))


def _between(before: Defaults, after: Defaults) -> Iterator[FieldChange]:
    for name in Defaults.__struct_fields__:
        values = [getattr(each, name) for each in (before, after)]
        if values[0] != values[1]:
            texts = [format_duration(each) if name == "delay" else str(each) for each in values]
            yield FieldChange(name, texts[0] or None, texts[1] or None)


def _retired(said: Definitions, records: Records) -> Iterator[Problem]:
    """What is said although it has been retired."""
    lives = {each.feature: each for each in records.lifecycle if each.stage == "retired"}
    for name in references(said) if lives else ():
        if name in lives:
            yield Problem(
                f"{name} is retired{_because(lives[name].reason)}.",
                remedy="Take it out of the definitions, give it a new version, or bring it back: "
                f"tidemark publish {name}.",
            )
    for owner, reference in _read(said) if lives else ():
        if str(reference) in lives:
            life = lives[str(reference)]
            instead = f"Read {life.replacement} instead" if life.replacement else "Read another"
            yield Problem(
                f"{owner} reads {reference}, which is retired{_because(life.reason)}.",
                remedy=f"{instead}, or bring it back: tidemark publish {reference}.",
            )


def _because(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _read(definitions: Definitions) -> Iterator[tuple[str, Reference]]:
    """Every reference, and who says it."""
    for item in definitions.on_demand:
        for each in item.inputs:
            yield item.reference, each.reference
    for service in definitions.services:
        for output in service.outputs:
            yield f"The service {service.name}", output.reference


def _unfit(whole: Definitions, said: Definitions) -> list[Problem]:
    """What does not hold for what is said together with what is kept."""
    if whole == said and all(_there(whole, reference) for _, reference in _read(said)):
        return []
    return check_merged(whole)


def _there(definitions: Definitions, reference: Reference) -> bool:
    try:
        definitions.type_of(reference)
    except NotFound:
        return False
    return True


def _restated(definitions: Definitions, sources: Iterable[str]) -> Iterator[Change]:
    for name in sources:
        definitions.source(name)
        affected: set[str] = set()
        for view in definitions.views:
            if view.source == name:
                for feature in view.features:
                    reference = f"{view.name}:{feature.name}@{feature.version}"
                    affected |= {reference, *consumers(definitions, reference)}
        ordered = sorted(affected, key=lambda each: (each.startswith("service "), each))
        yield Change("restated", "source", name, affects=tuple(ordered))


def _altered(change: Change) -> set[str]:
    """The features whose values a change can alter without a new version."""
    through_source = change.kind == "source" or change.through.startswith("source ")
    if change.what == "restated" or (change.what == "meaning" and through_source):
        return {change.name, *change.affects}
    return set()


def _impacts(
    now: Snapshot, whole: Definitions, changes: Iterable[Change], *, everything: bool
) -> Iterator[Impact]:
    altered = {name for change in changes for name in _altered(change)}
    if not altered and not everything:
        return
    for model in now.records.models:
        if model.stage == "production":
            through = [name for name in reads(whole, model) if everything or name in altered]
            if through:
                yield Impact(model.reference, model.owner, tuple(through))


def _reaching(change: Change, whole: Definitions, records: Records) -> Change:
    """The change with the models and datasets that it reaches."""
    if change.what not in {"meaning", "removed", "restated"} or not records.models:
        return _with_datasets(change, records)
    names = {change.name, *change.affects}
    reached = [f"model {model.reference}" for model in records.models if _uses(whole, model, names)]
    return _with_datasets(replace(change, affects=(*change.affects, *reached)), records)


def _with_datasets(change: Change, records: Records) -> Change:
    if change.what not in {"meaning", "restated"}:
        return change
    names = {change.name, *change.affects}
    reached = [
        f"dataset {each.name}" for each in records.datasets if not names.isdisjoint(each.pins)
    ]
    return replace(change, affects=(*change.affects, *reached))


def _uses(whole: Definitions, model: Model, names: Collection[str]) -> bool:
    return any(name in names for name in reads(whole, model))
