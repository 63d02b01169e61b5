"""The command line of the load test."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .api import DEFAULT_URL
from .api_key import KEY_VARIABLE
from .arrivals import ClosedLimit, OpenSchedule

if TYPE_CHECKING:
    from collections.abc import Sequence

URL_VARIABLE = "INFERLANE_URL"
DEFAULT_REQUESTS = 10_000
DEFAULT_OPEN_DURATION_S = 10.0
# Ends of a closed run that names only the other one: the samples must fit in memory, and no run goes on for ever.
MOST_REQUESTS = 2_000_000
MOST_SECONDS = 600.0
# Few, so that each comes back often in a short run.
CHECK_KEYS = 100
EPILOG = f"""exit status: 0 every request was answered 200 (and --check found no contradiction), 1 otherwise, 2 usage.

closed: --concurrency clients, each sends its next request when the last one is answered: how much it can take.
open: requests are due at a constant rate, and latency counts from when each was due, so that a stall of the server
also counts for the requests that it kept waiting (no coordinated omission): what users see at that rate.

keys: where the API has keys, set {KEY_VARIABLE} to one with the scope predict, or admin for --split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    url: str
    arrivals: OpenSchedule | ClosedLimit
    max_outstanding: int
    model: str | None
    version: str | None
    rows: int
    routing_keys: int
    split: dict[str, float] | None
    timeout_s: float
    seed: int
    check: bool
    check_tolerance: float
    json_file: Path | None


def parse_split(text: str) -> dict[str, float]:
    """Read `v1=90,v2=10`.

    Raises:
        argparse.ArgumentTypeError: it is no such list, or a weight is negative, or all are 0.
    """
    try:
        pairs = [part.split("=") for part in text.split(",")]
        weights = {name.strip(): float(weight) for name, weight in pairs}
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of version=weight, like v1=90,v2=10") from error
    if len(weights) != len(pairs) or "" in weights:
        raise argparse.ArgumentTypeError(f"{text!r} names a version twice, or none")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()) or sum(weights.values()) <= 0:
        raise argparse.ArgumentTypeError(f"weights must be 0 or more, with a sum above 0, not {text!r}")
    return weights


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"must be more than 0, not {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return value


def _tolerance(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {text}")
    return value


def _json_file(text: str) -> Path:
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} cannot be written: it is a folder, or its folder does not exist")
    return path


def _make_parser(url: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Sends predictions to an Inferlane server and reports what came of every one of them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--url", default=url, help=f"base URL of the API (default {DEFAULT_URL}, env {URL_VARIABLE})")
    add("--mode", choices=("closed", "open"), default="closed", help="how requests arrive (default closed)")
    add("--concurrency", type=_count, help="closed: requests under way at once (default 64)")
    add("--requests", type=_count, help=f"closed: stop after this many (default {DEFAULT_REQUESTS} without --duration)")
    add(
        "--duration",
        type=_positive,
        metavar="SECONDS",
        help=f"seconds to send for (default: open {DEFAULT_OPEN_DURATION_S:.0f}, closed {MOST_SECONDS:.0f})",
    )
    add("--rate", type=_positive, help="open: requests per second (default 1000)")
    add("--max-outstanding", type=_count, help="open: requests under way at most; more are counted (default 512)")
    add("--model", help="model to ask (default: the server's default model)")
    add("--version", help="pin every request to this version (default: the server chooses)")
    add("--rows", type=_count, default=1, help="instances per request (default 1)")
    keys_help = f"number of different routing keys (default: none, with --check {CHECK_KEYS})"
    add("--routing-keys", type=_count, metavar="N", help=keys_help)
    add("--split", type=parse_split, metavar="V=W,V=W", help="set these weights first, and leave them (default: none)")
    timeout_help = "seconds a request may take; sent as its timeout_s (default 10)"
    add("--timeout", type=_positive, default=10.0, metavar="SECONDS", help=timeout_help)
    add("--seed", type=int, default=0, help="seed of the drawn instances (default 0)")
    check_help = "check that the same instance and version always get the same answer, and a routing key one version"
    add("--check", action="store_true", help=f"{check_help} (default off)")
    tolerance_help = "difference of a probability that still is the same answer (default 1e-6: float32 rounding)"
    add("--check-tolerance", type=_tolerance, default=1e-6, metavar="P", help=tolerance_help)
    add("--json", type=_json_file, metavar="FILE", help="also write the numbers there (default: nowhere)")
    return parser


def _arrivals(parser: argparse.ArgumentParser, given: argparse.Namespace) -> OpenSchedule | ClosedLimit:
    if given.mode == "open":
        if given.requests or given.concurrency:
            parser.error("--requests and --concurrency are for --mode closed; open has --rate and --duration")
        schedule = OpenSchedule(rate_per_s=given.rate or 1000.0, duration_s=given.duration or DEFAULT_OPEN_DURATION_S)
        if schedule.count > MOST_REQUESTS:
            parser.error(f"--rate times --duration is {schedule.count:,} requests; the limit is {MOST_REQUESTS:,}")
        return schedule
    if given.rate or given.max_outstanding:
        parser.error("--rate and --max-outstanding are for --mode open; closed has --concurrency")
    requests = given.requests or (MOST_REQUESTS if given.duration else DEFAULT_REQUESTS)
    if requests > MOST_REQUESTS:
        parser.error(f"--requests is {requests:,}; the limit is {MOST_REQUESTS:,}")
    duration_s = given.duration or MOST_SECONDS
    return ClosedLimit(requests=requests, duration_s=duration_s, concurrency=given.concurrency or 64)


def parse_options(arguments: Sequence[str], *, environment_url: str | None) -> Options:
    """Read the command line; exits with 2 and says why if it makes no sense."""
    parser = _make_parser(environment_url or DEFAULT_URL)
    given = parser.parse_args(arguments)
    if not given.url.startswith(("http://", "https://")):
        parser.error(f"--url must begin with http:// or https://, not {given.url!r}")
    return Options(
        url=given.url,
        arrivals=_arrivals(parser, given),
        max_outstanding=given.max_outstanding or 512,
        model=given.model,
        version=given.version,
        rows=given.rows,
        routing_keys=given.routing_keys or (CHECK_KEYS if given.check else 0),
        split=given.split,
        timeout_s=given.timeout,
        seed=given.seed,
        check=given.check,
        check_tolerance=given.check_tolerance,
        json_file=given.json,
    )
