"""What is asked for, as columns: services, features, on-demand functions, or their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

import msgspec

from tidemark.define.declarations import Declaration
from tidemark.define.expressions import Col
from tidemark.define.features import Feature, is_feature
from tidemark.define.lowering import lower
from tidemark.define.on_demand import OnDemandFunction, is_function
from tidemark.define.views import FeatureService, FeatureView, expanded
from tidemark.errors import NotFound, PlanConflict, RequestInvalid
from tidemark.model import graph
from tidemark.model.graph import Definitions, Output, Reference, parse_reference


def outputs(
    features: object, definitions: Definitions, *, full_names: bool = False
) -> tuple[Output, ...]:
    """The columns of what is asked for: a service, a feature, their names, or a list of such.

    `full_names` names each column of a feature `view__feature`.  Raises `NotFound` for what is
    not defined, `PlanConflict` for what is defined otherwise than asked, and `RequestInvalid` for a
    name that would occur twice.
    """
    found = _service(features, definitions)
    if found is None:
        alone = isinstance(features, str | type | msgspec.Struct | Feature | OnDemandFunction | Col)
        several = () if alone else cast("Iterable[object]", features)
        listed: list[object] = [features] if alone else list(several)
        references = [
            reference for each in expanded(listed) for reference in _references(each, definitions)
        ]
        found = [Output(reference.name, reference) for reference in references]
    if not found:
        raise RequestInvalid("No features are asked for.", remedy="Name a service, or features.")
    for output in found:
        _version(output.reference, definitions)
    if full_names:
        found = [Output(_full_name(each.reference), each.reference) for each in found]
    twice = [name for name, times in Counter(each.name for each in found).items() if times > 1]
    if twice:
        raise RequestInvalid(
            f"The name {twice[0]!r} would occur twice.",
            where=", ".join(str(each.reference) for each in found if each.name == twice[0]),
            remedy="Pass full_names=True, or ask for a service, which names its features.",
        )
    return tuple(found)


def _full_name(reference: Reference) -> str:
    return f"{reference.owner}__{reference.name}" if reference.owner else reference.name


def _service(features: object, definitions: Definitions) -> list[Output] | None:
    """The outputs of a service as applied; None if what is asked for is not a service."""
    if isinstance(features, str):
        names = {service.name for service in definitions.services}
        return list(definitions.service(features).outputs) if features in names else None
    if isinstance(features, graph.FeatureService):
        asked = features
    elif isinstance(features, type) and issubclass(features, FeatureService):
        asked = _lowered(features).service(features.__about__.name)
        for output in asked.outputs:
            _same(output.reference, _lowered(features), definitions)
    else:
        return None
    applied = definitions.service(asked.name)
    if applied.outputs != asked.outputs:
        raise PlanConflict(
            f"The service {asked.name!r} is not the one that was applied.",
            remedy="Apply it: store.apply(store.plan()).",
        )
    return list(applied.outputs)


def _references(each: object, definitions: Definitions) -> list[Reference]:
    if isinstance(each, Reference):
        return [each]
    if isinstance(each, str):
        return _by_name(each, definitions)
    if isinstance(each, graph.FeatureView):
        view = definitions.view(each.name)
        return [Reference("feature", f.name, view.name, f.version) for f in view.features]
    if isinstance(each, graph.OnDemand):
        return [Reference("on_demand", each.name, version=each.version)]
    if isinstance(each, graph.Feature):
        return _by_name(each.name, definitions)
    if is_feature(each) and each.view is not None:
        declared = cast("type[FeatureView]", each.view)
        reference = Reference("feature", each.name, declared.__about__.name, each.version)
        _same(reference, _lowered(declared), definitions)
        return [reference]
    if is_function(each):
        reference = Reference("on_demand", each.name, version=each.version)
        _same(reference, _lowered(each), definitions)
        return [reference]
    raise RequestInvalid(
        f"{each!r} is not a feature.",
        remedy='Ask for a service, or a list: [UserSpend.spend["7d"], "user_spend:typical"].',
    )


def _by_name(text: str, definitions: Definitions) -> list[Reference]:
    """What a text names: `view:feature`, `view`, an on-demand feature, or a feature of one view."""
    if ":" in text:
        return [referred(text, definitions)]
    if text in {each.name for each in definitions.on_demand} or "@" in text:
        return [referred(text, definitions)]
    for view in definitions.views:
        if view.name == text and text not in {feature.name for feature in view.features}:
            return [Reference("feature", f.name, view.name, f.version) for f in view.features]
    owners = [view for view in definitions.views if text in {f.name for f in view.features}]
    if len(owners) == 1:
        feature = owners[0].feature(text)
        return [Reference("feature", text, owners[0].name, feature.version)]
    if owners:
        raise RequestInvalid(
            f"Several views have a feature {text!r}.",
            remedy=f"Name one: {', '.join(f'{view.name}:{text}' for view in owners)}.",
        )
    known = [service.name for service in definitions.services]
    known += [each.name for each in definitions.on_demand]
    known += [f"{view.name}:{f.name}" for view in definitions.views for f in view.features]
    raise NotFound.named("service or feature", text, known)


def referred(text: str, definitions: Definitions) -> Reference:
    """The reference that a text spells; without `@2`, to the version that is defined."""
    reference = parse_reference(text)
    if "@" in text:
        return reference
    return msgspec.structs.replace(reference, version=_declared_version(reference, definitions))


def _declared_version(reference: Reference, definitions: Definitions) -> int:
    if reference.kind == "feature":
        return definitions.view(reference.owner).feature(reference.name).version
    if reference.kind == "on_demand":
        return definitions.on_demand_feature(reference.name).version
    definitions.type_of(reference)
    return 1


def _version(reference: Reference, definitions: Definitions) -> None:
    declared = _declared_version(reference, definitions)
    if reference.version != declared:
        raise NotFound(
            f"There is no {reference}.", remedy=f"What is defined is version {declared}."
        )


def _lowered(item: type[Declaration] | OnDemandFunction[..., Any]) -> Definitions:
    """What a class or function means; lowered once, since it does not change."""
    kept = vars(item).get("__lowered__")
    if isinstance(kept, Definitions):
        return kept
    definitions = lower(item).definitions
    setattr(item, "__lowered__", definitions)  # noqa: B010  # a class or a function alike
    return definitions


def _same(reference: Reference, asked: Definitions, applied: Definitions) -> None:
    """Refuse a feature whose definition in this process is not the one that was applied."""
    _version(reference, applied)
    if reference.kind == "feature":
        mine = asked.view(reference.owner).feature(reference.name)
        theirs = applied.view(reference.owner).feature(reference.name)
        same = (mine.aggregate, mine.type) == (theirs.aggregate, theirs.type)
    elif reference.kind == "on_demand":
        mine_, theirs_ = (d.on_demand_feature(reference.name) for d in (asked, applied))
        same = (mine_.inputs, mine_.type) == (theirs_.inputs, theirs_.type)
    else:
        same = True
    if not same:
        raise PlanConflict(
            f"{reference} is not defined as what was applied.",
            remedy="Apply the definitions: store.apply(store.plan()); or name it by text.",
        )
