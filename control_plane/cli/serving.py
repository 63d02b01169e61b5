"""A version of the store put in service on a running stack: told to the catalogue, then probed until it answers."""

import shlex
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from control_plane.cli.console import err, out, reach, run_work, styled
from inferlane.errors import ConfigurationError, UnavailableError
from inferlane.runtime.runfile import RunFile

# The Kafka and HTTP clients are loaded by the command that needs them (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from control_plane.local.probe import Target
    from inferlane.runtime.config import Settings
    from inferlane.runtime.runfile import FaultRecord, RunRecord
    from inferlane.runtime.service_settings import ApiSettings, ClientSettings

# A row that fits a terminal.
_SHOWN_VALUES = 64
# Of one probe: long enough for a busy stack, short enough to hear soon of a worker that cannot start.
_PROBE_WAIT_S = 3.0
_RETRY_S = 0.1


def check_access() -> None:
    """Return if a version could be probed on the stack that runs here, or none runs: before anything is written.

    Raises:
        ConfigurationError: the stack wants a key, and ours is none that is in force.
    """
    from control_plane.local.probe import check_key
    from inferlane.runtime.http.api_address import ApiAddress

    settings, record = reach()
    if record is not None and record.phase == "ready":
        api = ApiAddress.of_this_machine(settings.api, settings.client)
        # An API that does not answer now may answer when the version is there.
        with suppress(UnavailableError):
            run_work(check_key(api, settings.client.key, wait_s=_PROBE_WAIT_S))


def show_next_step(target: "Target", settings: "Settings", *, is_first: bool, within_s: float) -> None:
    """Serve the version on the stack that runs here, or say how to; then print the call that it answers.

    Raises:
        UnavailableError: the version does not answer; the message has the reason. It stays in the store.
    """
    if not (settings.stack.models_dir / settings.stack.default_model).is_dir():
        out.print(
            f"The store has no model {settings.stack.default_model!r}: set INFERLANE_DEFAULT_MODEL={target.model}.",
            soft_wrap=True,
        )
    here, record = reach()
    if record is not None and record.phase == "ready":
        serve_here(target, settings.stack.models_dir, within_s=within_s)
    elif record is not None:
        out.print(f"The stack here is {record.phase}. Once it is ready: {_serve_command(target)}", soft_wrap=True)
    elif "bootstrap_servers" in settings.kafka.model_fields_set:
        out.print(f"Put it in service on your broker: {_serve_command(target)}", soft_wrap=True)
    else:
        out.print("Start the stack: inferlane up --detach")
    url = record.api_url if record is not None else f"http://localhost:{settings.api.port}"
    body = example_body(target, pins=not is_first)
    if body is not None:
        is_served = record is not None and record.phase == "ready"
        out.print(
            f"{'Try it' if is_served else 'Then'}: curl -s {curl_options(here.api, here.client)}{url}"
            f"/v1/models/predict -d {shlex.quote(body)}",
            soft_wrap=True,
        )


def serve_here(target: "Target", models_dir: "Path", *, within_s: float, grants_rights: bool = False) -> None:
    """Put a version of the store in service on the stack that runs here; return when it has answered.

    Raises:
        ConfigurationError: no stack runs here, or the version could not be told from one that it serves.
        UnavailableError: the version does not answer; the message has the reason.
    """
    settings, record = reach()
    if record is None:
        raise ConfigurationError("no stack runs here; start one with `inferlane up --detach`")
    of_stack = record.environment.get("INFERLANE_MODELS_DIR")
    if of_stack is not None and Path(of_stack) != models_dir.absolute():
        # What the stack serves from a store of its own is not in the topic of the catalogue.
        run_work(_check_told_apart(target, settings.changed(models_dir=Path(of_stack))))
    settings = settings.changed(models_dir=models_dir)
    with err.status(f"{target.model} {target.version}: starting its pool"):
        took_s = run_work(_serve(target, settings, within_s=within_s, grants_rights=grants_rights))
    line = f" {target.model} {target.version} is served: it answered a row of zeros after {took_s:.1f} s"
    out.print(styled(("✓", "green"), line), soft_wrap=True)


async def _check_told_apart(target: "Target", settings: "Settings") -> None:
    from control_plane.catalog_changes import check_told_apart, read_state

    check_told_apart(await read_state(settings.kafka, settings.stack), target.model, target.version)


async def _serve(target: "Target", settings: "Settings", *, within_s: float, grants_rights: bool) -> float:
    from control_plane.catalog_changes import serve_version

    started_s = time.monotonic()
    await serve_version(
        settings.kafka, settings.stack, settings.webhooks, target.model, target.version, grants_rights=grants_rights
    )
    await _answers(target, settings, until_s=started_s + within_s)
    return time.monotonic() - started_s


async def _answers(target: "Target", settings: "Settings", *, until_s: float) -> None:
    import asyncio

    from control_plane.local.probe import predict
    from inferlane.runtime.http.api_address import ApiAddress

    file, api = RunFile(settings.stack.state_dir), ApiAddress.of_this_machine(settings.api, settings.client)
    while True:
        try:
            await predict(api, target, wait_s=_PROBE_WAIT_S, api_key=settings.client.key)
        except UnavailableError as error:
            if fault := _fault(target, file.read()):
                raise UnavailableError(
                    f"{target.model} {target.version} cannot be served, everything else goes on: {fault.reason}. "
                    f"Take it away with `inferlane models retire --now {target.model}/{target.version}`, and add it "
                    "again when it is mended"
                ) from error
            if time.monotonic() > until_s:
                raise UnavailableError(
                    f"{target.model} {target.version} is in the catalogue and has not answered yet: {error}. "
                    "`inferlane status` shows what it waits for"
                ) from error
            await asyncio.sleep(_RETRY_S)
        else:
            return


def _fault(target: "Target", record: "RunRecord | None") -> "FaultRecord | None":
    faults = record.faults if record is not None else ()
    return next((fault for fault in faults if (fault.model, fault.version) == (target.model, target.version)), None)


def example_body(target: "Target", *, pins: bool) -> str | None:
    """A body that the version answers; nothing if a row is too long to be shown. `pins`: it names the version."""
    from inferlane.contracts.wire.zero_rows import zero_row

    names = {"model": target.model} | ({"version": target.version} if pins else {})
    body = msgspec.json.encode({**names, "instances": [zero_row(target.signature, text="a text")]}).decode()
    return body if body.count(",") <= _SHOWN_VALUES else None


def curl_options(api: "ApiSettings", client: "ClientSettings") -> str:
    """Return the options of curl for what our own calls trust, and for the key, by its variable."""
    trusted = client.ssl_cafile or api.ssl_certfile
    authority = "" if trusted is None else f"--cacert {shlex.quote(str(trusted))} "
    return authority + ("" if client.key is None else '-H "Authorization: Bearer $INFERLANE_API_KEY" ')


def _serve_command(target: "Target") -> str:
    return f"inferlane models serve {target.model}/{target.version}"
