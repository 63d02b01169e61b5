"""A system that answers, and the processes that it is made of."""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

NAME = "inferlane"
"""What we are called among the systems."""
ON_APACHE = "-apache"
"""Behind the name of a system: with an Apache Kafka in place of the embedded broker. Not among the default systems, as
it needs Java."""
NAME_ON_APACHE = NAME + ON_APACHE

# A JVM compiles what it runs often: for a request the broker takes twice the CPU in its first seconds.
APACHE_WARM_UP_S = 20

_STOP_WITHIN_S = 30.0
_POLL_S = 0.1
_HTTP_TIMEOUT_S = 30.0

Protocol = Literal["v1", "v2"]


class NotReadyError(Exception):
    """A system did not start; the message ends with its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """`own_pids` are the roots of the system's own processes, `parts_pids` those of its broker and store.

    `processes` names the pids where that is known. `knows_deadlines` is whether a request may say how long it may take.
    `environment` is what a command needs to find the system, which is loaded for `warm_up_s` before it is measured.
    """

    name: str
    title: str
    url: str
    protocol: Protocol
    own_pids: tuple[int, ...]
    parts_pids: tuple[int, ...]
    versions: tuple[str, ...]
    processes: Mapping[str, int] = field(default_factory=dict)
    knows_deadlines: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    warm_up_s: int = 0

    def body(self, row: np.ndarray, *, within_s: float | None = None) -> bytes:
        """The HTTP body that asks for `row`, `(features,) float32`, and says, where it can, how long that may take."""
        if self.protocol == "v1":
            limits = {"timeout_s": within_s, "deadline_s": within_s} if within_s and self.knows_deadlines else {}
            return json.dumps({"instances": [numbers(row)], **limits}).encode()
        tensor = {"name": "input", "shape": [1, len(row)], "datatype": "FP32", "data": numbers(row)}
        return json.dumps({"inputs": [tensor]}).encode()


def numbers(row: np.ndarray) -> list[float]:
    """The values of a row as a client would write them in JSON."""
    # float32 as the shortest text that reads back as the same: 5.1, not 5.099999904632568.
    return [float(str(number)) for number in row]


def probabilities_in(answer: Any) -> list[float]:
    """The probabilities of the one row that was asked, from any of the shapes that the systems answer in."""
    if isinstance(answer, list):
        return list(answer[0]["probabilities"])
    if "predictions" in answer:
        return list(answer["predictions"][0]["probabilities"])
    if "outputs" in answer:
        return list(next(output["data"] for output in answer["outputs"] if output["name"] == "probabilities"))
    return list(answer["probabilities"][0])


@contextmanager
def process(
    argv: Sequence[str], *, log: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command in a session of its own; at the end it and all its children are gone."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        child = subprocess.Popen(argv, stdout=out, stderr=out, cwd=cwd, env=env, start_new_session=True)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_STOP_WITHIN_S)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def wait_ready(
    is_ready: Callable[[], bool],
    *,
    within_s: float,
    what: str,
    logs: Sequence[Path],
    processes: Sequence["subprocess.Popen[bytes]"] = (),
) -> None:
    """Return when it is so.

    Raises:
        NotReadyError: it is not within the time, or one of the processes has ended.
    """
    deadline_s = time.monotonic() + within_s
    while not is_ready():
        why = None
        if any(process.poll() is not None for process in processes):
            why = "ended as it started"
        elif time.monotonic() > deadline_s:
            why = f"was not ready within {within_s:g} s"
        if why is not None:
            tails = "\n".join(log.read_text(errors="replace")[-2000:] for log in logs if log.is_file())
            raise NotReadyError(f"{what} {why}\n{tails}")
        time.sleep(_POLL_S)


def post(url: str, body: bytes) -> Any:
    """The decoded JSON answer.

    Raises:
        OSError: no answer, or one with an error status.
    """
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})  # noqa: S310 - ours
    with urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_S) as response:  # noqa: S310 - as above
        return json.load(response)


def answers_get(url: str) -> bool:
    """Whether a GET is answered with a status below 400."""
    try:
        with urllib.request.urlopen(url, timeout=_HTTP_TIMEOUT_S):  # noqa: S310 - our own process
            return True
    except (OSError, urllib.error.URLError):
        return False
