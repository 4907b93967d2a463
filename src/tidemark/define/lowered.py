"""What reading definitions gives: of a document its objects, of everything together the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tidemark.model import graph
from tidemark.model.findings import Spelling, Subject


@dataclass(frozen=True)
class Lowered:
    """Definitions, with what of them lives in this process only."""

    definitions: graph.Definitions
    functions: Mapping[str, Callable[..., Any]] = field(
        default_factory=dict[str, Callable[..., Any]]
    )
    frames: Mapping[str, object] = field(default_factory=dict[str, object])


class Loaded(list[graph.Definition]):
    """The model objects of a document, with the lines that declared them."""

    def __init__(self) -> None:
        super().__init__()
        self.spelled: dict[Subject, Spelling] = {}
        self.frames: dict[str, object] = {}
        self.pinned: set[graph.Reference] = set()
        # What a view or source does not say, for the project's defaults.
        self.unsaid: dict[tuple[str, str], set[str]] = {}
