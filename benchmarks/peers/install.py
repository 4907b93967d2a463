"""An environment for Feast alone, made once: nothing of it is a dependency of this project."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path


def feast(folder: Path) -> tuple[Path, str]:
    """The Python of the environment, and the version of Feast in it; installs it if need be."""
    home = folder / f"feast-{sys.version_info.major}.{sys.version_info.minor}"
    python = home / "bin" / "python"
    asking = [str(python), "-c", "import feast, redis; print(feast.__version__)"]
    if not python.exists() or subprocess.run(asking, capture_output=True, check=False).returncode:
        print(f"Installing feast[redis] into {home}", flush=True)
        venv.create(home, with_pip=True, clear=True)
        installing = [str(python), "-m", "pip", "install", "--quiet", "feast[redis]"]
        done = subprocess.run(installing, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
    found = subprocess.run(asking, capture_output=True, text=True, check=True).stdout
    return python, found.split()[-1]
