"""The closed loop over HTTP/1.1 and over gRPC by one program: h2load keeps a fixed number of requests under way."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import msgspec

_PATIENCE_S = 120.0
_FINISHED = re.compile(r"finished in ([\d.]+)(s|ms|us)")
_UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6}
# The head of a gRPC message: not compressed, and its length.
_LENGTH_BYTES = 4


class H2loadError(Exception):
    """h2load is missing or failed; the message says the remedy."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent again and again: its URL, its headers and its body."""

    url: str
    body: bytes
    headers: dict[str, str] = {}
    is_grpc: bool = False


def grpc_message(address: str, method: str, message: bytes) -> Message:
    """A unary call of gRPC."""
    return Message(
        url=f"http://{address}{method}",
        body=b"\0" + len(message).to_bytes(_LENGTH_BYTES, "big") + message,
        headers={"content-type": "application/grpc", "te": "trailers"},
        is_grpc=True,
    )


def run_h2load(message: Message, *, concurrency: int, requests: int) -> float:
    """Send so many requests from one thread, one under way on each connection; return the seconds that they took.

    Raises:
        H2loadError: it is missing or failed, or a response had no status 2xx. Every response of gRPC has one.
    """
    program = shutil.which("h2load")
    if program is None:
        raise H2loadError("h2load is not installed; on Debian or Ubuntu: apt-get install nghttp2-client")
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body"
        body.write_bytes(message.body)
        headers = [part for name, value in message.headers.items() for part in ("-H", f"{name}: {value}")]
        argv = [
            *(program, "-t1", f"-c{concurrency}", "-m1", f"-n{requests}", "-d", str(body), *headers),
            *([] if message.is_grpc else ["--h1"]),
            message.url,
        ]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    return parse_h2load(done.stdout, requests, hint=done.stderr)


def parse_h2load(output: str, requests: int, *, hint: str = "") -> float:
    """Return the seconds that the requests took.

    Raises:
        H2loadError: not all of them had a status 2xx.
    """
    finished = _FINISHED.search(output)
    if finished is None or f"status codes: {requests} 2xx" not in output:
        raise H2loadError(f"h2load had not {requests} good responses: {(output + hint)[-500:]!r}")
    return float(finished[1]) / _UNITS[finished[2]]
