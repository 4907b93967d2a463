"""Errors: what every one of them can do, whoever raises it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tidemark import errors
from tidemark.errors import BadValue, Problem, TidemarkError

BAD = (BadValue(3, "amount", '"much"', "must be float64"),)


def kinds(of: type[TidemarkError] = TidemarkError) -> Iterator[type[TidemarkError]]:
    """An error and all of Tidemark that are made from it."""
    yield of
    for each in of.__subclasses__():
        if each.__module__.startswith("tidemark."):
            yield from kinds(each)


def example(kind: type[TidemarkError]) -> TidemarkError:
    """One of its kind, with everything that it can hold."""
    said = {"where": "there\nand here", "remedy": "Do this."}
    if kind is errors.MissingExtra:
        return errors.MissingExtra("kafka", "Reading a topic")
    if kind is errors.DefinitionError:
        return errors.DefinitionError([Problem("One.", "a.py:1"), Problem("Two.", "a.py:2", "No.")])
    if kind is errors.EngineError:
        return errors.EngineError("What.", sql="SELECT 1", **said)
    if kind is errors.PlanConflict:
        return errors.PlanConflict("What.", unconfirmed=["fraud@3"], **said)
    if kind is errors.EventsRefused:
        return errors.EventsRefused("What.", bad=BAD, bad_rows=7, **said)
    return kind("What.", **said)


def raising(name: str) -> None:
    """Raise an example in another process."""
    raise example(getattr(errors, name))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_can_be_pickled(protocol: int) -> None:
    """With its text and all that it holds."""
    for kind in kinds():
        error = example(kind)
        error.add_note("while reading")
        back = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - our own
        assert type(back) is kind
        assert str(back) == str(error)
        assert back.args == error.args
        assert vars(back) == vars(error)


def test_an_error_of_a_worker_is_the_error() -> None:
    """A pool of processes raises what its worker raised."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with pytest.raises(errors.EventsRefused, match="What") as caught:
            pool.submit(raising, "EventsRefused").result()
        assert caught.value.bad == BAD
        assert caught.value.bad_rows == 7
