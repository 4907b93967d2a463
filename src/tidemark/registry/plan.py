"""A plan: what applying definitions would change, and what cannot be changed like that."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import msgspec

from tidemark.errors import PlanConflict
from tidemark.model.diff import Change
from tidemark.model.fingerprint import ENGINE_EPOCH
from tidemark.model.graph import Definitions
from tidemark.model.twins import Twin
from tidemark.model.window import format_moment

if TYPE_CHECKING:
    from rich.text import Text

_SYMBOLS = {"added": ("+", "green"), "removed": ("-", "red"), "meaning": ("!", "magenta")}
_CHANGED = ("~", "yellow")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What applying `definitions` would change in the registry.

    `revision` and `base` are the number and digest of the revision that it was made against;
    `epoch` is the engine epoch of that revision.  `twins` are those of the features that it adds.
    """

    revision: int
    base: str
    epoch: int
    definitions: Definitions
    changes: tuple[Change, ...]
    twins: tuple[Twin, ...] = ()

    @property
    def digest(self) -> str:
        """What identifies the plan: the revision it was made against and where it leads."""
        text = msgspec.json.encode((self.revision, self.base, ENGINE_EPOCH, self.definitions))
        return hashlib.sha256(text).hexdigest()[:16]

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
        return tuple(change for change in self.changes if _refused(change))

    @property
    def duplicates(self) -> tuple[Twin, ...]:
        """The added features that mean the same as another one under another name."""
        return tuple(twin for twin in self.twins if twin.kind == "same")

    def check(self, allow_duplicates: Collection[str] = ()) -> None:
        """Raise `PlanConflict` if the plan holds a change that cannot be applied.

        `allow_duplicates` names features (`view:feature`) that may mean the same as another one.
        """
        if self.refused:
            names = ", ".join(change.name for change in self.refused)
            raise PlanConflict(
                f"A published version cannot change what it computes: {names}.",
                where="\n".join(
                    f"{change.name}  {line}" for change in self.refused for line in _details(change)
                ),
                remedy="Declare a new version beside what reads the old one: version=2 on the "
                "aggregate, the view or the on-demand function; or undo the change.",
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
            raise PlanConflict(
                "The same meaning would have two names.",
                where="\n".join(str(twin) for twin in second),
                remedy="Use the one that is there; or keep both and say why: tidemark apply "
                f'--allow-duplicate {one.partition("@")[0]} --reason "...", '
                "store.apply(plan, allow_duplicates=[...], reason=...).",
            )

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {
            "revision": self.revision,
            "digest": self.digest,
            "changes": [
                {**msgspec.to_builtins(change), "refused": _refused(change)}
                for change in self.changes
            ],
            "new_engine_epoch": self.new_epoch,
            "twins": msgspec.to_builtins(self.twins),
        }

    def __rich__(self) -> Text:
        """The plan in colour."""
        return self._render()

    def __str__(self) -> str:
        return self._render().plain

    __repr__ = __str__

    def _render(self) -> Text:
        from rich.text import Text

        against = f"revision {self.revision}" if self.revision else "an empty registry"
        text = Text(f"Plan against {against}\n\n")
        if self.empty:
            return text.append("  Nothing to change.\n")
        if self.new_epoch:
            text.append(
                "  ! This release computes some values otherwise; materialize again.\n", "magenta"
            )
        for change in self.changes:
            symbol, colour = _SYMBOLS.get(change.what, _CHANGED)
            what = "" if change.what in {"added", "removed"} else f"  {change.what}"
            text.append(f"  {symbol} {change.title}{what}", colour)
            text.append("  refused\n" if _refused(change) else "\n", "bold red")
            for line in _details(change):
                text.append(f"      {line}\n", "dim")
        for twin in self.twins:
            text.append(
                f"  = {twin}\n".replace("\n  ", "\n      "), "red" if twin.kind == "same" else "dim"
            )
        count = {
            what: sum(each.what == what for each in self.changes) for what in ("added", "removed")
        }
        changed = len(self.changes) - sum(count.values())
        text.append(
            f"\n{count['added']} to add, {changed} to change, {count['removed']} to remove\n"
        )
        if self.refused:
            text.append(
                "Refused: a published version cannot change what it computes. Declare version=2, "
                "or undo the change.\n",
                "bold red",
            )
        if self.duplicates:
            text.append(
                "Refused unless allowed with a reason: one meaning would have two names.\n",
                "bold red",
            )
        return text


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
        return f"Applied {len(self.changes)} changes; revision {self.revision} is in force."

    __repr__ = __str__


def _refused(change: Change) -> bool:
    """Whether a change would alter a published version by its own definition.

    What changes because a source did is shown, not refused: there is no version of it to keep.
    """
    if change.kind not in {"feature", "on-demand feature"} or change.through.startswith("source "):
        return False
    return change.what in {"meaning", "contract"}


def _details(change: Change) -> list[str]:
    lines = [
        f"{each.field}: {each.before or 'none'} -> {each.after or 'none'}" for each in change.fields
    ]
    if change.through:
        lines.append(f"because {change.through} changed")
    if change.affects:
        lines.append(f"read by {', '.join(change.affects)}")
    return lines
