"""Vectors from the bytes of a request to the bytes of its answer; nothing here waits for a socket.

What is needed of the online store is asked of whoever drives it (`online.stores.asking`): the event
loop, or a thread for what takes the processor long; see `Service`.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from tidemark.apps.http.access import Caller, forbidden
from tidemark.apps.http.problems import Refused
from tidemark.errors import RequestInvalid
from tidemark.online.stores.asking import Asking
from tidemark.serve.response import Encoder, Outcome

if TYPE_CHECKING:
    from tidemark.apps.http import Limits
    from tidemark.serve import Reader
    from tidemark.serve.answer import Answer
    from tidemark.serve.program import Program
    from tidemark.store import Store

_KNOWN = 256
"""Lists of features whose encoders are kept."""

Columns = dict[str, Any] | list[dict[str, Any]]


class Read(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked of a service."""

    keys: Columns
    request: Columns | None = None
    at: str | None = None


class ReadFeatures(Read, forbid_unknown_fields=True, kw_only=True):
    """What is asked of features that are named one by one."""

    features: list[str]


_decode = msgspec.json.Decoder(Read).decode
_decode_features = msgspec.json.Decoder(ReadFeatures).decode

_FORM = 'Send {"keys": {"user_id": "u1"}, "request": {...}}; /openapi.json has the whole form.'
_FORM_OF_FEATURES = _FORM.replace("{", '{"features": ["user_spend:spend_7d"], ', 1)


class Done(NamedTuple):
    """An answer as bytes, and what is counted of it.

    `seconds` are those of `metrics.STAGES`, `features` the versions that were read, `outcome` their
    statuses.
    """

    text: bytes
    answer: Answer
    seconds: tuple[float, ...]
    features: tuple[str, ...]
    outcome: Outcome


class Unprepared(Exception):  # nothing is wrong: to be asked again in a thread
    """What reads these features has to be made first, which reads registry, store and log."""


class Vectors:
    """Answers reads of one store, from any number of threads."""

    def __init__(self, store: Store, limits: Limits) -> None:
        self._store = store
        self._limits = limits
        self._encoders: dict[object, tuple[Reader, Encoder]] = {}
        self._log = store.log if store.config.serving_log else None

    def read(
        self,
        caller: Caller,
        service: str | None,
        body: bytes,
        request_id: str,
        *,
        arrow: bool,
        prepared: bool = False,
    ) -> Asking[Done]:
        """Answer a body that asks a service, or without one features that it names.

        Raises `Unprepared` where only what is `prepared` may be read.
        """
        began = perf_counter()
        asked = _parsed(_decode if service is not None else _decode_features, body)
        head: dict[str, Any] = {"request_id": request_id}
        if service is not None:
            head["service"] = service
        reader, encoder = self._allowed(caller, service, asked, prepared=prepared)
        one, count = _shape(asked.keys, encoder.program)
        if count > self._limits.keys:
            raise Refused(413, _too_many("sets of keys", count, self._limits.keys))
        if one:
            if not isinstance(asked.request, dict | None):
                raise RequestInvalid(
                    "There is one set of keys and a list of request values.",
                    remedy="Send one object of values, or a list of keys.",
                )
            keys: object = encoder.keys.one(asked.keys)  # type: ignore[arg-type]
            request: object = None if asked.request is None else encoder.request.one(asked.request)
        else:
            keys = encoder.keys.many(asked.keys)
            request = None if asked.request is None else encoder.request.many(asked.request)
        ask = reader.asking if one else reader.asking_many
        answer = yield from ask(keys, request=request, at=asked.at)
        if answer.program is not encoder.program:
            encoder = self._remember(service, asked, reader, answer.program)
        read = perf_counter()
        write = encoder.arrow if arrow else encoder.one if one else encoder.many
        text, outcome = write(answer, head)
        # What the answer did not take of itself went into checking what was sent.
        checked = read - began - sum(answer.seconds)
        seconds = checked, *answer.seconds, perf_counter() - read
        if self._log is not None:
            self._log.add(answer, reader.target, reader.revision, request_id, sum(seconds))
        return Done(text, answer, seconds, encoder.read, outcome)

    def _allowed(
        self, caller: Caller, service: str | None, asked: Read, *, prepared: bool
    ) -> tuple[Reader, Encoder]:
        """What reads and writes these features, if the caller may read them."""
        if not caller.limited:
            return self._prepared(service, asked, prepared=prepared)
        with caller.told_nothing_else():
            reader, encoder = self._prepared(service, asked, prepared=prepared)
        program = encoder.program
        references = program.reference.values()
        if not caller.may_read(_key(service, asked), references, program.definitions):
            raise forbidden()
        return reader, encoder

    def _prepared(
        self, service: str | None, asked: Read, *, prepared: bool
    ) -> tuple[Reader, Encoder]:
        """What reads and writes these features, in the revision that is in force."""
        if isinstance(asked, ReadFeatures) and len(asked.features) > self._limits.features:
            raise Refused(413, _too_many("features", len(asked.features), self._limits.features))
        key = _key(service, asked)
        known = self._encoders.get(key)
        if known is None and service is not None:
            self._store.readers.snapshot().definitions.service(service)  # it, and nothing else
        if isinstance(asked, ReadFeatures) and not asked.features:
            raise RequestInvalid("No feature is asked for.", remedy="Name one or several.")
        features = asked.features if isinstance(asked, ReadFeatures) else service
        reader = self._store.readers.prepared(features)
        if reader is None:
            if prepared:
                raise Unprepared
            reader = self._store.reader(features)
        if known is not None and known[0] is reader:
            return known
        return reader, self._remember(service, asked, reader, reader.program)

    def _remember(
        self, service: str | None, asked: Read, reader: Reader, program: Program
    ) -> Encoder:
        if len(self._encoders) >= _KNOWN:
            self._encoders.clear()
        encoder = Encoder(program)
        self._encoders[_key(service, asked)] = reader, encoder
        return encoder


def _key(service: str | None, asked: Read) -> object:
    return tuple(asked.features) if isinstance(asked, ReadFeatures) else service


def _parsed(decode: Callable[[bytes], Read], body: bytes) -> Read:
    form = _FORM if decode is _decode else _FORM_OF_FEATURES
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise RequestInvalid(f"The body does not fit: {error}.", remedy=form) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, RequestInvalid(f"The body is not JSON: {error}.", remedy=form)) from None
    except RecursionError:
        raise Refused(400, RequestInvalid("The body is nested too deeply.", remedy=form)) from None


def _shape(keys: Columns, program: Program) -> tuple[bool, int]:
    """Whether one set of keys is asked for, and how many there are."""
    if isinstance(keys, list):
        return False, len(keys)
    columns = [cast("list[object]", each) for each in keys.values() if isinstance(each, list)]
    if not columns or not program.keys.fields:
        return True, 1
    return False, max(map(len, columns))


def _too_many(what: str, count: int, most: int) -> RequestInvalid:
    return RequestInvalid(
        f"There are {count:,} {what}; a request may have {most:,}.", remedy="Send several requests."
    )
