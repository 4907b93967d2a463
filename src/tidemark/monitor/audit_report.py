"""What an audit found, in numbers and in words."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from tidemark.model.plural import counted

_NOTHING_LOGGED = (
    "nothing was logged in that time: reads over HTTP are, and those of a process of your own with "
    "serving_log_in_process = true; an audit with --probe 10 needs no log"
)


class Compared(msgspec.Struct, frozen=True):
    """A feature: how many values were compared, and how many are not equal, in which way.

    `missing` were served as null and are not, `extra` were served and are null, `different` are two
    values.  Each that is not equal counts under one of the `causes`.
    """

    feature: str
    compared: int
    equal: int
    missing: int
    extra: int
    different: int
    causes: dict[str, int] = {}

    @property
    def differing(self) -> int:
        """Values that are not equal."""
        return self.compared - self.equal


class Forgotten(msgspec.Struct, frozen=True):
    """Values of a feature that differ, and whose events are not all there any more.

    Retention deleted events that happened until `until`; the feature can be audited for moments
    after `since` (empty: for none, as it looks back without limit).
    """

    feature: str
    values: int
    until: str
    since: str

    def __str__(self) -> str:
        when = f"after {self.since}" if self.since else "no more, as it looks back without limit"
        return (
            f"{counted(self.values, 'value')} of {self.feature}: retention deleted events until "
            f"{self.until}; it can be audited {when}"
        )


class Difference(msgspec.Struct, frozen=True):
    """A value that was served and is computed otherwise, where, and why."""

    feature: str
    request_id: str
    service: str
    keys: dict[str, Any]
    at: str
    served: Any
    offline: Any
    cause: str
    detail: str

    def __str__(self) -> str:
        keys = ", ".join(f"{name}={value!r}" for name, value in self.keys.items())
        return (
            f"{self.feature} of {keys or 'nobody in particular'} at {self.at}: served "
            f"{self.served!r}, offline {self.offline!r}\n    {self.cause}: {self.detail}\n"
            f"    request {self.request_id} of {self.service}"
        )


class Audit(msgspec.Struct, frozen=True):
    """What an audit found.

    `first` is the first difference of each feature with each cause.  `unread` rows could not be
    computed again, as who a masked key is cannot be told; `left_out` features neither, each with
    the reason; those of them whose code is not there any more are `lost`.  Values that are
    `forgotten` are among none of the others.  `damaged` are files of the serving log that are none.
    `sample` is the share of the requests; where `probe` entities of each view were read instead,
    `since` and `until` are when.
    """

    at: str
    since: str
    until: str
    service: str | None
    requests: int
    rows: int
    compared: int
    equal: int
    features: tuple[Compared, ...]
    first: tuple[Difference, ...]
    unread: int
    left_out: dict[str, str]
    seconds: float
    damaged: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    forgotten: tuple[Forgotten, ...] = ()
    sample: float = 1.0
    probe: int = 0

    @property
    def incomplete(self) -> bool:
        """Whether something could not be compared that should have been: it is not there."""
        return bool(self.damaged or self.lost or self.forgotten)

    @property
    def differing(self) -> int:
        """Values that are not equal."""
        return self.compared - self.equal

    @property
    def causes(self) -> dict[str, int]:
        """How many differences have which cause."""
        total: Counter[str] = Counter()
        for each in self.features:
            total.update(each.causes)
        return dict(total.most_common())

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        facts: dict[str, Any] = msgspec.to_builtins(self, enc_hook=str)
        told = {"differing": self.differing, "causes": self.causes}
        return facts | told | {"incomplete": self.incomplete}

    def __str__(self) -> str:
        values, requests = counted(self.compared, "value"), counted(self.requests, "request")
        when = f"{self.since} to {self.until}"
        if self.sample < 1:
            when += f", a sample of {self.sample:.3%}".replace(".000%", "%")
        if self.probe:
            requests, when = counted(self.rows, "row") + " read now", self.since
        lines = [
            f"{values} of {requests}, {self.differing:,} differ ({when}, {self.seconds:.1f} s)"
        ]
        for each in self.features:
            if each.differing:
                ways = {"missing": each.missing, "extra": each.extra, "different": each.different}
                told = ", ".join(f"{count:,} {way}" for way, count in ways.items() if count)
                why = ", ".join(f"{cause} {count:,}" for cause, count in each.causes.items())
                lines.append(f"  {each.feature}: {told} of {each.compared:,} ({why})")
        # What differs through something else says less than what it differs through.
        plain = sorted(self.first, key=lambda each: each.detail.startswith("through "))
        shown = {each.cause: each for each in reversed(plain)}
        lines += [f"  first: {shown[cause]}" for cause in self.causes if cause in shown]
        if not self.rows and not self.unread:
            lines.append(f"  {_NOTHING_LOGGED}")
        if self.unread:
            lines.append(
                f"  {self.unread:,} rows are not compared: they have masked keys that no history "
                "holds"
            )
        lines += [f"  not compared: {name}, {why}" for name, why in self.left_out.items()]
        lines += [f"  not auditable any more: {each}" for each in self.forgotten]
        lines += [f"  not read: {name}, it is damaged" for name in self.damaged]
        return "\n".join(lines)
