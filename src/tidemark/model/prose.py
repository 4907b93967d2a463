"""Definitions in plain English: one exact sentence for each feature.

The sentences are generated from the definition alone, so they cannot say anything else than what
is computed.
"""

from __future__ import annotations

from tidemark.model.aggregates import Aggregate
from tidemark.model.expr import Call, Cast, Column, Expr, Literal, Plain, Sql
from tidemark.model.graph import (
    Csv,
    Delta,
    Feature,
    FeatureView,
    Frame,
    History,
    Kafka,
    Ndjson,
    OnDemand,
    Parquet,
    Query,
    RedisStream,
    Source,
    Stream,
    Table,
)
from tidemark.model.types import FLOAT64, Type
from tidemark.model.window import DAY, HOUR, MINUTE, SECOND, Bound, Window, format_duration

_INFIX = {
    "eq": "=",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "floordiv": "//",
    "mod": "%",
    "and": "and",
    "or": "or",
}
_VALUES = {
    "count": "number of non-null values of {value}",
    "sum": "sum of {value}",
    "mean": "mean of {value}",
    "min": "smallest {value}",
    "max": "largest {value}",
    "variance": "{ddof} variance of {value}",
    "stddev": "{ddof} standard deviation of {value}",
    "first": "oldest non-null {value}",
    "last": "newest non-null {value}",
    "latest": "{value} of the newest row, null included",
    "first_n": "oldest {n} non-null values of {value}, oldest first",
    "last_n": "newest {n} non-null values of {value}, newest first",
    "count_distinct": "number of different non-null values of {value}",
    "approx_count_distinct": "estimated number of different non-null values of {value}",
    "quantile": "{q} quantile of {value}, interpolated linearly",
    "approx_quantile": "estimated {q} quantile of {value}",
    "mode": "most frequent {value}, the smaller one of a tie",
    "top_n": "{n} most frequent values of {value}, most frequent first",
    "any": "whether {value} is true at least once",
    "all": "whether {value} is never false",
}
_WORDS = ((DAY, "day"), (HOUR, "hour"), (MINUTE, "minute"), (SECOND, "second"))


def sentence(view: FeatureView, feature: Feature, source: Source) -> str:
    """What a feature is, with its window, its bound and what it gives of nothing."""
    aggregate = feature.aggregate
    if aggregate.value is None:
        head = "number of rows"
    else:
        head = _VALUES[aggregate.function].format(
            value=expression(aggregate.value),
            n=aggregate.n,
            q=f"{aggregate.q:g}",
            ddof="sample" if aggregate.ddof else "population",
        )
    text = f"{head} of {source.name}" if aggregate.value is None else f"{head} over {source.name}"
    if aggregate.where is not None:
        text += f" where {expression(aggregate.where)}"
    if source.time is None:
        text += ", whatever the moment asked for; its past is not known"
    else:
        text += f", {window(aggregate.window, view.bound)}"
        if view.step:
            text += f", in steps of {duration(view.step)}"
    if view.max_age and aggregate.rule.stored:
        text += f"; rows older than {duration(view.max_age)} do not count"
    text += f"; {of_nothing(aggregate)} if there were none."
    return text[0].upper() + text[1:]


def of_nothing(aggregate: Aggregate) -> str:
    """The value of an aggregate that found nothing."""
    if aggregate.default is not None:
        return expression(aggregate.default)
    return "0" if aggregate.rule.zero else "null"


def on_demand_sentence(item: OnDemand) -> str:
    """What an on-demand feature is computed from."""
    given = ", ".join(f"{each.parameter} = {each.reference}" for each in item.inputs)
    return f"The {item.type} that {item.function} returns for {given}."


def window(value: Window, bound: Bound) -> str:
    """Which events a window covers, seen from the moment asked for."""
    moment = "the moment asked for"
    if value.offset:
        moment = f"{duration(value.offset)} before {moment}"
    end = f"up to {'and including' if bound == 'at' else 'but not including'} {moment}"
    if value.kind == "sliding":
        text = f"in the {duration(value.length).removeprefix('1 ')} {end}"
    elif value.kind == "to_date":
        text = f"since the start of the {value.unit} in {value.zone}, {end}"
    else:
        text = f"of all time {end}"
    return f"{text}, the newest {value.rows} of them" if value.rows else text


def duration(micros: int) -> str:
    """A duration in words, in the largest unit that divides it."""
    for size, word in _WORDS:
        if micros % size == 0:
            count = micros // size
            return f"{count} {word}" if count == 1 else f"{count} {word}s"
    return format_duration(micros)


def expression(expr: Expr) -> str:
    """An expression as it is read aloud, close to SQL."""
    match expr:
        case Column(name):
            return name
        case Literal(value, type_):
            return _literal(value, type_)
        case Cast(value, type_):
            return f"cast({expression(value)} as {type_})"
        case Sql(text):
            return f"({text})"
        case Call(function, args):
            return _call(function, [expression(arg) for arg in args], args)


def _literal(value: Plain | tuple[Plain, ...], type_: Type) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_literal(each, type_.item or FLOAT64) for each in value)}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if type_.name in {"int64", "float64", "decimal"}:
        return str(value)
    escaped = str(value).replace("'", "''")
    return f"'{escaped}'"


def _call(function: str, texts: list[str], args: tuple[Expr, ...]) -> str:
    texts = [
        f"({text})" if isinstance(arg, Call) and arg.function in _INFIX else text
        for text, arg in zip(texts, args, strict=True)
    ]
    if function in _INFIX:
        return f" {_INFIX[function]} ".join(texts)
    if function == "not":
        return f"not {texts[0]}"
    if function in {"is_null", "is_not_null"}:
        return f"{texts[0]} is {'not ' if function == 'is_not_null' else ''}null"
    if function == "is_in":
        return f"{texts[0]} in ({', '.join(texts[1:])})"
    if function == "when":
        pairs = zip(texts[:-1:2], texts[1::2], strict=True)
        cases = " ".join(f"when {condition} then {value}" for condition, value in pairs)
        return f"case {cases} else {texts[-1]} end"
    return f"{function}({', '.join(texts)})"


def history(value: History | None) -> str:
    """Where a source's history lies, as it was declared."""
    match value:
        case None:
            return "none"
        case Parquet(path) | Csv(path) | Delta(path):
            return f"{type(value).__name__.lower()}({path!r})"
        case Table(name, connection):
            return f"table({name!r})" + (f" in {connection}" if connection else "")
        case Query(sql, connection):
            return f"query({sql!r})" + (f" in {connection}" if connection else "")
        case Frame(name):
            return f"frame({name!r})"


def stream(value: Stream | None) -> str:
    """Where a source's events arrive, as it was declared."""
    match value:
        case None:
            return "none"
        case Kafka(topic, brokers):
            return f"kafka({topic!r})" + (f" at {brokers}" if brokers else "")
        case RedisStream(key):
            return f"redis_stream({key!r})"
        case Ndjson(path):
            return f"ndjson({path!r})"
