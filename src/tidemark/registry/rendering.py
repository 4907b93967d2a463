"""Plans for people: coloured text for a terminal, Markdown for a review."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.text import Text

from tidemark.model.diff import Change
from tidemark.registry.plan import Backfill, Impact, Plan, details

_LOOKS = {
    "additive": ("+", "green"),
    "retirement": ("-", "red"),
    "semantic": ("!", "magenta"),
    "source": ("!", "magenta"),
    "restatement": ("!", "magenta"),
    "alias": (">", "cyan"),
    "metadata": ("~", "yellow"),
    "policy": ("~", "yellow"),
    "operational": ("~", "yellow"),
}
_EPOCH = "This release computes some values otherwise; materialize again."
_REFUSED = (
    "Refused: a published version cannot change what it computes. Declare version=2, or undo the "
    "change."
)
_TWICE = "Refused unless allowed with a reason: one meaning would have two names."
_NAMED = 3  # as many features of a view are named; more are counted
_LOST = "Refused: the code of on-demand features that are still read is gone."


def text(plan: Plan) -> Text:
    """The plan in colour."""
    against = f"revision {plan.revision}" if plan.revision else "an empty registry"
    out = Text(f"Plan against {against}\n\n")
    if plan.empty:
        out.append("  Nothing to change.\n")
    if plan.new_epoch:
        out.append(f"  ! {_EPOCH}\n", "magenta")
    for change in plan.changes:
        sign, colour = _look(plan, change)
        what = "" if change.what in {"added", "removed"} else f"  {change.what}"
        out.append(f"  {sign} {change.title}{what}", colour)
        out.append("  refused\n" if plan.refuses(change) else "\n", "bold red")
        for line in details(change):
            out.append(f"      {line}\n", "dim")
    for twin in plan.twins:
        colour = "red" if twin.kind == "same" else "dim"
        out.append(f"  = {twin}\n".replace("\n  ", "\n      "), colour)
    for alike in plan.alike or ():
        out.append(f"  = {alike}\n", "dim")
    for line in _kept(plan):
        out.append(f"  . {line}\n", "dim")
    for impact in plan.models:
        line, confirmed = _impact(plan, impact)
        out.append(f"  ? {line}\n", "green" if confirmed else "bold yellow")
    for each in plan.backfill:
        out.append(f"  # {_backfill(each)}\n", "cyan")
        for line in _growing(each):
            out.append(f"  ~ {line}\n", "yellow")
    for lost in plan.lost:
        out.append(f"  x {lost.feature}: {lost.why}\n", "red" if lost.readers else "dim")
    if not plan.empty:
        out.append(f"\n{_count(plan)}\n")
    for line in _obstacles(plan):
        out.append(f"{line}\n", "bold red")
    return out


def changes(found: Iterable[Change]) -> Text:
    """Changes that are past, in colour."""
    out = Text()
    for change in found:
        sign, colour = _LOOKS[change.category]
        what = "" if change.what in {"added", "removed"} else f"  {change.what}"
        out.append(f"{sign} {change.title}{what}\n", colour)
        for line in details(change):
            out.append(f"    {line}\n", "dim")
    return out if out.plain else Text("Nothing changed.")


def markdown(plan: Plan) -> str:
    """The plan for a review."""
    lines = [f"## Plan `{plan.digest}` against revision {plan.revision}", ""]
    if plan.empty:
        return "\n".join([*lines, "Nothing to change.", ""])
    lines += ["| | change | class | what follows |", "|---|---|---|---|"]
    for change in plan.changes:
        sign, _ = _look(plan, change)
        refused = " **refused**" if plan.refuses(change) else ""
        said = "<br>".join(line.replace("|", "\\|") for line in details(change))
        lines.append(f"| `{sign}` | {change.title}{refused} | {change.category} | {said} |")
    notes = [f"Twins: {str(twin).partition(chr(10))[0]}" for twin in plan.twins]
    notes += [f"Twins by value: {alike}" for alike in plan.alike or ()]
    notes += [*_kept(plan), *(_impact(plan, impact)[0] for impact in plan.models)]
    notes += [_backfill(each) for each in plan.backfill]
    notes += [line for each in plan.backfill for line in _growing(each)]
    notes += [f"{each.feature}: {each.why}" for each in plan.lost]
    notes += [f"**{line}**" for line in _obstacles(plan)]
    notes += [_EPOCH] if plan.new_epoch else []
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def _look(plan: Plan, change: Change) -> tuple[str, str]:
    if change.what == "added" and "feature" in change.kind:
        name, _, version = change.name.rpartition("@")
        owner, _, bare = name.rpartition(":")
        if any(other < int(version) for other in plan.definitions.versions(owner, bare)):
            return "^", "green"
    return _LOOKS[change.category]


def _kept(plan: Plan) -> Iterator[str]:
    for name in plan.kept:
        yield f"kept {name}: no longer in the definitions; tidemark retire {name} ends it"


def _impact(plan: Plan, impact: Impact) -> tuple[str, bool]:
    for each in plan.confirmed:
        if each.model == impact.model:
            return f"model {impact.model} confirmed by {each.by}", True
    owner = impact.owner or "an administrator"
    return (
        f"model {impact.model} reads {', '.join(impact.through)}: not confirmed by {owner}",
        False,
    )


def _backfill(each: Backfill) -> str:
    some = len(each.features) <= _NAMED
    names = ", ".join(each.features) if some else f"{len(each.features)} of its features"
    return f"materialize {each.view} before {names} can serve; {each.extent()}"


def _growing(each: Backfill) -> Iterator[str]:
    for feature, approximate in each.growing:
        yield (
            f"reads of {feature} grow with the events of an entity, of which the largest has "
            f"{each.largest:,}; {approximate} takes as long for any number"
        )


def _count(plan: Plan) -> str:
    whats = [change.what for change in plan.changes]
    added, removed = whats.count("added"), whats.count("removed")
    changed = len(whats) - added - removed
    return f"{added} to add, {changed} to change, {removed} to remove"


def _obstacles(plan: Plan) -> Iterator[str]:
    if plan.refused:
        yield _REFUSED
    if plan.duplicates:
        yield _TWICE
    if any(each.readers for each in plan.lost):
        yield _LOST
    if plan.unconfirmed:
        models = ", ".join(each.model for each in plan.unconfirmed)
        yield f"Not confirmed: {models}. tidemark confirm PLAN --model ... --by ..."
