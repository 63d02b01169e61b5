"""A virtual environment for each peer, so that none of them bends the versions of another or of ours."""

import hashlib
import subprocess
import sys
from pathlib import Path

STATE = Path(".inferlane/benchmarks")
_UV = Path(sys.executable).with_name("uv")


def environment_of(folder: Path) -> Path:
    """The `bin` of the environment that `folder/requirements.txt` describes; made anew where it or our Python differs.

    Raises:
        subprocess.CalledProcessError: uv could not install it; uv has said why.
    """
    requirements = folder / "requirements.txt"
    # By another Python a peer would be faster or slower than ours for no reason of its own.
    python = f"{Path(sys.executable).resolve()} {sys.version}".encode()
    digest = hashlib.sha256(requirements.read_bytes() + python).hexdigest()
    home = STATE.absolute() / "venvs" / folder.name
    stamp = home / "requirements.sha256"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != digest:
        print(f"installing {requirements}", flush=True)
        subprocess.run([_UV, "venv", "-q", "--clear", "--python", sys.executable, home], check=True)
        subprocess.run([_UV, "pip", "install", "-q", "--python", home / "bin/python", "-r", requirements], check=True)
        stamp.write_text(digest, encoding="utf-8")
    return home / "bin"


def versions_in(environment: Path) -> list[str]:
    """`name==version` of everything installed there."""
    argv = [str(_UV), "pip", "freeze", "-q", "--python", str(environment / "python")]
    return subprocess.run(argv, check=True, capture_output=True, encoding="utf-8").stdout.split()
