"""A child process that does one order under a limit of time: a bad model may crash its process, or never end."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from inferlane.errors import ConfigurationError, InferlaneError, clipped

_Order = TypeVar("_Order")
_Answer = TypeVar("_Answer")
_SHOWN_CHARS = 1_000


class _Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What the child writes: the answer to its order, or why it refused it."""

    answer: msgspec.Raw = msgspec.Raw(b"null")
    refusal: str | None = None


def run_in_child(
    module: str, order: msgspec.Struct, answer_type: type[_Answer], *, what: str, scratch: Path, timeout_s: float
) -> _Answer:
    """Return the answer of `module`, run as a child process that calls `answer_order`.

    Raises:
        ConfigurationError: the child refused the order, ended before it was done, or took too long; `what` names it.
    """
    name = module.rpartition(".")[2]
    order_file, answer_file = scratch / f"{name}-order.json", scratch / f"{name}-answer.json"
    order_file.write_bytes(msgspec.json.encode(order))
    _run(module, order_file, answer_file, what=what, scratch=scratch, timeout_s=timeout_s)
    if not answer_file.exists():
        raise ConfigurationError(
            f"{what} ended the process that ran it before it was done, with exit code 0. Load it by itself, and see "
            "what it runs then"
        )
    outcome = msgspec.json.decode(answer_file.read_bytes(), type=_Outcome)
    if outcome.refusal is not None:
        raise ConfigurationError(outcome.refusal)
    return msgspec.json.decode(outcome.answer, type=answer_type)


def answer_order(order_type: type[_Order], answer: Callable[[_Order], msgspec.Struct]) -> None:
    """Answer the order that this process was started with; an `InferlaneError` of `answer` is a refusal."""
    order_file, answer_file, limit_s = sys.argv[1:]
    # The process ends by itself, also where nobody is left who would end it.
    signal.alarm(math.ceil(float(limit_s)) + 1)
    order = msgspec.json.decode(Path(order_file).read_bytes(), type=order_type)
    try:
        outcome = _Outcome(answer=msgspec.Raw(msgspec.json.encode(answer(order))))
    except InferlaneError as error:
        outcome = _Outcome(refusal=str(error))
    Path(answer_file).write_bytes(msgspec.json.encode(outcome))


def _run(module: str, *arguments: Path, what: str, scratch: Path, timeout_s: float) -> None:
    """Run a module with a limit of time; what it writes is kept from the terminal.

    Raises:
        ConfigurationError: it ended with an error, by a signal, or not in time.
    """
    written = scratch / "output.txt"
    # -P: a folder `models` where the command was given must not be taken for ours.
    # One thread each: those of BLAS wait for each other by spinning, which takes minutes on a busy machine.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", module, *map(str, arguments), str(timeout_s)]
    with written.open("wb") as output:
        try:
            code = subprocess.run(  # noqa: S603 - our own module
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                timeout=timeout_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -signal.SIGALRM
    if code == -signal.SIGALRM:
        raise ConfigurationError(
            f"{what} took longer than {timeout_s:g} s to be loaded and run, which is the limit. It may never end; "
            "if it is only large, give it more with --timeout"
        )
    if code:
        tail = clipped(written.read_text(errors="backslashreplace").strip()[-_SHOWN_CHARS:], limit_chars=_SHOWN_CHARS)
        raise ConfigurationError(f"{what} ended the process that ran it ({_ending(code)}). {tail}".rstrip())


def _ending(code: int) -> str:
    if code > 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
