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

from _environment import require_packages

require_packages("aiohttp", "msgspec", "numpy", "rich")

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
from _tour.stage import ExpectationError, Stage, set_stage  # noqa: E402
from _traffic.api import ANSWER_GRACE_S, DEFAULT_URL, Api, ApiError  # noqa: E402
from _traffic.report import make_console  # noqa: E402

FAILED = 1
URL_VARIABLE = "INFERLANE_URL"
DEFAULT_REQUESTS = 2_000
# Fewer and four standard deviations of a 10 % share are so wide that nearly any share passes.
FEWEST_REQUESTS = 100
MOST_REQUESTS = 100_000
# Long enough for a machine that stands still for seconds; a second Ctrl-C ends the wait.
RESTORE_LIMIT_S = 30.0


async def take_tour(url: str, model_name: str | None, requests: int) -> None:
    """Show every step, and leave the traffic split as it was.

    Raises:
        ApiError: the server did not answer as asked.
        ExpectationError: it answered, and the answer is wrong.
    """
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    console = make_console()
    async with Api(url, timeout_s=WAIT_S + ANSWER_GRACE_S) as api:
        served, chosen = await api.model(model_name)
        model = next(model for model in served.models if model.name == chosen)
        stage = set_stage(api, console, served, model, requests=requests)
        console.print(f"[bold]Inferlane[/] at {url}, API documentation at {url}/docs")
        await show_models(stage)
        await ask_once(stage)
        await compare_quantized(stage)
        await ask_without_waiting(stage)
        await make_an_error(stage)
        before = await api.split(model.name)
        try:
            answered = await run_canary(stage)
            await show_metrics(stage, answered)
        finally:
            await restore_split(stage, before.weights)


async def restore_split(stage: Stage, weights: dict[str, float]) -> None:
    """Set the weights that were there before; also when the tour fails or is interrupted."""
    stage.title(8, "The traffic split as it was before")
    try:
        async with asyncio.timeout(RESTORE_LIMIT_S):
            split = await stage.api.set_split(stage.model.name, weights)
    except (ApiError, TimeoutError) as error:
        reason = str(error) or f"no answer in {RESTORE_LIMIT_S:g} s"
        raise ApiError(
            f"the traffic split of {stage.model.name} was not restored: {reason}; "
            f"set it with POST /v1/traffic-split, weights {weights}"
        ) from error
    stage.say("  ".join(f"{version} {weight:.0%}" for version, weight in split.weights.items()))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Shows what a running Inferlane server does, and checks it.",
        epilog="exit status: 0 everything was as promised, 1 something was not (the last line says what), 2 usage.",
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
        if isinstance(context, ApiError | ExpectationError):
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
    except (ApiError, ExpectationError) as error:
        # Where the restoring failed after a step did, the step's failure is the context of this one.
        for reason in dict.fromkeys((_first_failure(error), error)):
            print(f"demo: {reason}", file=sys.stderr)
        return FAILED
    make_console().print(f"\n[bold green]Everything was as promised[/] ({time.perf_counter() - start_s:.1f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
