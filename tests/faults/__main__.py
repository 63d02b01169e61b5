"""`python -m tests.faults`: a fault run of any length, for a person. Exit 0 when the promise held, 1 when not."""

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from inferlane.runtime.config import load_settings
from inferlane.runtime.logs import configure_logs
from tests.faults.harness import Plan, prove
from tests.faults.harness.opening import fault_broker
from tests.support.brokers import BrokerKind


def faults(  # noqa: PLR0913, PLR0917 - one parameter a flag is how typer reads them
    minutes: Annotated[float, typer.Option(min=0, help="Go on for at least this long, minutes.")] = 0,
    faults: Annotated[int, typer.Option(min=0, help="Do at least this many faults.")] = 24,
    requests: Annotated[int, typer.Option(min=1, help="Accept at least this many requests.")] = 400,
    rate: Annotated[float, typer.Option(min=0.1, help="Requests a second.")] = 15,
    seed: Annotated[int, typer.Option(help="The same seed gives the same order of faults.")] = 1,
    broker: Annotated[BrokerKind, typer.Option(help="Which Kafka.")] = BrokerKind.EMBEDDED,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of an Apache Kafka.")] = 3,
    senders: Annotated[bool, typer.Option("--senders", help="Kill nothing: only what senders may do.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Logs and report.json; a new one in /tmp if none.")] = None,
) -> None:
    """Kill, freeze, fill and cut parts of a stack under load, and check every accepted request."""
    console = Console(highlight=False)
    folder = folder or Path(tempfile.mkdtemp(prefix="inferlane-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    settings = load_settings()
    configure_logs(settings.stack, service="faults")
    plan = Plan(seed=seed, faults=faults, requests=requests, minutes=minutes, rate_per_s=rate, only_senders=senders)
    with fault_broker(broker, folder / "broker", nodes=nodes) as opened:
        report = asyncio.run(prove(plan, opened, folder, models_dir=settings.stack.models_dir))
    report.show(console)
    console.print(f"logs and report.json: {folder}")
    if not report.holds:
        raise typer.Exit(1)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(faults)
    app()
