"""Models and datasets: what is built on features, and what it was built on exactly."""

from __future__ import annotations

from tidemark.errors import PlanConflict, RequestInvalid
from tidemark.model.graph import Definitions
from tidemark.model.lineage import Consumer
from tidemark.model.records import MODEL_STAGES, Model, Records


def with_model(records: Records, definitions: Definitions, model: Model) -> Records:
    """Records with a model; one that is there already keeps its pins.

    Raises `NotFound` if it reads what is not defined, `PlanConflict` if its version is taken by
    other features or if it reads what its dataset has not.
    """
    if model.stage not in MODEL_STAGES:
        raise RequestInvalid(
            f"There is no stage {model.stage!r}.", remedy=f"Stages are {', '.join(MODEL_STAGES)}."
        )
    for output in model.outputs:
        definitions.type_of(output.reference)
    for there in records.models:
        if there.reference == model.reference and there.outputs != model.outputs:
            newest = records.model(model.name).version
            raise PlanConflict(
                f"The model {model.reference} is registered with other features.",
                where=difference(there, model),
                remedy=f"What a model reads never changes; register version {newest + 1}.",
            )
    if model.stage == "production":
        refuse_drafts(records, definitions, model)
    if model.dataset:
        _refuse_untrained(records, model)
    return records.with_model(model)


def _refuse_untrained(records: Records, model: Model) -> None:
    """Raise `PlanConflict` if a model would read what the dataset it was trained on has not."""
    pins = records.dataset(model.dataset).pins
    references = [each.reference for each in model.outputs if each.reference.kind != "request"]
    missing = [str(reference) for reference in references if str(reference) not in pins]
    if missing:
        raise PlanConflict(
            f"The model {model.reference} reads what it was not trained on.",
            where=f"not in the dataset {model.dataset}: {', '.join(missing)}\n"
            f"which has {', '.join(pins)}",
            remedy="Name the dataset that it was trained on, or the features of this one.",
        )


def registered(records: Records) -> tuple[Consumer, ...]:
    """The datasets and models that are kept, as what reads features; a model reads its dataset."""
    datasets = (Consumer("dataset", each.name, each.pins, each.owner) for each in records.datasets)
    models = (
        Consumer(
            "model",
            model.reference,
            (
                *(str(output.reference) for output in model.outputs),
                *((f"dataset {model.dataset}",) if model.dataset else ()),
            ),
            model.owner,
        )
        for model in records.models
    )
    return (*datasets, *models)


def refuse_drafts(records: Records, definitions: Definitions, model: Model) -> None:
    """Raise `PlanConflict` if a production model would read a draft."""
    drafts = [name for name in reads(definitions, model) if records.life(name).stage == "draft"]
    if drafts:
        raise PlanConflict(
            f"The model {model.reference} is in production and would read drafts.",
            where=", ".join(drafts),
            remedy=f"Publish them first: tidemark publish {drafts[0]}.",
        )


def difference(one: Model, other: Model) -> str:
    """The pins in which two models differ."""
    before = {output.name: str(output.reference) for output in one.outputs}
    after = {output.name: str(output.reference) for output in other.outputs}
    names = [name for name in before | after if before.get(name) != after.get(name)]
    return (
        "\n".join(
            f"{name}: {before.get(name, 'none')} -> {after.get(name, 'none')}" for name in names
        )
        or "the order of the columns"
    )


def reads(definitions: Definitions, model: Model) -> tuple[str, ...]:
    """The references of every feature and on-demand feature that a model's values come from."""
    needed = definitions.needed(output.reference for output in model.outputs)
    return tuple(str(each) for each in needed if each.kind != "request")
