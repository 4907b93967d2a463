"""The command `tidemark`, whose service gives a busy machine all the time that it needs.

python patient.py LIMITS serve ...      LIMITS is JSON, and says what it is not patient with

Workers load this file as well, so it holds in each of them.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

from tidemark.apps import http
from tidemark.apps.cli import main
from tidemark.apps.http import access, following
from tidemark.store import Store

PATIENCE = 300.0
"""Seconds: how long the specs wait for what comes at once on a machine that is not busy."""

LIMITS = dict.fromkeys(("seconds", "idle", "answer", "push"), PATIENCE)
"""The limits of a service whose specs are about something else."""

_serve = Store.serve


def _patiently(store: Store, *, limits: http.Limits, **options: Any) -> None:
    _serve(store, limits=msgspec.structs.replace(limits, **_LIMITS), **options)


if __name__ in {"__main__", "__mp_main__"}:
    access.BELIEVED_SECONDS = following.READY_SECONDS = PATIENCE
    http.GRACE_SECONDS, http.STARTING_SECONDS = 300, 3_600

if __name__ == "__main__":
    _LIMITS = LIMITS | json.loads(sys.argv.pop(1))
    Store.serve = _patiently  # type: ignore[assignment, method-assign]
    main()
