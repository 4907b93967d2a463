"""Expressions as SQL text: the same text on years of history, a table and a micro-batch."""

from tidemark.compile.sql import identifier, sql, sql_type, text

__all__ = ["identifier", "sql", "sql_type", "text"]
