"""What the registry keeps beside definitions: the lives of features, models, datasets, consent.

All of it is small, frozen and refers to definitions by their references, so that one revision is
two documents: what is defined, and what has been said about it.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from tidemark.errors import NotFound
from tidemark.model.defaults import BUILT_IN, Defaults
from tidemark.model.graph import Output

Stage = Literal["draft", "published", "deprecated", "retired"]
ModelStage = Literal["development", "production", "retired"]
MODEL_STAGES: tuple[ModelStage, ...] = get_args(ModelStage)


class Lifecycle(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Where a feature (`user_spend:spend_7d@1`) is in its life; without one it is published.

    A draft may change its meaning and promises nothing.  A deprecated feature serves on: `sunset`
    is the date it may end, `replacement` the reference to read instead.  A retired one serves no
    more; its definition stays readable.
    """

    feature: str
    stage: Stage
    replacement: str = ""
    sunset: str = ""
    reason: str = ""


class Model(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A model and the exact feature versions that it was built on, under the names that it reads.

    `service` is where the outputs came from, if from one; `dataset` the one it was trained on.
    """

    name: str
    version: int
    outputs: tuple[Output, ...]
    service: str = ""
    dataset: str = ""
    owner: str = ""
    stage: ModelStage = "production"

    @property
    def reference(self) -> str:
        """`fraud@3`."""
        return f"{self.name}@{self.version}"


class DatasetRecord(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A saved training set: where it lies, what it was made from, and the hashes that prove it.

    `revision` is that of the registry; `pins` are references; `created` is microseconds since 1970.
    """

    name: str
    path: str
    revision: int
    pins: tuple[str, ...]
    content_hash: str
    label_hash: str
    rows: int
    created: int
    owner: str = ""


class Confirmation(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """That somebody answerable for a model consents to one plan; `at` as everywhere."""

    plan: str
    model: str
    by: str
    at: int


class Records(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Everything kept beside definitions as of one revision, each kind in the order of its names.

    `confirmations` are those that the revision itself rested on, `defaults` those that definitions
    were completed with.
    """

    lifecycle: tuple[Lifecycle, ...] = ()
    models: tuple[Model, ...] = ()
    datasets: tuple[DatasetRecord, ...] = ()
    confirmations: tuple[Confirmation, ...] = ()
    defaults: Defaults = BUILT_IN

    def life(self, feature: str) -> Lifecycle:
        """Where the feature of that reference is in its life."""
        for each in self.lifecycle:
            if each.feature == feature:
                return each
        return Lifecycle(feature, "published")

    def stages(self) -> dict[str, Stage]:
        """The stages of all features that are not simply published."""
        return {each.feature: each.stage for each in self.lifecycle}

    def model(self, reference: str) -> Model:
        """The model `fraud@3`; without a version the newest of that name.  Raises `NotFound`."""
        name, _, version = reference.partition("@")
        found = [each for each in self.models if each.name == name]
        if version:
            found = [each for each in found if str(each.version) == version]
        if not found:
            known = (each.reference for each in self.models)
            make = "Register one: tidemark model register, or store.registry.register_model."
            raise NotFound.named("model", reference, known, make=make)
        return max(found, key=lambda each: each.version)

    def dataset(self, name: str) -> DatasetRecord:
        """The dataset of that name; raises `NotFound`."""
        for each in self.datasets:
            if each.name == name:
                return each
        make = "Keep one: tidemark train --save-as NAME, or training_set(..., save_as=NAME)."
        raise NotFound.named("dataset", name, (each.name for each in self.datasets), make=make)

    def with_life(self, life: Lifecycle) -> Records:
        """Records in which the feature has this life; published is said by saying nothing."""
        rest = {each.feature: each for each in self.lifecycle if each.feature != life.feature}
        if life.stage != "published":
            rest[life.feature] = life
        lifecycle = tuple(sorted(rest.values(), key=lambda each: each.feature))
        return msgspec.structs.replace(self, lifecycle=lifecycle)

    def with_model(self, model: Model) -> Records:
        """Records with the model, in the place of one of the same name and version."""
        models = {(each.name, each.version): each for each in self.models}
        models[model.name, model.version] = model
        return msgspec.structs.replace(self, models=tuple(models[key] for key in sorted(models)))

    def with_dataset(self, dataset: DatasetRecord) -> Records:
        """Records with the dataset, in the place of one of the same name."""
        datasets = {each.name: each for each in self.datasets} | {dataset.name: dataset}
        return msgspec.structs.replace(
            self, datasets=tuple(datasets[name] for name in sorted(datasets))
        )
