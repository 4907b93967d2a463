"""Values of people that are tagged `pii`, as the serving log writes them: keyed hashes.

Equal values have equal hashes, so that rows of one person are found by whoever holds the key and
values are compared by an audit; without the key, nothing is learned from them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from tidemark.model.expr import columns_of
from tidemark.model.graph import Definitions, Entity, Reference
from tidemark.model.types import Type
from tidemark.online.states.keys import stored_key

TAG = "pii"
KEY_FILE = "mask.key"

_encode = msgspec.msgpack.Encoder().encode


class Mask:
    """Hashes values with the key in a folder, which is made when first needed."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / KEY_FILE
        self._key = b""

    def values(self, values: Iterable[Any], type_: Type) -> list[str | None]:
        """Values of a type as text of 32 hexadecimal digits, nulls as nulls; raises `OSError`."""
        convert = stored_key(type_)
        key = self._key = self._key or _key_in(self._file)
        known: dict[bytes, str] = {}
        masked: list[str | None] = []
        for value in values:
            if value is None:
                masked.append(None)
                continue
            plain = _encode(value if convert is None else convert(value))
            if plain not in known:
                known[plain] = hmac.new(key, plain, hashlib.sha256).hexdigest()[:32]
            masked.append(known[plain])
        return masked


def _key_in(file: Path) -> bytes:
    """The key in a file that only its owner reads; processes that make it at once agree on one."""
    with suppress(FileNotFoundError):
        return file.read_bytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    made = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(os.urandom(32))
    with suppress(FileExistsError):
        os.link(made, file)
    made.unlink()
    return file.read_bytes()


def masked_keys(entities: Iterable[Entity]) -> set[str]:
    """The keys that are masked: tagged themselves, or of an entity that is."""
    return {
        key.name for each in entities for key in each.keys if TAG in each.tags or TAG in key.tags
    }


def is_masked(definitions: Definitions, reference: Reference) -> bool:
    """Whether values of a feature or a request are masked: tagged, or read from what is.

    Counts say nothing of a person's data and are not, unless they are tagged.
    """
    if reference.kind == "request":
        request = definitions.request(reference.owner)
        tags: Collection[str] = next(
            each.tags for each in request.fields if each.name == reference.name
        )
        return TAG in tags or TAG in request.tags
    if reference.kind == "on_demand":
        item = definitions.on_demand_feature(reference.name, reference.version)
        return TAG in item.tags or any(is_masked(definitions, i.reference) for i in item.inputs)
    view, feature = definitions.locate(reference)
    if TAG in feature.tags or TAG in view.tags:
        return True
    value = feature.aggregate.value
    if value is None or feature.aggregate.rule.zero:
        return False
    source = definitions.source(view.source)
    tagged = {each.name for each in source.columns if TAG in source.tags or TAG in each.tags}
    return bool(tagged & columns_of(value))
