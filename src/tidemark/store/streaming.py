"""What a store does with streams: reads those of its sources until it is told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from tidemark.errors import LockLost, RequestInvalid, StoreConflict, StoreUnavailable, TidemarkError
from tidemark.model.window import clock
from tidemark.online.states.pulse import read_reading, reading_key
from tidemark.online.stores.protocol import OnlineStore
from tidemark.store.project import Project, listed, name_of
from tidemark.store.pushing import Pushing
from tidemark.store.reading import Readers

if TYPE_CHECKING:
    from tidemark.ingest.consume import Consumed, Consumer
    from tidemark.ingest.streams import Start

    Told = Callable[[Consumed, TidemarkError | None], object]

WATCHING_SECONDS = 0.05

HOLDING_SECONDS = 1.0
"""How often a reader that waits for another one looks whether that is gone."""

UNHELD_SECONDS = 30.0
"""How long `once` waits for another reader."""


class Streams:
    """The streams of a project's sources."""

    def __init__(
        self, project: Project, online: OnlineStore, readers: Readers, pushing: Pushing
    ) -> None:
        self._project, self._online, self._readers = project, online, readers
        self._pushing = pushing

    def run(
        self,
        sources: object = None,
        *,
        start: str | None = None,
        again: bool = False,
        once: bool = False,
        batch: int = 10_000,
        told: Told | None = None,
        stop: threading.Event | None = None,
    ) -> list[Consumed]:
        """Read the streams of sources (None: of all that have one) until `stop` is set.

        Each message counts once, whoever reads it and whatever dies meanwhile.  Of a partition of
        which nothing was taken yet, reading begins at `start`: "earliest" (the default), "latest",
        a moment, or positions such as `0:1200,1:900`.  With `again` nothing counts as taken: all is
        read again from `start`, and told apart by `unique`.  With `once` it ends when nothing is
        left, or reading is paused.  `told` hears of each batch, and of errors that pass.  Raises
        what does not pass by itself, after the other streams have been stopped.
        """
        from tidemark.ingest.streams import Start

        if batch < 1:
            raise RequestInvalid(f"batch={batch} takes nothing.", remedy="It is 1 or more.")
        begin = None if start is None else Start.of(start)
        stopping = stop or threading.Event()
        names = self._named(sources)
        if again:
            self._rewind(names)
        consumers = [self._consumer(name, told) for name in names]
        errors: list[Exception] = []

        def work(consumer: Consumer) -> None:
            try:
                while not self._read(consumer, begin, stopping, once=once, batch=batch):
                    pass
            except Exception as error:  # noqa: BLE001 - whoever waits for the thread raises it
                errors.append(error)

        threads = [threading.Thread(target=work, args=(each,), daemon=True) for each in consumers]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                if stopping.wait(WATCHING_SECONDS) or errors:
                    break
        finally:
            stopping.set()
            for consumer in consumers:
                consumer.stop()
            for thread in threads:
                thread.join()
        if errors:
            raise errors[0]
        return [consumer.consumed for consumer in consumers]

    def pause(self, sources: object = None) -> list[str]:
        """Have nobody read the streams of sources (None: of all), in any process, until `resume`.

        Readers keep their partitions, and say how many messages wait.  Gives the sources.
        """
        names = self._named(sources)
        for name in names:
            self._project.log.pause(name)
        return names

    def resume(self, sources: object = None) -> list[str]:
        """Let the streams of sources (None: of all) be read again; gives the sources."""
        names = self._named(sources)
        for name in names:
            self._project.log.resume(name)
        return names

    def _rewind(self, names: Sequence[str]) -> None:
        """Forget what was taken of streams whose events can be told apart."""
        definitions = self._readers.snapshot().definitions
        for name in names:
            if not definitions.source(name).unique:
                raise RequestInvalid(
                    f"{name} has no `unique`, so what is read again would count again.",
                    remedy="Say what identifies an event: unique=(...,).",
                )
        for name in names:
            self._project.log.rewind(name)

    def _read(
        self,
        consumer: Consumer,
        start: Start | None,
        stop: threading.Event,
        *,
        once: bool,
        batch: int,
    ) -> bool:
        """Read until stopped, or with `once` to the end; False where the lock was lost before."""
        try:
            with self._holding(consumer, stop, once=once) as mine:
                if mine:
                    consumer.run(start, once=once, batch=batch)
        except LockLost as error:  # another process may read now; what it took is in the log
            consumer.tell(error)
            return stop.is_set()
        return True

    def _named(self, sources: object) -> list[str]:
        definitions = self._readers.snapshot().definitions
        if sources is None:
            names = [each.name for each in definitions.sources if each.stream is not None]
            if not names:
                raise RequestInvalid(
                    "No source has a stream.",
                    remedy="Declare it: class Purchase(tm.Source, stream=tm.kafka(...), ...).",
                )
            return names
        names = [name_of(each) for each in listed(sources)]
        for name in names:
            source = definitions.source(name)
            if source.stream is None or source.time is None:
                raise RequestInvalid(
                    f"{name} has no {'stream' if source.stream is None else 'time'}.",
                    remedy="A stream is declared on a source with a time: stream=tm.kafka(...).",
                )
        return names

    def _consumer(self, name: str, told: Told | None) -> Consumer:
        from tidemark.ingest.consume import Consumer
        from tidemark.ingest.streams import open_stream
        from tidemark.ingest.streams.decoding import decoder

        config = self._project.config
        source = self._readers.snapshot().definitions.source(name)
        assert source.stream is not None  # noqa: S101 - `_named` saw to it
        stream = open_stream(
            source.stream,
            root=config.root,
            group=f"tidemark-{config.namespace}-{name}",
            kafka=config.kafka,
            redis=config.online if config.online.startswith(("redis://", "rediss://")) else "",
        )
        return Consumer(
            lambda: self._readers.snapshot().definitions.source(name),
            stream,
            decoder(source.stream, config.root),
            self._project.log,
            bounds=self._pushing.bounds,
            under_way=self._readers.under_way,
            apply=lambda: self._pushing.catch_up(name),
            waiting=lambda waiting, lost: self._waiting(name, stream.name, waiting, lost),
            told=told or _nobody,
        )

    def _waiting(self, source: str, stream: str, waiting: Mapping[str, int], lost: int) -> bool:
        """Note how many messages are left in the partitions that this process reads.

        And how many more were lost.  False where another reader was faster: the next time tells it.
        """
        place = reading_key(self._project.config.namespace, source)
        now = clock()
        (stored,) = self._online.get_many([place])
        told = msgspec.msgpack.encode(read_reading(stored).and_told(stream, now, waiting, lost))
        with suppress(StoreConflict):
            self._online.put_many([(place, told)], expect={place: stored}, durable=False)
            return True
        return False

    @contextmanager
    def _holding(self, consumer: Consumer, stop: threading.Event, *, once: bool) -> Generator[bool]:
        """Be the only reader of a stream that nobody else deals out; False where stopped before.

        With `once` the error of a lock that others hold for too long is raised.
        """
        if consumer.shared:
            yield True
            return
        purpose = f"stream {self._project.config.namespace} {consumer.consumed.source}"
        begun, told = time.monotonic(), ""
        while not stop.is_set():
            lock = self._online.lock(purpose)
            try:
                lock.__enter__()
            except StoreUnavailable as error:
                if once and time.monotonic() - begun > UNHELD_SECONDS:
                    raise
                if error.what != told:  # to wait for another reader is what this one is for
                    told = error.what
                    remedy = "This process takes over as soon as it can."
                    consumer.tell(StoreUnavailable(told, where=error.where, remedy=remedy))
                stop.wait(HOLDING_SECONDS)
                continue
            try:
                yield True
            finally:
                lock.__exit__(None, None, None)
            return
        yield False


def _nobody(_consumed: Consumed, _error: TidemarkError | None) -> None:
    """Be told in vain."""
