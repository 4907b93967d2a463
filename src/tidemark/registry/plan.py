"""A plan: what applying definitions would change, what follows, and what stands in the way."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tidemark.errors import NotFound, PlanConflict
from tidemark.model.defaults import BUILT_IN, Defaults
from tidemark.model.diff import Change
from tidemark.model.fingerprint import ENGINE_EPOCH
from tidemark.model.graph import Definitions
from tidemark.model.plural import counted
from tidemark.model.records import Confirmation
from tidemark.model.twins import Twin
from tidemark.model.window import format_moment

if TYPE_CHECKING:
    from rich.text import Text


class Impact(msgspec.Struct, frozen=True):
    """A model in production some of whose values can change: it must be confirmed for the plan."""

    model: str
    owner: str
    through: tuple[str, ...]


class Backfill(msgspec.Struct, frozen=True):
    """Features of a view that cannot be served before it is materialized.

    `rows`, `events` and `seconds` are those of the last materialization of the view, which is what
    the next one will be like.  Of one that never was, `rows` and `events` are about those that its
    source holds by now (`counted`).  None: that was not measured.  `largest` is how many events the
    largest entity had; `growing` are features whose reads would grow with them, and the approximate
    aggregates whose reads do not.
    """

    view: str
    features: tuple[str, ...]
    rows: int | None = None
    events: int | None = None
    seconds: float | None = None
    largest: int | None = None
    growing: tuple[tuple[str, str], ...] = ()
    counted: bool = False

    def lasting(self, rate: float | None = None) -> float | None:
        """How many seconds it will take if at most `rate` rows are written in each."""
        if not rate or self.rows is None:
            return self.seconds
        return max(self.seconds or 0.0, self.rows / rate)

    def extent(self, rate: float | None = None) -> str:
        """How much it will be, for people."""
        if self.events is None:
            return "not measured: it was never materialized"
        about = counted(self.events, "event")
        if self.rows is not None:
            about = f"{counted(self.rows, 'row')} of {about}"
        seconds = self.lasting(rate)
        in_all = "" if seconds is None else f" in {_lasting(seconds)}"
        return f"about {about}{in_all}, as {'its source has now' if self.counted else 'last time'}"

    def to_dict(self, rate: float | None = None) -> dict[str, Any]:
        """The estimate as JSON values."""
        facts: dict[str, Any] = msgspec.to_builtins(self)
        return facts | {"seconds": self.lasting(rate)}


def _lasting(seconds: float) -> str:
    """A duration for people, as exact as an estimate is."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


class Alike(msgspec.Struct, frozen=True):
    """A feature that is added and another one, equal on a share of the rows of a sample.

    `rows` counts those on which at least one of them says something.
    """

    feature: str
    other: str
    agreement: float
    rows: int

    def __str__(self) -> str:
        share = math.floor(self.agreement * 1_000) / 10
        return f"{self.feature} equals {self.other} on {share}% of {self.rows} rows of a sample"


class Lost(msgspec.Struct, frozen=True):
    """An on-demand feature that the registry keeps but whose code is gone, and what reads it."""

    feature: str
    why: str
    readers: tuple[str, ...] = ()


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What applying `definitions` would change in the registry.

    `revision` and `base` are the number and digest of the revision that it was made against;
    `epoch` is the engine epoch of that revision.  `definitions` are what is said and what is
    `kept`: references of published features that are no longer said.  `drafts` may change still.
    `restated` are sources whose history was rewritten, `defaults` what unsaid things are.  `twins`
    are those of the features that it adds, `alike` those of equal values if they were computed
    (None: they were not), `models` those that need a confirmation, `confirmed`
    those that had one.
    """

    revision: int
    base: str
    epoch: int
    definitions: Definitions
    changes: tuple[Change, ...]
    twins: tuple[Twin, ...] = ()
    kept: tuple[str, ...] = ()
    drafts: tuple[str, ...] = ()
    restated: tuple[str, ...] = ()
    defaults: Defaults = BUILT_IN
    models: tuple[Impact, ...] = ()
    confirmed: tuple[Confirmation, ...] = ()
    backfill: tuple[Backfill, ...] = ()
    lost: tuple[Lost, ...] = ()
    alike: tuple[Alike, ...] | None = None

    @property
    def digest(self) -> str:
        """What identifies the plan: the revision it was made against and where it leads."""
        where = self.revision, self.base, ENGINE_EPOCH
        parts = *where, self.definitions, self.restated, self.defaults
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to apply."""
        return not self.changes and not self.new_epoch

    @property
    def new_epoch(self) -> bool:
        """Whether this release of Tidemark computes some values otherwise than the last one."""
        return self.revision > 0 and self.epoch != ENGINE_EPOCH

    @property
    def refused(self) -> tuple[Change, ...]:
        """The changes that would alter what a published version computes or returns."""
        return tuple(change for change in self.changes if self.refuses(change))

    @property
    def duplicates(self) -> tuple[Twin, ...]:
        """The added features that mean the same as another one under another name."""
        return tuple(twin for twin in self.twins if twin.kind == "same")

    @property
    def unconfirmed(self) -> tuple[Impact, ...]:
        """The models that nobody had confirmed when the plan was made."""
        return self.lacking(self.confirmed)

    def lacking(self, confirmed: Collection[Confirmation]) -> tuple[Impact, ...]:
        """The models that these confirmations leave unconfirmed."""
        models = {each.model for each in confirmed if each.plan == self.digest}
        return tuple(impact for impact in self.models if impact.model not in models)

    def refuses(self, change: Change) -> bool:
        """Whether a change would alter a published version by its own definition.

        What changes because a source did is shown, not refused: there is no version of it to keep.
        """
        if change.kind not in {"feature", "on-demand feature"} or change.name in self.drafts:
            return False
        return change.what in {"meaning", "contract"} and not change.through.startswith("source ")

    def check(self, allow_duplicates: Collection[str] = ()) -> None:
        """Raise `PlanConflict` if the plan holds a change that cannot be applied.

        `allow_duplicates` names features (`view:feature`) that may mean the same as another one.
        """
        if self.refused:
            names = ", ".join(change.name for change in self.refused)
            raise PlanConflict(
                f"A published version cannot change what it computes: {names}.",
                where="\n".join(
                    f"{change.name}  {line}" for change in self.refused for line in details(change)
                ),
                remedy="Declare a new version beside what reads the old one: version=2 on the "
                "aggregate, the view or the on-demand function; or undo the change.",
            )
        missed = [each for each in self.lost if each.readers]
        if missed:
            raise PlanConflict(
                "The code of on-demand features that are still read is gone.",
                where="\n".join(
                    f"{each.feature}: {each.why}; read by {', '.join(each.readers)}"
                    for each in missed
                ),
                remedy="Keep the function in a module that `definitions` names, or move what reads "
                "it to another version.",
            )
        allowed = {name.partition("@")[0] for name in allow_duplicates}
        second = [
            twin
            for twin in self.duplicates
            if allowed.isdisjoint(each.partition("@")[0] for each in (twin.first, twin.second))
        ]
        if second:
            added = {change.name for change in self.changes if change.what == "added"}
            one = next(each for each in (second[0].second, second[0].first) if each in added)
            allow = f'tidemark apply --allow-duplicate {one.partition("@")[0]} --reason "..."'
            left = [each for twin in second for each in (twin.first, twin.second)]
            renamed = [each for each in self.kept if each in left]
            raise PlanConflict(
                "The same meaning would have two names.",
                where="\n".join(str(twin) for twin in second),
                remedy=_after_renaming(renamed[0], allow)
                if renamed
                else f"Use the one that is there; or keep both and say why: {allow}, "
                "store.apply(plan, allow_duplicates=[...], reason=...).",
            )

    def write(self, path: str | Path) -> None:
        """Save the plan, to be looked at and applied later from the same revision."""
        body = msgspec.to_builtins(self)
        sealed = {"tidemark_plan": 1, "digest": self.digest, "seal": _seal(body), "plan": body}
        Path(path).write_bytes(msgspec.json.format(msgspec.json.encode(sealed), indent=1))

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """A plan that was saved; raises `PlanConflict` if it was altered since."""
        try:
            sealed: dict[str, Any] = msgspec.json.decode(Path(path).read_bytes())
            body = sealed["plan"]
            plan = msgspec.convert(body, cls)
        except FileNotFoundError:
            raise NotFound(
                f"There is no plan {str(path)!r}.", remedy=f"Make it: tidemark plan --out {path}"
            ) from None
        except (msgspec.MsgspecError, KeyError, TypeError, UnicodeDecodeError):
            raise PlanConflict(
                f"{str(path)!r} is not a plan of this Tidemark.",
                remedy=f"Make one: tidemark plan --out {path}",
            ) from None
        if sealed.get("seal") != _seal(body) or sealed.get("digest") != plan.digest:
            raise PlanConflict(
                "The plan is not what was saved: somebody edited it.",
                where=str(path),
                remedy="Change the definitions and plan again.",
            )
        return plan

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        facts = msgspec.to_builtins(self)
        names = ("twins", "alike", "kept", "models", "confirmed", "backfill", "lost", "restated")
        return {
            "revision": self.revision,
            "digest": self.digest,
            "changes": [
                {
                    **msgspec.to_builtins(change),
                    "class": change.category,
                    "refused": self.refuses(change),
                }
                for change in self.changes
            ],
            "new_engine_epoch": self.new_epoch,
            **{name: facts.get(name, ()) for name in names},
        }

    def to_markdown(self) -> str:
        """The plan for a review, as Markdown."""
        from tidemark.registry.rendering import markdown

        return markdown(self)

    def __rich__(self) -> Text:
        """The plan in colour."""
        from tidemark.registry.rendering import text

        return text(self)

    def __str__(self) -> str:
        return self.__rich__().plain

    __repr__ = __str__


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What `apply` did: the revision that is now in force and the changes that led to it."""

    revision: int
    digest: str
    author: str
    at: int
    reason: str
    changes: tuple[Change, ...]

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return {**msgspec.to_builtins(self), "at": format_moment(self.at)}

    def __str__(self) -> str:
        if not self.changes:
            return f"Nothing to change; revision {self.revision} is in force."
        changes = counted(len(self.changes), "change")
        return f"Applied {changes}; revision {self.revision} is in force."

    __repr__ = __str__


def details(change: Change) -> list[str]:
    """The differences of a change and what follows from it, one line each."""
    lines = [
        f"{each.field}: {each.before or 'none'} -> {each.after or 'none'}" for each in change.fields
    ]
    if change.through:
        lines.append(f"because {change.through} changed")
    if change.affects:
        lines.append(f"read by {', '.join(change.affects)}")
    return lines


def unconfirmed_error(lacking: Sequence[Impact], digest: str) -> PlanConflict:
    """That models must be confirmed first, and by whom."""
    lines = [
        f"{each.model}: by {each.owner or 'an administrator'}, for {', '.join(each.through)}"
        for each in lacking
    ]
    first = lacking[0]
    return PlanConflict(
        "Models in production would receive other values, and are not confirmed: "
        f"{', '.join(each.model for each in lacking)}.",
        where="\n".join(lines),
        remedy=f"tidemark confirm PLAN --model {first.model} --by {first.owner or '...'}, "
        f"store.registry.confirm(plan, model={first.model!r}, by=...); the plan is {digest}.",
        unconfirmed=tuple(each.model for each in lacking),
    )


def _seal(body: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).hexdigest()


def _after_renaming(old: str, allow: str) -> str:
    """How a published feature that is no longer in the definitions gives way to its new name."""
    return (
        f"{old} is kept, though the definitions do not hold it any more. To rename it, end it and "
        f"plan again: tidemark retire {old}. While something still reads it, let both stand for as "
        f"long as that takes: {allow}; then move the readers and retire it."
    )
