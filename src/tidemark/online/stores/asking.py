"""How what is read is told apart from how it is waited for.

Whoever needs values is a generator that yields keys, is sent their values, and asks again if these
show that it needs others.  The same generator is answered where a read may block, by a thread or
by a store that answers at once, and where it must not: in an event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import TypeVar, cast

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

Keys = Sequence[bytes]
Values = list[bytes | None]

Asking = Generator[Keys, Values, T]
"""Yields keys, is sent the values of all of them in their order, and returns what it comes to."""


HandOver = Callable[[A], Awaitable[T] | None]


def answered(asking: Generator[A, B, T], answer: Callable[[A], B], first: B | None = None) -> T:
    """What it comes to, with what `answer` gives it; raises what either raises.

    `first` answers what it has asked already, if it has.
    """
    try:
        question = asking.send(cast("B", first))  # None begins it
        while True:
            question = asking.send(answer(question))
    except StopIteration as done:
        return cast("T", done.value)


async def awaited(
    asking: Generator[A, B, T],
    answer: Callable[[A], Awaitable[B]],
    hand_over: HandOver[A, T] = lambda _question: None,
) -> T:
    """The same where answers are waited for in an event loop.

    What `hand_over` makes of a question is awaited instead of going on here, if it is anything.
    """
    try:
        question = next(asking)
        while True:
            rest = hand_over(question)
            if rest is not None:
                return await rest
            question = asking.send(await answer(question))
    except StopIteration as done:
        return cast("T", done.value)
