"""`inferlane doctor`: which part is broken, and what to do about it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from inferlane.cli.console import out, styled
from inferlane.cli.reaching import reach
from inferlane.cli.up import load_targets
from inferlane.errors import ConfigurationError, InferlaneError

# The checks load the Kafka, Redis and HTTP clients: commands that do not need them start without (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from inferlane.config import Settings
    from inferlane.stack.probe import Target
    from inferlane.stack.runfile import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A line of the checklist; it is skipped when a part that it needs was found broken."""

    name: str
    needs: frozenset[str] = field(default=frozenset())
    see: Callable[[], Awaitable[str]]


def doctor(
    api_url: Annotated[
        str,
        typer.Option(
            envvar="INFERLANE_API_URL", help="The API to probe; empty is that of the settings.", show_default="''"
        ),
    ] = "",
) -> None:
    """Check every part, then send a request through every hop. Exit 1 if anything is broken."""
    if asyncio.run(_examine(api_url)):
        raise typer.Exit(1)


async def _examine(api_url: str) -> set[str]:
    """Print the checklist and return the names of what is broken."""
    from inferlane.stack.pools import base_url

    settings, record = reach()
    _say_well("settings", f"of the stack that runs here, pid {record.pid}" if record else "environment")
    api_url = api_url or base_url(settings.api_host, settings.api_port)
    broken: set[str] = set()
    targets: tuple[Target, ...] = ()
    if not await _report(Check(name="models", see=partial(_verify_models, settings, record))):
        broken.add("models")
    with suppress(ConfigurationError):
        # Those of the versions that can be served, whatever is wrong with others.
        targets = _served(load_targets(settings), record)
    for check in _checks(settings, targets, api_url, record):
        if unmet := check.needs & broken:
            skipped = f"- {check.name}: skipped, it needs {', '.join(sorted(unmet))}"
            out.print(styled((skipped, "dim")), soft_wrap=True)
        elif not await _report(check):
            broken.add(check.name)
    return broken


def _checks(
    settings: "Settings", targets: "tuple[Target, ...]", api_url: str, record: "RunRecord | None"
) -> tuple[Check, ...]:
    from inferlane.stack import checks
    from inferlane.stack.hops import router_progress
    from inferlane.stack.pools import worker_pool

    needs_broker = frozenset({"broker"})
    entries = record.processes if record else ()
    processes = [
        Check(name=entry.name, see=partial(checks.check_ready, entry.ops_url))
        for entry in entries
        # What could not be loaded is among the models.
        if entry.ops_url and entry.pool != "api" and not entry.fault
    ]
    asleep = {pool.name for pool in record.scaled_pools if pool.workers == 0} if record else set()
    predictions = [
        Check(
            name=f"predict {target.model} {target.version}",
            needs=frozenset({"api"}),
            see=_say_asleep
            if worker_pool(target.model, target.version) in asleep
            else partial(checks.check_prediction, settings, api_url, target),
        )
        for target in targets
    ]
    return (
        Check(name="broker", see=partial(checks.check_broker, settings)),
        Check(name="topics", needs=needs_broker, see=partial(checks.check_topics, settings, targets)),
        Check(name="store", see=partial(checks.check_store, settings)),
        *processes,
        Check(name="router progress", needs=needs_broker | {"topics"}, see=partial(router_progress, settings)),
        Check(name="api", see=partial(checks.check_ready, api_url)),
        *predictions,
    )


async def _report(check: Check) -> bool:
    try:
        detail = await check.see()
    except InferlaneError as error:
        out.print(styled((f"✗ {check.name}", "bold red"), f": {error}"), soft_wrap=True)
        return False
    _say_well(check.name, detail)
    return True


def _say_well(name: str, detail: str) -> None:
    out.print(styled(("✓", "green"), f" {name}: {detail}"), soft_wrap=True)


async def _say_asleep() -> str:
    """A probe would wake the pool, which is no broken part."""
    return "asleep by its ScaledObject; not probed, its next request wakes it"


def _served(targets: "tuple[Target, ...]", record: "RunRecord | None") -> "tuple[Target, ...]":
    """The targets without those of which the supervisor says that no worker can load them: a probe would only wait."""
    unusable = {(fault.model, fault.version) for fault in record.faults} if record else set()
    return tuple(target for target in targets if (target.model, target.version) not in unusable)


async def _verify_models(settings: "Settings", record: "RunRecord | None") -> str:
    """Every version can be read, has the digest that its description names, and could be loaded.

    Raises:
        ConfigurationError: one or more could not; the message names each, and what is wrong with it.
    """
    from models.artifact import check_artifact, read_artifact
    from models.catalog import load_catalog

    catalog = load_catalog(settings.models_dir, default_model=settings.default_model)
    faults = {f"{fault.model} {fault.version or ''}".strip(): fault.reason for fault in catalog.faults}
    for entry in catalog.all_versions():
        try:
            artifact = read_artifact(entry.path)
            check_artifact(entry.path, artifact, digest=entry.digest, size_bytes=entry.size_bytes)
        except ConfigurationError as error:
            faults[f"{entry.model} {entry.version}"] = str(error)
    for fault in record.faults if record else ():
        faults.setdefault(f"{fault.model} {fault.version or ''}".strip(), fault.reason)
    if faults:
        listed = "; ".join(f"{name}: {reason}" for name, reason in faults.items())
        raise ConfigurationError(f"{len(faults)} cannot be served, the others can. {listed}")
    return f"{len(catalog.all_versions())} versions in {settings.models_dir}, digests as recorded"
