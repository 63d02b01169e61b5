"""Demo: a tour of a running Inferlane server that checks what it shows.

Example:
    python scripts/demo.py --model iris
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from _environment import require_packages

require_packages("inferlane_client", "msgspec", "numpy", "rich")

# The imports below need the packages that the call above provides, hence E402.
from _tour.canary import WAIT_S, run_canary  # noqa: E402
from _tour.measured import show_metrics  # noqa: E402
from _tour.predictions import (  # noqa: E402
    ask_once,
    ask_without_waiting,
    compare_quantized,
    make_an_error,
    show_models,
)
from _tour.rollouts import run_rollouts  # noqa: E402
from _tour.stage import ExpectationError, Stage, choose_model, set_stage  # noqa: E402
from _traffic.api_key import KEY_VARIABLE, key_remedy, read_key  # noqa: E402
from _traffic.report import make_console  # noqa: E402

from inferlane_client import AsyncClient, CallError, ConnectionFailed, Retries  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping

FAILED = 1
DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE = "INFERLANE_URL"
# A server that is not there is told within a second; one that is busy has its time.
RETRIES = Retries(limit=3)
DEFAULT_REQUESTS = 2_000
# Fewer and four standard deviations of a 10 % share are so wide that nearly any share passes.
FEWEST_REQUESTS = 100
MOST_REQUESTS = 100_000
# Long enough for a machine that stands still for seconds; a second Ctrl-C ends the wait.
RESTORE_LIMIT_S = 30.0


async def take_tour(url: str, model_name: str | None, requests: int) -> None:
    """Show every step, and leave the traffic split as it was.

    Raises:
        CallError: the server did not answer as asked.
        ExpectationError: it answered, and the answer is wrong.
    """
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    console = make_console()
    key = read_key()
    # Environment proxies are not for a server whose latencies are shown.
    async with AsyncClient(url, api_key=key, timeout_s=WAIT_S, retries=RETRIES, trust_env=False) as client:
        served = await client.models()
        stage = set_stage(client, console, served, choose_model(served, model_name), requests=requests)
        console.print(f"[bold]Inferlane[/] at {url}, API documentation at {url}/docs")
        await show_models(stage)
        await ask_once(stage)
        await compare_quantized(stage)
        await ask_without_waiting(stage)
        await make_an_error(stage)
        before = await client.traffic_split(stage.model.name)
        try:
            answered = await run_canary(stage)
            await show_metrics(stage, answered)
            await run_rollouts(stage, url)
        finally:
            await restore_split(stage, before.weights)


async def restore_split(stage: Stage, weights: Mapping[str, float]) -> None:
    """Set the weights that were there before; also when the tour fails or is interrupted."""
    stage.title(9, "The traffic split as it was before")
    try:
        async with asyncio.timeout(RESTORE_LIMIT_S):
            split = await stage.set_split(weights)
    except (CallError, TimeoutError) as error:
        reason = str(error) or f"no answer in {RESTORE_LIMIT_S:g} s"
        raise ExpectationError(
            f"the traffic split of {stage.model.name} was not restored: {reason}; "
            f"set it with POST /v1/traffic-split, weights {dict(weights)}"
        ) from error
    stage.say("  ".join(f"{version} {weight:.0%}" for version, weight in split.weights.items()))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Shows what a running Inferlane server does, and checks it.",
        epilog="exit status: 0 everything was as promised, 1 something was not (the last lines say what), 2 usage. "
        f"An API with keys: set {KEY_VARIABLE} to one with the scope admin.",
    )
    url = os.environ.get(URL_VARIABLE) or DEFAULT_URL
    parser.add_argument("--url", default=url, help=f"base URL of the API (default {DEFAULT_URL}, env {URL_VARIABLE})")
    parser.add_argument("--model", help="model to show (default: the server's default model)")
    count_help = f"requests, each with its own routing key, per canary weight (default {DEFAULT_REQUESTS})"
    parser.add_argument("--requests", type=int, default=DEFAULT_REQUESTS, help=count_help)
    given = parser.parse_args()
    if not given.url.startswith(("http://", "https://")):
        parser.error(f"--url must begin with http:// or https://, not {given.url!r}")
    if not FEWEST_REQUESTS <= given.requests <= MOST_REQUESTS:
        parser.error(f"--requests must be {FEWEST_REQUESTS} to {MOST_REQUESTS}, not {given.requests}")
    return given


def _first_failure(error: BaseException) -> BaseException:
    """Return the earliest of our own errors that this one followed."""
    earliest, context = error, error.__context__
    while context is not None:
        if isinstance(context, CallError | ExpectationError):
            earliest = context
        context = context.__context__
    return earliest


def main() -> int:
    given = parse_arguments()
    start_s = time.perf_counter()
    try:
        asyncio.run(take_tour(given.url.rstrip("/"), given.model, given.requests))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("demo: interrupted", file=sys.stderr)
        return FAILED
    except (CallError, ExpectationError) as error:
        # Where the restoring failed after a step did, the step's failure is the context of this one.
        for reason in dict.fromkeys((_first_failure(error), error)):
            print(f"demo: {reason}", file=sys.stderr)
            if isinstance(reason, ConnectionFailed):
                print(
                    f"demo: no server at {given.url}: start one with ./start.sh, or name it with --url", file=sys.stderr
                )
            if isinstance(reason, CallError) and (remedy := key_remedy(reason.status)):
                print(f"demo: {remedy}", file=sys.stderr)
        return FAILED
    make_console().print(f"\n[bold green]Everything was as promised[/] ({time.perf_counter() - start_s:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
