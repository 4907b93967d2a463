"""Compiled code is never older than its sources."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from tidemark.kernel import compiled as module

CALLEE = """
from compiled import compiled

@compiled
def inner(x):
    return x + {}
"""
CALLER = """
from callee import inner
from compiled import compiled

@compiled
def outer(x):
    return inner(x)
"""
QUESTION = "from caller import outer; print((outer(1), sum(outer.stats.cache_hits.values())))"


@pytest.fixture
def layer(tmp_path):
    """A folder with the decorator and two compiled functions, one of which calls the other."""
    shutil.copy(module.__file__, tmp_path / "compiled.py")
    (tmp_path / "callee.py").write_text(CALLEE.format(1))
    (tmp_path / "caller.py").write_text(CALLER)
    return tmp_path


def answer(layer: Path):
    """What a new process answers, and how many functions it took from the cache."""
    command = [sys.executable, "-c", QUESTION]
    result = subprocess.run(command, cwd=layer, capture_output=True, text=True, check=True)
    return ast.literal_eval(result.stdout)


def test_a_change_of_a_called_function_in_another_file_compiles_its_callers_again(layer):
    assert answer(layer) == (2, 0)
    assert answer(layer) == (2, 1)
    (layer / "callee.py").write_text(CALLEE.format(10))
    assert answer(layer) == (11, 0)


def test_where_nothing_can_be_cached_functions_compile_all_the_same(monkeypatch):
    real = numba.njit

    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    with monkeypatch.context() as readonly:
        readonly.setattr(numba, "njit", njit)
        increment = module.compiled(lambda x: x + 1)
    assert increment(1) == 2
