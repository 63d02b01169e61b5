"""The closed loop: wrk keeps a fixed number of requests under way."""

import os
import shutil
import subprocess
from pathlib import Path

import msgspec

_SCRIPT = Path(__file__).with_name("wrk.lua")
_PATIENCE_S = 120.0


class WrkError(Exception):
    """wrk is missing or failed; the message says the remedy."""


class WrkResult(msgspec.Struct, frozen=True, kw_only=True):
    """One run of wrk. `answered` counts answers with a 2xx or 3xx status; `errors` everything else."""

    answered: int
    duration_us: int
    errors: int
    p50_us: int
    p99_us: int


def require_wrk() -> str:
    """The path of wrk.

    Raises:
        WrkError: it is not installed.
    """
    path = shutil.which("wrk")
    if path is None:
        raise WrkError("wrk is not installed; on Debian or Ubuntu: apt-get install wrk")
    return path


def run_wrk(url: str, body_file: Path, *, concurrency: int, seconds: int) -> WrkResult:
    """Send for so long on so many connections, from one thread: two would take a second core from what is measured.

    Raises:
        WrkError: wrk failed or said nothing that can be read.
    """
    argv = [require_wrk(), "-t1", f"-c{concurrency}", f"-d{seconds}s", "--timeout", "30s", "-s", str(_SCRIPT), url]
    environment = {**os.environ, "BENCH_BODY": str(body_file)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    return parse_wrk(done.stdout, hint=done.stderr)


def parse_wrk(output: str, *, hint: str = "") -> WrkResult:
    """Read the line that `wrk.lua` printed.

    Raises:
        WrkError: there is none.
    """
    for line in output.splitlines():
        if line.startswith("@"):
            return msgspec.json.decode(line[1:], type=WrkResult)
    raise WrkError(f"wrk printed no result: {(output + hint)[-500:]!r}")
