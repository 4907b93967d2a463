"""Words: how text is cut into them, and which of them mean or look nearly the same."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from tidemark.errors import DefinitionError
from tidemark.model.window import Window, format_duration, parse_duration

_STOP_WORDS = """
a an and any are as at by do does each for from has have how i in is it its me my of on or our over
per past that the their them they this to until up was were what when which who with
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

# Words on one line mean the same to somebody who searches.
_SYNONYMS = """
purchase order transaction payment sale checkout buy bought
user customer account member client buyer shopper person people
merchant seller vendor shop store retailer
product item article sku goods
count number many times frequency
sum total
amount value price spend spent revenue money cost turnover
mean average avg typical
min minimum smallest lowest least
max maximum largest highest most biggest
stddev deviation std sigma volatility
variance var
quantile percentile median
distinct unique different nunique
last latest newest recent current
first oldest earliest
mode frequent common usual top favourite favorite
refund return chargeback reversal
login signin logon session
visit view pageview impression
click tap
delivery shipment shipping parcel
ride trip journey
driver courier rider
device phone handset terminal
fraud abuse scam
settled completed complete success succeeded paid
refused declined failed rejected
country nation region
email mail
ratio share fraction rate proportion
delay late lateness
flight plane aircraft
"""

_FUNCTIONS = {
    "count": "count",
    "sum": "sum",
    "mean": "mean",
    "min": "min",
    "max": "max",
    "variance": "variance",
    "stddev": "stddev",
    "first": "first",
    "last": "last",
    "latest": "latest",
    "first_n": "first list",
    "last_n": "last list",
    "count_distinct": "count distinct",
    "approx_count_distinct": "count distinct approximate",
    "quantile": "quantile",
    "approx_quantile": "quantile approximate",
    "mode": "mode",
    "top_n": "top list",
    "any": "ever",
    "all": "always",
}
_UNITS = {
    "second": "s", "sec": "s", "minute": "m", "min": "m", "hour": "h", "hr": "h", "day": "d",
    "week": "w", "wk": "w",
}  # fmt: skip
_NUMBERS = {"seven": "7", "fourteen": "14", "thirty": "30", "sixty": "60", "ninety": "90"}

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WORD = re.compile(r"[a-z]+|\d+(?:ms|us|[wdhms])(?![a-z])|\d+")
_SPOKEN = re.compile(r"\b(\d+)[\s_-]*([a-z]{2,})")
_SHORT = re.compile(r"\d+(?:w|d|h|m|s|ms|us)")


def words(text: str) -> list[str]:
    """The words of a text in order, lower case, without repeats or words that say nothing.

    Names are split at underscores and capitals; a duration is one word however it is spelled, so
    that `30 days`, `30-day`, `30d` and `720h` are all `30d`.
    """
    text = _CAMEL.sub(" ", text).lower()
    for spoken, digits in _NUMBERS.items():
        text = text.replace(f"{spoken} ", f"{digits} ")
    text = _SPOKEN.sub(lambda found: found[1] + (_unit(found[2]) or f" {found[2]}"), text)
    found = (_duration(word) for word in _WORD.findall(text.replace("_", " ")))
    return list(dict.fromkeys(word for word in found if word not in STOP_WORDS))


@functools.lru_cache(maxsize=4_096)
def _unit(word: str) -> str | None:
    """The short form of a unit of time, with its plural and with a slip in a longer one."""
    if word in {"ms", "us"}:
        return word
    unit = _UNITS.get(word) or _UNITS.get(word.removesuffix("s"))
    if unit is None and len(word) >= 4:
        spelled = (each for each in ("days", "hours", "weeks", "minutes", "seconds"))
        unit = next((each[0] for each in spelled if distance(word, each, 1) <= 1), None)
    return unit


def windows(window: Window) -> list[str]:
    """The words for a window: `30d`; `today` and the like for calendar ones."""
    if window.kind == "sliding":
        return [format_duration(window.length)]
    if window.unit is not None:
        return [stem("today" if window.unit == "day" else window.unit), "calendar"]
    return [stem("lifetime"), "ever", "all"]


@functools.cache
def meanings(function: str) -> list[str]:
    """The words for an aggregate."""
    return [stem(word) for word in _FUNCTIONS.get(function, function).split()]


@functools.lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """A word without its ending: `purchases`, `purchased` and `purchasing` are one."""
    if len(word) < 4 or not word.isalpha():
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    for ending in ("ings", "ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            return word[: -len(ending)]
    return word


class Vocabulary:
    """All words of an index, to be asked for those that are like a given one."""

    def __init__(self, known: Iterable[str]) -> None:
        self._known = known = set(known)
        # A slip rarely touches both ends of a word: those that share one are candidates.
        self._ends: dict[str, list[str]] = {}
        for word in known:
            if word.isalpha() and len(word) > 2:
                self._ends.setdefault(word[0], []).append(word)
                self._ends.setdefault(f"-{word[-1]}", []).append(word)

    def like(self, word: str) -> dict[str, float]:
        """Known words that `word` may stand for, each with how surely (1: it is the word)."""
        found: dict[str, float] = {}
        if word in {"day", "hour", "week", "minute"}:
            found[_duration(f"1{word[0]}")] = 0.8
        base = stem(word)
        # Where the word itself is in use here, it is less likely to mean another.
        likeness = 0.4 if base in self._known else 0.7
        for other in _synonyms().get(base, ()):
            found[other] = likeness
        found[word] = found[base] = 1.0
        if len(base) >= 3 and base.isalpha():
            for other in self._ends.get(base[0], ()):
                if other.startswith(base) and other not in found:
                    found[other] = 0.6
        found = {other: likeness for other, likeness in found.items() if other in self._known}
        return found or self._slips(base)

    def _slips(self, word: str) -> dict[str, float]:
        """Known words at one slip of the finger; at two where the word is long."""
        if len(word) < 4 or not word.isalpha():
            return {}
        bound = 2 if len(word) >= 8 else 1
        near = [*self._ends.get(word[0], ()), *self._ends.get(f"-{word[-1]}", ())]
        # The right spelling may itself be a synonym of what is there.
        near += [other for other in _synonyms() if other[0] == word[0] or other[-1] == word[-1]]
        meant = [
            other
            for other in dict.fromkeys(near)
            if abs(len(other) - len(word)) <= bound and distance(word, other, bound) <= bound
        ]
        found = {other: 0.6 for other in meant if other in self._known}
        others = (other for each in meant for other in _synonyms().get(each, ()))
        return found or {other: 0.4 for other in others if other in self._known}


def distance(left: str, right: str, bound: int) -> int:
    """How many slips lie between two words: a letter too many, too few, wrong, or two swapped.

    More than `bound` is given as `bound + 1`.
    """
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, last, row = row, before, [i]
        for j, b in enumerate(right, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
        if min(row) > bound:
            return bound + 1
    return row[-1]


@functools.cache
def _synonyms() -> dict[str, tuple[str, ...]]:
    groups = [[stem(word) for word in line.split()] for line in _SYNONYMS.split("\n") if line]
    found: dict[str, list[str]] = {}
    for group in groups:
        for word in group:
            found.setdefault(word, []).extend(other for other in group if other != word)
    return {word: tuple(dict.fromkeys(others)) for word, others in found.items()}


@functools.lru_cache(maxsize=4_096)
def _duration(word: str) -> str:
    """A duration in its one spelling; any other word as it is."""
    if not _SHORT.fullmatch(word):
        return word
    try:
        return format_duration(parse_duration(word))
    except DefinitionError:
        return word
