"""Definitions kept as data: YAML files and dicts."""

from __future__ import annotations


def load(source: object) -> list[object]:
    raise NotImplementedError
