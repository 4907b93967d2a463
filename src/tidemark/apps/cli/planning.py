"""Commands that change what is in force: plan, apply, confirm, revert."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from tidemark.apps.cli.shell import (
    CHANGES,
    CONFIRMATION_MISSING,
    REFUSED,
    Command,
    open_store,
    show,
    wants_json,
)
from tidemark.model.plural import counted

if TYPE_CHECKING:
    from tidemark.registry import Plan
    from tidemark.store import Store


@click.command(cls=Command)
@click.option("--exit-code", is_flag=True, help="Exit with 10 if there are changes.")
@click.option("--out", metavar="FILE", help="Save the plan, for `tidemark apply FILE`.")
@click.option("--markdown", is_flag=True, help="Print Markdown, for a review.")
@click.option(
    "--restated", multiple=True, metavar="SOURCE", help="A source whose history was rewritten."
)
@click.option("--values", is_flag=True, help="Compare what is added by value, on a sample.")
def plan(
    exit_code: bool, out: str | None, markdown: bool, restated: tuple[str, ...], values: bool
) -> None:
    """Show what applying the definitions would change.

    Exits with 12 if a change is refused; with --exit-code, with 11 if a model must be confirmed
    and with 10 if there are changes.
    """
    with open_store() as store:
        made = store.plan(restated=restated, values=values)
    if out is not None:
        made.write(out)
    show(made.to_markdown() if markdown else made, made.to_dict())
    if made.refused or made.duplicates or any(each.readers for each in made.lost):
        raise SystemExit(REFUSED)
    if exit_code and made.unconfirmed:
        raise SystemExit(CONFIRMATION_MISSING)
    if exit_code and not made.empty:
        raise SystemExit(CHANGES)


@click.command(cls=Command)
@click.argument("saved", required=False, metavar="[PLAN]")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--reason", default="", help="Why, for the registry's history.")
@click.option(
    "--allow-duplicate",
    "duplicates",
    multiple=True,
    metavar="REF",
    help="A feature that may mean the same as another one; the reason says why.",
)
@click.option("--draft", is_flag=True, help="What is added may still change, until published.")
def apply(
    saved: str | None, yes: bool, reason: str, duplicates: tuple[str, ...], draft: bool
) -> None:
    """Plan, ask, and put the definitions in force.

    PLAN is a file of `tidemark plan --out`; without it, the definitions are planned now.  Exits
    with 11 if nobody confirmed, with 12 if a change is refused.
    """
    from tidemark.registry import Plan

    with open_store() as store:
        made = Plan.read(saved) if saved is not None else store.plan()
        _apply(store, made, yes=yes, reason=reason, duplicates=duplicates, draft=draft)


@click.command(cls=Command)
@click.argument("as_of", metavar="REVISION")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--reason", default="", help="Why, for the registry's history.")
def revert(as_of: str, yes: bool, reason: str) -> None:
    """Go back to the definitions of an earlier revision.

    REVISION is r12, or a moment.  Going back makes a new revision; features that were
    published since are kept.
    """
    with open_store() as store:
        made = store.registry.revert(as_of)
        _apply(store, made, yes=yes, reason=reason or f"revert to {as_of}")


@click.command(cls=Command)
@click.argument("saved", metavar="PLAN")
@click.option("--model", required=True, metavar="NAME@VERSION", help="The model.")
@click.option("--by", required=True, metavar="WHO", help="Its owner, or an administrator.")
def confirm(saved: str, model: str, by: str) -> None:
    """Consent to a plan that can change what a model is given.

    PLAN is a file of `tidemark plan --out`.  The consent is for exactly this plan.
    """
    from tidemark.registry import Plan

    with open_store() as store:
        made = Plan.read(saved)
        store.registry.confirm(made, model=model, by=by)
    facts = {"plan": made.digest, "model": model, "by": by}
    show(f"{by} confirmed the plan {made.digest} for {model}.", facts)


def _apply(
    store: Store,
    made: Plan,
    *,
    yes: bool,
    reason: str,
    duplicates: tuple[str, ...] = (),
    draft: bool = False,
) -> None:
    if not wants_json():
        show(made, None)
    if not made.empty:
        made.check(duplicates)
        _ask(made, yes)
    applied = store.apply(made, reason=reason, allow_duplicates=duplicates, draft=draft)
    show(str(applied), applied.to_dict())


def _ask(made: Plan, yes: bool) -> None:
    if yes:
        return
    if wants_json() or not sys.stdin.isatty():
        changes = counted(len(made.changes), "change")
        click.echo(f"{changes} to be made; nothing is applied without --yes.", err=True)
        raise SystemExit(CONFIRMATION_MISSING)
    if not click.confirm("Apply?"):
        raise SystemExit(CONFIRMATION_MISSING)


COMMANDS = (plan, apply, revert, confirm)
