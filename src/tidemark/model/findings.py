"""Problems as they are found, each naming its subject as its author spelled it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from tidemark.errors import DefinitionError, Problem
from tidemark.model.types import Type
from tidemark.model.window import check_zone


class Subject(NamedTuple):
    """What a problem is about: a definition, or one of its parts."""

    kind: str
    owner: str
    name: str = ""


class Spelling(NamedTuple):
    """How the author wrote a subject, and where; `str` of it is `file.py:24   the line`."""

    label: str
    where: object = ""


class Findings:
    """The problems found so far."""

    def __init__(self, spelled: Mapping[Subject, Spelling]) -> None:
        self.spelled = spelled
        self.problems: list[Problem] = []

    def label(self, subject: Subject) -> str:
        """The subject as its author wrote it."""
        if subject in self.spelled:
            return self.spelled[subject].label
        separator = ":" if subject.kind == "view" else "."
        return f"{subject.owner}{separator}{subject.name}" if subject.name else subject.owner

    def say(self, subject: Subject, what: str, remedy: str = "") -> None:
        """Note a problem of the subject, at its line or at that of its definition."""
        whole = Subject(subject.kind, subject.owner)
        spelling = self.spelled.get(subject) or self.spelled.get(whole)
        self.problems.append(Problem(what, str(spelling.where) if spelling else "", remedy))

    def identifier(self, subject: Subject, name: str) -> None:
        """A name is an identifier."""
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            self.say(
                subject,
                f"{name!r} cannot be a name.",
                "Names are letters, digits and underscores, and do not begin with a digit.",
            )

    def zone(self, subject: Subject, name: str) -> None:
        """A time zone exists."""
        try:
            check_zone(name)
        except DefinitionError as error:
            self.say(subject, f"{self.label(subject)}: {error.what}", error.remedy)


def spoken_type(type_: Type) -> str:
    """A type in the middle of a sentence."""
    return {"string": "text", "bool": "true or false"}.get(type_.name, f"a {type_}")
