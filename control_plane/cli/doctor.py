"""`inferlane doctor`: which part is broken, and what to do about it."""

import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from control_plane.cli.console import AsJson, out, reach, run_work, styled, write_json
from control_plane.cli.up_command import load_targets
from inferlane import __version__
from inferlane.errors import ConfigurationError, InferlaneError, UnavailableError

# The checks load the Kafka, Redis and HTTP clients: commands that do not need them start without (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.text import Text

    from control_plane.local.probe import Target
    from inferlane.runtime.config import Settings
    from inferlane.runtime.http.api_address import ApiAddress
    from inferlane.runtime.runfile import RunRecord
    from inferlane.runtime.settings import StackSettings


# As long as a probe by HTTP may take.
_BULK_WITHIN_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorCheck:
    """A line of the checklist; it is skipped if a part that it needs is broken."""

    name: str
    needs: frozenset[str] = field(default=frozenset())
    see: Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of a check: the detail of what was seen, the fault, or the parts that it waits for."""

    name: str
    state: Literal["well", "broken", "skipped"]
    detail: str


def doctor(
    api_url: Annotated[
        str,
        typer.Option(
            envvar="INFERLANE_API_URL", help="The API to probe; empty is that of the settings.", show_default="''"
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Check every part, then send a request through every hop. Exit 1 if anything is broken."""
    found: list[Finding] = []

    def report(finding: Finding) -> None:
        found.append(finding)
        if not as_json:
            out.print(_line(finding), soft_wrap=True)

    run_work(_examine(api_url, report))
    is_well = all(finding.state != "broken" for finding in found)
    if as_json:
        write_json({"is_well": is_well, "checks": found})
    if not is_well:
        raise typer.Exit(1)


async def _examine(api_url: str, report: Callable[[Finding], None]) -> None:
    """Run the checklist, and report each finding as soon as it is there."""
    from inferlane.runtime.http.api_address import ApiAddress

    settings, record = reach()
    where = f"of the stack that runs here, pid {record.pid}" if record else "environment"
    report(Finding(name="settings", state="well", detail=where))
    api = ApiAddress(settings.api, settings.client, api_url)
    first = (
        *((DoctorCheck(name="release", see=partial(_same_release, record)),) if record else ()),
        DoctorCheck(name="models", see=partial(_verify_models, settings.stack, record)),
    )
    broken: set[str] = set()
    await _run(first, report, broken)
    targets: tuple[Target, ...] = ()
    with suppress(ConfigurationError):
        # Those of the versions that can be served, whatever is wrong with others.
        targets = _served(load_targets(settings.stack), record)
    await _run(_checks(settings, targets, api, record), report, broken)


async def _run(checks: Iterable[DoctorCheck], report: Callable[[Finding], None], broken: set[str]) -> None:
    """Run the checks whose parts are not `broken`, and add the names of those that fail."""
    for check in checks:
        if unmet := check.needs & broken:
            report(Finding(name=check.name, state="skipped", detail=f"it needs {', '.join(sorted(unmet))}"))
            continue
        try:
            report(Finding(name=check.name, state="well", detail=await check.see()))
        except InferlaneError as error:
            report(Finding(name=check.name, state="broken", detail=str(error)))
            broken.add(check.name)


def _line(finding: Finding) -> "Text":
    match finding.state:
        case "well":
            return styled(("✓", "green"), f" {finding.name}: {finding.detail}")
        case "broken":
            return styled((f"✗ {finding.name}", "bold red"), f": {finding.detail}")
        case "skipped":
            return styled((f"- {finding.name}: skipped, {finding.detail}", "dim"))


def _checks(
    settings: "Settings", targets: "tuple[Target, ...]", api: "ApiAddress", record: "RunRecord | None"
) -> tuple[DoctorCheck, ...]:
    from control_plane.local import doctor_checks as checks
    from control_plane.local.hop_progress import router_progress
    from control_plane.local.pools import worker_pool

    needs_broker = frozenset({"broker"})
    entries = record.processes if record else ()
    urls: dict[str, str] = {"api": api.url, **{entry.pool: entry.ops_url for entry in entries}}
    # Those that share a process by their names.
    urls |= {name: entry.ops_url for entry in entries for name in entry.versions}
    processes = [
        DoctorCheck(name=entry.name, see=partial(checks.check_ready, entry.ops_url))
        for entry in entries
        # What could not be loaded is among the models. Of several API processes each has its own address: on the port
        # that they share another one could answer.
        if entry.ops_url and entry.name != "api" and not entry.fault
    ]
    asleep = {pool.name for pool in record.scaled_pools if pool.workers == 0} if record else set()
    awake = [target for target in targets if worker_pool(target.model, target.version) not in asleep]
    predictions = [
        DoctorCheck(
            name=f"predict {target.model} {target.version}",
            needs=frozenset({"api"}),
            see=_say_asleep
            if target not in awake
            else partial(
                checks.check_prediction,
                settings.client,
                settings.kafka,
                settings.stack.names,
                api,
                target,
                ops_urls=_urls_for(target, urls),
            ),
        )
        for target in targets
    ]
    return (
        DoctorCheck(name="broker", see=partial(checks.check_broker, settings.kafka)),
        DoctorCheck(
            name="topics",
            needs=needs_broker,
            see=partial(checks.check_topics, settings.kafka, settings.stack.names, settings.webhooks, targets),
        ),
        DoctorCheck(
            name="store", see=partial(checks.check_store, settings.api, settings.store.redis_url, settings.stack.names)
        ),
        *(
            (DoctorCheck(name="state directory", see=partial(checks.check_state_dir, settings.stack)),)
            if record
            else ()
        ),
        *processes,
        DoctorCheck(
            name="router progress",
            needs=needs_broker | {"topics"},
            see=partial(router_progress, settings.kafka, settings.stack.names, ops_url=urls.get("router", "")),
        ),
        DoctorCheck(name="api", see=partial(checks.check_api, api)),
        *predictions,
        *(
            DoctorCheck(
                name="bulk lane",
                needs=needs_broker | {"topics"},
                see=partial(check_bulk_lane, settings, target, ops_urls=_urls_for(target, urls)),
            )
            for target in awake[:1]
        ),
    )


def _urls_for(target: "Target", urls: "Mapping[str, str]") -> dict[str, str]:
    """Return the ops addresses of router, API and a worker of the target."""
    from control_plane.local.pools import worker_pool

    own = urls.get(worker_pool(target.model, target.version), "")
    return dict(urls) | {"worker": own or urls.get(f"{target.model}/{target.version}", "")}


async def check_bulk_lane(settings: "Settings", target: "Target", *, ops_urls: "Mapping[str, str]") -> str:
    """A record of one row goes to the bulk topic, and its result comes back by the results topic.

    That is what `inferlane batch` and every producer of one's own do: whether this user may produce and fetch, and
    whether router and workers have joined their groups for the lane.

    Raises:
        UnavailableError: no result came, or another than a prediction; the message names the hop that holds it.
    """
    import io
    import json

    from control_plane.bulk.chunks import chunk_of_tensors
    from control_plane.bulk.job import BulkJob, JobSpec
    from control_plane.local.hop_progress import holding_hop
    from inferlane.contracts.naming import Lane
    from inferlane.contracts.wire.v1 import decode_instances
    from inferlane.contracts.wire.zero_rows import zero_row

    row = json.dumps([zero_row(target.signature)]).encode()
    tensors = decode_instances(row, target.signature, max_rows=1)
    chunk = chunk_of_tensors(tensors, first_row=0, row_count=1)
    spec = JobSpec(model=target.model, version=target.version, classes={}, stall_timeout_s=_BULK_WITHIN_S)
    started_s, out_lines = time.monotonic(), io.BytesIO()
    try:
        report = await BulkJob(settings.kafka, settings.stack.names, spec, on_progress=lambda _: None).run(
            iter([chunk]), out_lines
        )
    except UnavailableError as error:
        held = await holding_hop(settings.kafka, settings.stack.names, target, lane=Lane.BULK, ops_urls=ops_urls)
        raise UnavailableError(f"{error}: {held}") from error
    if not report.succeeded:
        raise UnavailableError(f"a row of zeros was answered {out_lines.getvalue().decode().strip()}")
    return f"{target.model} {target.version}: {(time.monotonic() - started_s) * 1000:.0f} ms there and back"


async def _say_asleep() -> str:
    """Report a pool at zero as asleep: a probe would wake it, and it is not broken."""
    return "asleep by its ScaledObject; not probed, its next request wakes it"


async def _same_release(record: "RunRecord") -> str:
    """The stack and this command are of one release.

    Raises:
        ConfigurationError: they are not, and what this command expects of the stack may not be so.
    """
    if record.release != __version__:
        raise ConfigurationError(
            f"the stack was started by inferlane {record.release or 'of an earlier release'}, this command is "
            f"{__version__}; use the other, or start the stack again with this one"
        )
    return __version__


def _served(targets: "tuple[Target, ...]", record: "RunRecord | None") -> "tuple[Target, ...]":
    """Return the targets that a worker has loaded, by the supervisor: a probe of the others would only wait."""
    unusable = {(fault.model, fault.version) for fault in record.faults} if record else set()
    return tuple(target for target in targets if (target.model, target.version) not in unusable)


async def _verify_models(stack: "StackSettings", record: "RunRecord | None") -> str:
    """Every version can be read, has the digest that its description names, and could be loaded.

    Raises:
        ConfigurationError: one or more could not; the message names each, and what is wrong with it.
    """
    from models.artifact import check_artifact, read_artifact
    from models.store_reader import load_catalog

    catalog = load_catalog(stack.models_dir, default_model=stack.default_model)
    faults = {f"{fault.model} {fault.version or ''}".strip(): fault.reason for fault in catalog.faults}
    for entry in catalog.all_versions():
        try:
            artifact = read_artifact(entry.path, entry.files)
            check_artifact(entry.path, artifact, digest=entry.digest, size_bytes=entry.size_bytes)
        except ConfigurationError as error:
            faults[f"{entry.model} {entry.version}"] = str(error)
    for fault in record.faults if record else ():
        faults.setdefault(f"{fault.model} {fault.version or ''}".strip(), fault.reason)
    if faults:
        listed = "; ".join(f"{name}: {reason}" for name, reason in faults.items())
        raise ConfigurationError(f"{len(faults)} cannot be served, the others can. {listed}")
    return f"{len(catalog.all_versions())} versions in {stack.models_dir}, digests as recorded"
