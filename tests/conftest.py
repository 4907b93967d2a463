"""What every test shares: how many random examples a property sees, and a Redis."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.redis_server import PATIENT, RedisCluster, RedisServer, required

# A deadline would make a busy machine fail tests that are right.
settings.register_profile(
    "modest", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", settings.get_profile("modest"), max_examples=2_000)
settings.load_profile("modest")


@pytest.fixture(autouse=True)
def _nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The next test finds no module, search path or variable of the environment of this one."""
    modules, path, environment = set(sys.modules), list(sys.path), dict(os.environ)
    yield
    sys.path[:] = path
    for name in (os.environ.keys() | environment.keys()) - {"PYTEST_CURRENT_TEST"}:
        if name not in environment:
            del os.environ[name]
        elif os.environ.get(name) != environment[name]:
            os.environ[name] = environment[name]
    temporary = tmp_path_factory.getbasetemp()
    for name in sys.modules.keys() - modules:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(temporary):
            del sys.modules[name]


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory):
    required()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(shared_redis):
    """The address of an empty Redis."""
    import redis

    with redis.Redis(port=shared_redis.port) as client:
        client.flushall()
    return shared_redis.url


@pytest.fixture(scope="session")
def shared_sentinel(shared_redis, tmp_path_factory):
    file = tmp_path_factory.mktemp("sentinel") / "sentinel.conf"
    file.write_text(f"sentinel monitor mymaster 127.0.0.1 {shared_redis.port} 1\n")
    server = RedisServer(file.parent, str(file), "--sentinel")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def sentinel_url(shared_sentinel, redis_url):
    """The address of the same empty Redis, through a Sentinel that is asked where it is."""
    return f"redis+sentinel://127.0.0.1:{shared_sentinel.port}/mymaster/0{PATIENT}"


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory):
    required()
    cluster = RedisCluster(tmp_path_factory.mktemp("cluster"))
    cluster.start()
    yield cluster
    cluster.kill()


@pytest.fixture
def cluster_url(shared_cluster):
    """The address of an empty Redis Cluster of three nodes."""
    shared_cluster.empty()
    return shared_cluster.url


@pytest.fixture
def redis_server(tmp_path):
    """A Redis that the test may kill."""
    required()
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()
