"""What is asked for, as columns: services, features, on-demand functions, or their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import msgspec

from tidemark.define.declarations import Declaration
from tidemark.define.expressions import Col
from tidemark.define.features import Feature, is_feature
from tidemark.define.linking import link
from tidemark.define.lowering import lower
from tidemark.define.on_demand import OnDemandFunction, is_function
from tidemark.define.views import FeatureService, FeatureView, expanded
from tidemark.errors import NotFound, PlanConflict, RequestInvalid
from tidemark.model import graph
from tidemark.model.graph import Definitions, Output, Reference, parse_reference
from tidemark.model.records import Model, Stage


def outputs(
    features: object,
    definitions: Definitions,
    *,
    full_names: bool = False,
    stages: Mapping[str, Stage] | None = None,
) -> tuple[Output, ...]:
    """The columns of what is asked for: a service, a model, a feature, their names, or a list.

    A name without a version means the newest published one; `stages` are those of the features that
    are not simply published.  `full_names` names each column of a feature `view__feature`.
    Raises `NotFound` for what is not defined, `PlanConflict` for what is defined otherwise than
    asked, and `RequestInvalid` for a name that would occur twice.
    """
    known = _Known(definitions, stages or {})
    found = _service(_only(features), definitions)
    if found is None:
        alone = isinstance(features, str | type | msgspec.Struct | Feature | OnDemandFunction | Col)
        several = () if alone else cast("Iterable[object]", features)
        listed: list[object] = [features] if alone else list(several)
        references = [
            reference for each in expanded(listed) for reference in _references(each, known)
        ]
        found = [Output(reference.name, reference) for reference in references]
    if not found:
        raise RequestInvalid("No features are asked for.", remedy="Name a service, or features.")
    for output in found:
        definitions.type_of(output.reference)
    if full_names:
        names = Counter(_full_name(each) for each in {output.reference for output in found})
        found = [
            Output(_full_name(each.reference, versions=names), each.reference) for each in found
        ]
    twice = [name for name, times in Counter(each.name for each in found).items() if times > 1]
    if twice:
        named = [str(each.reference) for each in found if each.name == twice[0]]
        raise RequestInvalid(
            f"The name {twice[0]!r} would occur twice.",
            where=", ".join(named),
            remedy="Pass full_names=True, or ask for a service, which names its features."
            if len(set(named)) > 1
            else "Ask for the feature once.",
        )
    return tuple(found)


def _only(features: object) -> object:
    """What a list of one holds, so that `["fraud"]` is that service."""
    if not isinstance(features, list | tuple):
        return features
    listed = list(cast("Iterable[object]", features))
    return listed[0] if len(listed) == 1 else listed


def _full_name(reference: Reference, versions: Mapping[str, int] | None = None) -> str:
    """`view__feature`; where several versions have that name, `view__feature@2`."""
    name = f"{reference.owner}__{reference.name}" if reference.owner else reference.name
    return f"{name}@{reference.version}" if versions and versions[name] > 1 else name


def _service(features: object, definitions: Definitions) -> list[Output] | None:
    """The outputs of a service as applied; None if what is asked for is not a service."""
    if isinstance(features, str):
        names = {service.name for service in definitions.services}
        return list(definitions.service(features).outputs) if features in names else None
    if isinstance(features, Model):
        return list(features.outputs)
    if isinstance(features, graph.FeatureService):
        asked = link(Definitions.of([features]), definitions).service(features.name)
    elif isinstance(features, type) and issubclass(features, FeatureService):
        own = link(_lowered(features), definitions)
        asked = own.service(features.__about__.name)
        for output in asked.outputs:
            _same(output.reference, own, definitions)
    else:
        return None
    applied = definitions.service(asked.name)
    if applied.outputs != asked.outputs:
        raise PlanConflict(
            f"The service {asked.name!r} is not the one that was applied.",
            remedy="Apply it: store.apply(store.plan()).",
        )
    return list(applied.outputs)


class _Known:
    """What is defined, and which version of it a name means."""

    def __init__(self, definitions: Definitions, stages: Mapping[str, Stage]) -> None:
        self.definitions = definitions
        self._stages = stages

    def newest(
        self, kind: Literal["feature", "on_demand"], name: str, owner: str = ""
    ) -> Reference:
        """The newest version that is published, or else the newest draft."""
        versions = self.definitions.versions(owner, name)
        found = [Reference(kind, name, owner, version) for version in versions]
        published = [each for each in found if self._stages.get(str(each)) != "draft"]
        for each in published or found:
            return each
        missing = Reference(kind, name, owner)
        self.definitions.type_of(missing)
        return missing

    def features(self, view: str) -> dict[str, None]:
        """The names of all features of a view, those of its current definition first."""
        views = self.definitions.variants(view)
        return dict.fromkeys(feature.name for each in views for feature in each.features)

    def of_view(self, view: str) -> list[Reference]:
        """Every feature of a view."""
        return [self.newest("feature", name, view) for name in self.features(view)]


def _references(each: object, known: _Known) -> list[Reference]:
    definitions = known.definitions
    if isinstance(each, Reference):
        return [each]
    if isinstance(each, str):
        return _by_name(each, known)
    if isinstance(each, graph.FeatureView):
        view = definitions.view(each.name)
        return [Reference("feature", f.name, view.name, f.version) for f in view.features]
    if isinstance(each, graph.OnDemand):
        return [Reference("on_demand", each.name, version=each.version)]
    if isinstance(each, graph.Feature):
        return _by_name(each.name, known)
    if is_feature(each) and each.view is not None:
        declared = cast("type[FeatureView]", each.view)
        reference = Reference("feature", each.name, declared.__about__.name, each.version)
        _same(reference, _lowered(declared), definitions)
        return [reference]
    if is_function(each):
        reference = Reference("on_demand", each.name, version=each.version)
        _same(reference, link(_lowered(each), definitions), definitions)
        return [reference]
    if isinstance(each, type) and issubclass(each, FeatureService):
        raise _among(each.__about__.name)
    raise RequestInvalid(
        f"{each!r} is not a feature.",
        remedy='Ask for a service, or a list: [UserSpend.spend["7d"], "user_spend:typical"].',
    )


def _by_name(text: str, known: _Known) -> list[Reference]:
    """What a text names: `view:feature`, `view`, an on-demand feature, or a feature of one view."""
    definitions = known.definitions
    if "@" in text:
        return [_of_version(text, known)]
    if ":" in text:
        owner, _, name = text.rpartition(":")
        return [known.newest("feature", name, owner)]
    if text in {each.name for each in definitions.on_demand}:
        return [known.newest("on_demand", text)]
    views = {view.name: known.features(view.name) for view in definitions.views}
    if text in views and text not in views[text]:
        return known.of_view(text)
    owners = [name for name, features in views.items() if text in features]
    if len(owners) == 1:
        return [known.newest("feature", text, owners[0])]
    if owners:
        raise RequestInvalid(
            f"Several views have a feature {text!r}.",
            remedy=f"Name one: {', '.join(f'{name}:{text}' for name in owners)}.",
        )
    names = [service.name for service in definitions.services]
    if text in names:
        raise _among(text)
    names += [each.name for each in definitions.on_demand]
    names += [f"{view}:{name}" for view, features in views.items() for name in features]
    raise NotFound.named("service or feature", text, names)


def _of_version(text: str, known: _Known) -> Reference:
    """The feature of which a text names a version; only features have some."""
    reference = parse_reference(text)
    name = reference.name
    if reference.owner or known.definitions.versions("", name):
        return reference
    if name in {service.name for service in known.definitions.services}:
        raise NotFound(
            f"There is no feature {text!r}, and a service has no versions.",
            remedy=f'Ask for the service, "{name}", or for a version of its model, "model:{text}".',
        )
    first, *_ = _by_name(name, known)
    if first.name != name:
        raise NotFound(
            f"There is no feature {text!r}, and a view has no versions.",
            remedy=f'Ask for the view, "{name}", or for a version of a feature, "{first}".',
        )
    return msgspec.structs.replace(first, version=reference.version)


def _among(service: str) -> RequestInvalid:
    return RequestInvalid(
        f"{service!r} is a service, and a list holds features.",
        remedy="Ask for the service alone, or for the features that you need.",
    )


def _lowered(item: type[Declaration] | OnDemandFunction[..., Any]) -> Definitions:
    """What a class or function means; lowered once, since it does not change."""
    kept = vars(item).get("__lowered__")
    if isinstance(kept, Definitions):
        return kept
    definitions = lower(item, applied=None).definitions
    setattr(item, "__lowered__", definitions)  # noqa: B010  # a class or a function alike
    return definitions


def _same(reference: Reference, asked: Definitions, applied: Definitions) -> None:
    """Refuse a feature whose definition in this process is not the one that was applied."""
    applied.type_of(reference)
    if reference.version not in asked.versions(reference.owner, reference.name):
        return  # named by text, so that there is nothing to compare
    if reference.kind == "feature":
        mine, theirs = (each.locate(reference)[1] for each in (asked, applied))
        same = (mine.aggregate, mine.type) == (theirs.aggregate, theirs.type)
    elif reference.kind == "on_demand":
        version = reference.version
        mine_, theirs_ = (d.on_demand_feature(reference.name, version) for d in (asked, applied))
        same = (mine_.inputs, mine_.type) == (theirs_.inputs, theirs_.type)
    else:
        same = True
    if not same:
        raise PlanConflict(
            f"{reference} is not defined as what was applied.",
            remedy="Apply the definitions: store.apply(store.plan()); or name it by text.",
        )
