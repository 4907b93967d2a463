"""An open loop: requests leave at a fixed rate, whether or not earlier ones were answered.

A closed loop, as of `wrk`, waits for an answer before it asks again, so a server that stalls is
asked less while it does.  Here the clock of a request starts when it was due.  One thread; it keeps
up with some thousand requests a second and reports how late it was itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

CONNECTIONS = 64


@dataclass(frozen=True)
class Arrivals:
    """Of each request when it was due (seconds from the first), and microseconds until answered.

    And how many were refused.
    """

    due: list[float]
    clock: list[float]
    refused: int

    def quantile(self, q: float) -> float:
        """The latency that a share of the requests did not exceed."""
        return sorted(self.clock)[min(int(len(self.clock) * q), len(self.clock) - 1)]


def arrive(
    url: str, body: Callable[[int], bytes], rate: float, seconds: float, *, authorization: str = ""
) -> Arrivals:
    """Post `body(i)` to a URL at a rate, over as many connections as are needed at a time."""
    return arrive_at_all([url], body, rate, seconds, authorization=authorization)[0]


def arrive_at_all(
    urls: Sequence[str],
    body: Callable[[int], bytes],
    rate: float,
    seconds: float,
    *,
    authorization: str = "",
) -> list[Arrivals]:
    """As `arrive`, at several URLs at the same time, each at that rate; they take turns."""

    async def all_of_them() -> list[Arrivals]:
        start = time.perf_counter() + 0.05
        count = int(rate * seconds)
        return await asyncio.gather(
            *(
                _arrive(url, body, rate, count, authorization, start + place / len(urls) / rate)
                for place, url in enumerate(urls)
            )
        )

    return asyncio.run(all_of_them())


async def _arrive(
    url: str,
    body: Callable[[int], bytes],
    rate: float,
    count: int,
    authorization: str,
    start: float,
) -> Arrivals:
    parts = urlsplit(url)
    key = b"authorization: Bearer %s\r\n" % authorization.encode() if authorization else b""
    found = Arrivals([0.0] * count, [0.0] * count, 0)
    refused = 0
    numbers = iter(range(count))

    async def ask() -> None:
        nonlocal refused
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        for number in numbers:
            due = start + number / rate
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            content = body(number)
            writer.write(
                b"POST %s HTTP/1.1\r\nhost: %s\r\ncontent-type: application/json\r\n"
                b"%scontent-length: %d\r\n\r\n%s"
                % (parts.path.encode(), parts.netloc.encode(), key, len(content), content)
            )
            status = await _answered(reader)
            found.due[number] = number / rate
            found.clock[number] = (time.perf_counter() - due) * 1e6
            refused += status != 200
        writer.close()

    await asyncio.gather(*(ask() for _ in range(min(CONNECTIONS, count))))
    return replace(found, refused=refused)


async def _answered(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    headers = dict(_headers(head))
    await reader.readexactly(int(headers[b"content-length"]))
    return int(head.split(b" ", 2)[1])


def _headers(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        yield name.lower(), value.strip()
