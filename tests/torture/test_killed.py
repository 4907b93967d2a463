"""Whatever is killed when, and whosever clock jumps: acknowledged events count, each once.

`make torture` makes hundreds of these runs; TIDEMARK_TORTURE says how many are made here.
"""

from __future__ import annotations

import os

import pytest
from tests.redis_server import required

pytest.importorskip("confluent_kafka")
pytest.importorskip("uvicorn")

from tests.torture.run import run


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the runs make small in this process is as it was for the tests after them."""
    from tidemark.engines.log import EventLog
    from tidemark.online.stores.redis import RedisStore
    from tidemark.online.trees import cutting

    monkeypatch.setattr(cutting, "SIZES", cutting.SIZES)
    for function in (EventLog.compact, RedisStore.__init__):
        monkeypatch.setattr(function, "__kwdefaults__", dict(function.__kwdefaults__))


RUNS = int(os.environ.get("TIDEMARK_TORTURE", "8"))


@pytest.mark.parametrize("seed", range(RUNS))
def test_on_lmdb(seed: int) -> None:
    """Producers, a consumer, a compactor and a server over one folder, and a machine that stops."""
    required()  # some of the streams are Redis's
    outcome = run(seed, "lmdb")
    assert not outcome.problems, str(outcome)


@pytest.mark.parametrize("seed", range(RUNS // 2))
def test_on_redis(seed: int) -> None:
    """The same, and Redis is killed too; with its data, or without."""
    required()
    outcome = run(seed, "redis")
    assert not outcome.problems, str(outcome)
