"""What a read asks for, with what the registry says about it: models, lives, versions."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from tidemark import define
from tidemark.errors import NotFound
from tidemark.model.graph import Definitions, Output
from tidemark.model.records import Lifecycle, Records

_MODEL = "model:"

# Deprecations that were told in this process.
_told: set[str] = set()


def named(features: object, records: Records) -> object:
    """What is asked for; a text `model:fraud@3` becomes the model, whose pins are read."""
    if isinstance(features, str) and features.startswith(_MODEL):
        return records.model(features.removeprefix(_MODEL))
    return features


def outputs(
    features: object, definitions: Definitions, records: Records, *, full_names: bool = False
) -> tuple[Output, ...]:
    """The columns of what is asked for; warns once in a process of each that is deprecated.

    Raises as `define.outputs` does, and says of a retired feature that it is.
    """
    try:
        found = define.outputs(
            features, definitions, full_names=full_names, stages=records.stages()
        )
    except NotFound as error:
        for life in records.lifecycle:
            if life.stage == "retired" and life.feature in f"{error.what} {features}":
                raise _retired(life) from None
        if isinstance(features, str) and features in {each.reference for each in records.models}:
            remedy = f'The model is "{_MODEL}{features}".'
            raise NotFound(f"There is no feature {features!r}.", remedy=remedy) from None
        raise
    _warn(definitions, records, found)
    return found


def _warn(definitions: Definitions, records: Records, found: Iterable[Output]) -> None:
    lives = {each.feature: each for each in records.lifecycle if each.stage == "deprecated"}
    if not lives:
        return
    for reference in definitions.needed(output.reference for output in found):
        life = lives.get(str(reference))
        if life is not None and life.feature not in _told:
            _told.add(life.feature)
            warnings.warn(_deprecation(life), FutureWarning, stacklevel=4)


def _deprecation(life: Lifecycle) -> str:
    why = f" ({life.reason})" if life.reason else ""
    end = f" It may end on {life.sunset}." if life.sunset else ""
    instead = f" Read {life.replacement} instead." if life.replacement else ""
    return f"{life.feature} is deprecated{why}.{end}{instead}"


def _retired(life: Lifecycle) -> NotFound:
    why = f" ({life.reason})" if life.reason else ""
    instead = f"Read {life.replacement} instead." if life.replacement else "Read another version."
    return NotFound(
        f"{life.feature} is retired{why}.",
        remedy=f"{instead} What it meant is in the registry's history: tidemark log.",
    )
