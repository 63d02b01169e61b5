"""Makes a script run with the packages it needs, whichever Python started it."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
USAGE_ERROR = 2


def require_packages(*names: str) -> None:
    """Return if every package can be imported; else start the script again with `.venv`, or exit 2 with the remedy."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if not missing:
        return
    environment = REPOSITORY / ".venv"
    python = environment / "bin" / "python"
    # `sys.prefix` names the environment even where its python is a link to the one that runs now; without this
    # check an environment that lacks a package would start itself for ever.
    if python.exists() and Path(sys.prefix).resolve() != environment.resolve():
        sys.stdout.flush()
        os.execv(python, [str(python), *sys.argv])  # noqa: S606 - no shell is wanted; the path is ours
    where = f"{environment} lacks" if python.exists() else f"{sys.executable} lacks"
    remedy = f"run ./start.sh in {REPOSITORY} (it makes .venv with everything that is needed), then try again"
    print(f"{where} {', '.join(missing)}: {remedy}", file=sys.stderr)
    raise SystemExit(USAGE_ERROR)
