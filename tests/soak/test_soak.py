"""The service under load while its parts fail, in the form that fits into a minute."""

import os
import shutil

import pytest
from benchmarks.soak.__main__ import soak

pytestmark = pytest.mark.skipif(
    "CI" not in os.environ and "THOROUGH" not in os.environ,
    reason="takes more than a minute: make thorough",
)


def test_nothing_is_wrong_and_nothing_is_lost(tmp_path):
    """Workers are killed, Redis twice, revisions applied: values by `==`, flat memory."""
    stores = ["lmdb", "redis"] if shutil.which("redis-server") else ["lmdb"]
    assert soak(tmp_path, minutes=0.7, every=10, stores=stores, recovery=300.0) == []
