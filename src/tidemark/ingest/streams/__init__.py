"""Streams: where the events of a source arrive, whatever carries them."""

from __future__ import annotations

from tidemark.ingest.streams.protocol import Message, Start, StreamSource, open_stream

__all__ = ["Message", "Start", "StreamSource", "open_stream"]
