"""What the documentation asks with curl is answered."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.docs.test_pages import ROOT
from tests.spec.http_server import serving  # skips where the extra is not installed

import tidemark as tm
from tidemark.apps.cli import main

BLOCK = re.compile(r"^```\n(curl .*?)^```", re.MULTILINE | re.DOTALL)
WRITTEN = "http://127.0.0.1:6566"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The example project, as the pages make it."""
    if shutil.which("curl") is None and os.environ.get("CI") != "true":
        pytest.skip("curl is not installed")
    folder = tmp_path / "example"
    for words in (["init", str(folder)], *(
        [*command, "--project", str(folder)] for command in (["apply", "--yes"], ["materialize"])
    )):  # fmt: skip
        assert CliRunner().invoke(main, words).exit_code == 0
    return folder


@pytest.mark.parametrize("page", ["http.md", "secure-the-service.md"])
def test_curl(project: Path, page: str) -> None:
    """Each block gives JSON; only the address and the key are others."""
    blocks = BLOCK.findall((ROOT / "docs" / "how-to" / page).read_text("utf-8"))
    assert blocks
    environment = dict(os.environ)
    if page == "secure-the-service.md":
        with tm.connect(project) as store:
            made = store.registry.keys.create("reader", services=["fraud"])
        environment["TIDEMARK_KEY"] = made.secret
    with serving(project) as server:
        for block in blocks:
            command = block.replace(WRITTEN, server.address)
            assert command != block
            ran = subprocess.run(
                ["sh", "-c", f"{command.strip()} --silent --show-error --fail-with-body"],
                env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert ran.returncode == 0, ran.stdout + ran.stderr
            assert json.loads(ran.stdout)["request_id"]
