"""`inferlane models serve`, `retire`, `default` and `show`: what a running stack serves, changed without a restart."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from control_plane.cli.console import err, load_settings, out, reach, run_work, styled
from control_plane.cli.model_listing import ModelsDir, version_named
from control_plane.cli.serving import check_access, serve_here
from inferlane.errors import ConfigurationError, UnavailableError
from inferlane.runtime.runfile import RunFile

# The Kafka client and the catalogue are loaded by the command that needs them (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from control_plane.catalog_changes import CatalogState, Say
    from inferlane.contracts.catalog_entry import CatalogEntry
    from inferlane.runtime.config import Settings
    from inferlane.runtime.runfile import RunRecord
    from inferlane.runtime.settings import KafkaSettings, StackSettings
    from models.catalog import ModelVersion

_LOOK_S = 0.1
_POOL_GONE_WITHIN_S = 60.0

VersionName = Annotated[str, typer.Argument(metavar="MODEL/VERSION", help="The version, as fraud/v3.")]


def serve_model(
    name: VersionName,
    location: Annotated[
        str,
        typer.Option(help="Where workers without the version get its files.", show_default="its folder in the store"),
    ] = "",
    within_s: Annotated[
        float, typer.Option("--within", min=1, max=1e6, help="Seconds that it may take to answer.")
    ] = 120.0,
    acls: Annotated[
        bool,
        typer.Option(
            "--acls",
            help="Also create what the services' users may do with it. Needs a user that may alter the cluster. "
            "Default: off.",
        ),
    ] = False,
    models_dir: ModelsDir = None,
) -> None:
    """Put a version of the store in service: its topics, its entry in the catalogue; here also its pool."""
    from control_plane.catalog_changes import serve_version
    from control_plane.local.probe import Target
    from models.catalog_entries import entry_of_store, version_of_entry

    model, version = version_named(name)
    settings, record = _reached(models_dir)
    described = version_of_entry(
        entry_of_store(settings.stack.models_dir, model, version, generation=1, default_since=0)
    )
    if record is not None and not location:
        target = Target(model=model, version=version, signature=described.signature)
        check_access()
        serve_here(target, settings.stack.models_dir, within_s=within_s, grants_rights=acls)
        return
    entry = run_work(
        serve_version(
            settings.kafka, settings.stack, settings.webhooks, model, version, location=location, grants_rights=acls
        )
    )
    out.print(f"{model} {version} is in the catalogue, from {entry.location}", soft_wrap=True)
    out.print(f"On Kubernetes: inferlane k8s render --model {model} --version {version} | kubectl apply -f -")


def set_default_version(name: VersionName, models_dir: ModelsDir = None) -> None:
    """Make a version the default of its model: calls that name no version get it, unless a split says otherwise."""
    from control_plane.catalog_changes import set_default, split_of
    from models.adding.publication import write_default

    model, version = version_named(name)
    settings, record = _reached(models_dir)
    if record is not None or _names_broker(settings.kafka):
        # Before the change: what cannot be read must not leave it half made.
        split = run_work(split_of(settings.kafka, settings.stack.names, model))
        run_work(set_default(settings.kafka, settings.stack, model, version))
        is_written = write_default(settings.stack.models_dir, model, version)
    else:
        split = None
        is_written = write_default(settings.stack.models_dir, model, version)
        if not is_written:
            raise ConfigurationError(f"{settings.stack.models_dir} has no {model} {version}")
    where = "in the store and in the catalogue" if is_written and record is not None else ""
    out.print(f"{version} is the default version of {model} {where}".rstrip(), soft_wrap=True)
    if split is not None:
        weights = ", ".join(f"{name} {weight:.3g}" for name, weight in split.weights.items())
        out.print(
            f"Its split ({weights}) still decides for calls that name no version; POST /v1/traffic-split changes it",
            soft_wrap=True,
        )


def retire_model(
    name: VersionName,
    within_s: Annotated[
        float, typer.Option("--within", min=1, max=1e6, help="Seconds that accepted requests may take to be finished.")
    ] = 300.0,
    now: Annotated[
        bool,
        typer.Option(
            "--now", help="Leave requests that wait for it: they end EXPIRED at their deadline. Default: off."
        ),
    ] = False,
    acls: Annotated[
        bool,
        typer.Option(
            "--acls",
            help="Also delete what the services' users may do with it. Needs a user that may alter the cluster. "
            "Default: off.",
        ),
    ] = False,
    models_dir: ModelsDir = None,
) -> None:
    """Take a version out of service: it finishes what was accepted, then its pool and its files are removed."""
    from control_plane.kubernetes.deployment_plan import service_name

    model, version = version_named(name)
    settings, record = _reached(models_dir)
    started_s = time.monotonic()
    if record is None and not _names_broker(settings.kafka):
        from models.adding.publication import remove_version

        if not remove_version(settings.stack.models_dir, model, version):
            raise ConfigurationError(f"{settings.stack.models_dir} has no {model} {version}")
        out.print(f"{model} {version} is removed from the store; no stack runs here", soft_wrap=True)
        return
    with err.status(f"{model} {version}: refusing new requests") as status:
        run_work(_retire(settings, model, version, within_s=None if now else within_s, say=status.update))
        if record is not None:
            _wait_for_the_pool_to_go(settings.stack, model, version)
        # Last: until then its workers finish what was accepted.
        revoked = run_work(_revoke(settings, model, version)) if acls else None
    out.print(
        styled(("✓", "green"), f" {model} {version} is retired, after {time.monotonic() - started_s:.1f} s"),
        soft_wrap=True,
    )
    if revoked is not None:
        out.print(f"{revoked} rights of the services' users were deleted")
    elif settings.kafka.sasl_username:
        line = f"Rights that were given for it stay: inferlane acls delete --version {model}/{version}"
        out.print(line, soft_wrap=True)
    if record is None:
        name = service_name(model, version, default_model=settings.stack.default_model)
        objects = " ".join(f"{kind}/{name}" for kind in ("deployment", "poddisruptionbudget", "scaledobject"))
        out.print(f"On Kubernetes, in its namespace: kubectl delete {objects}", soft_wrap=True)


async def _revoke(settings: "Settings", model: str, version: str) -> int:
    from control_plane.broker_acls import revoke_rights, rights_of_version

    return await revoke_rights(
        settings.kafka, settings.stack.names, rights_of_version(settings.stack.names, (model, version))
    )


async def _retire(settings: "Settings", model: str, version: str, *, within_s: float | None, say: "Say") -> None:
    from control_plane.catalog_changes import begin_retirement, end_retirement, wait_drained
    from models.adding.publication import remove_version

    entry = await begin_retirement(settings.kafka, settings.stack, model, version)
    if within_s is not None:
        await wait_drained(settings.kafka, settings.stack.names, model, version, within_s=within_s, say=say)
    # Before the entry: cut off in between, the command goes on where it was. After it, the version would come back
    # with the next start of a broker that keeps nothing.
    remove_version(settings.stack.models_dir, model, version)
    await end_retirement(settings.kafka, settings.stack.names, entry)


def _wait_for_the_pool_to_go(stack: "StackSettings", model: str, version: str) -> None:
    from control_plane.local.pools import worker_pool

    file, until_s = RunFile(stack.state_dir), time.monotonic() + _POOL_GONE_WITHIN_S
    while (record := file.read()) is not None and record.is_running:
        pool, name = worker_pool(model, version), f"{model}/{version}"
        if not any(process.pool == pool or name in process.versions for process in record.processes):
            return
        if time.monotonic() > until_s:
            raise UnavailableError(
                f"{model} {version} is retired, and its pool still runs after {_POOL_GONE_WITHIN_S:g} s; "
                "`inferlane status` shows it"
            )
        time.sleep(_LOOK_S)


def show_model(
    name: Annotated[str, typer.Argument(metavar="MODEL[/VERSION]", help="The model, or one version of it.")],
    models_dir: ModelsDir = None,
) -> None:
    """Show what is known of a model or a version: state, signature, digest, measurements, where its files are."""
    from control_plane.catalog_changes import read_state, store_state

    model, _, version = name.partition("/")
    settings, record = _reached(models_dir)
    is_live = record is not None or _names_broker(settings.kafka)
    state = run_work(read_state(settings.kafka, settings.stack)) if is_live else store_state(settings.stack)
    reasons = {(fault.model, fault.version): fault.reason for fault in state.catalog.faults}
    reasons |= {(fault.model, fault.version): fault.reason for fault in record.faults} if record is not None else {}
    known = state.catalog.model(model)
    if version:
        _show_version(known.version(version), state, reasons.get((model, version)))
        return
    out.print(styled((model, "bold"), f"  {known.description}".rstrip()), soft_wrap=True)
    table = Table("version", "state", "size", "inputs", "digest", box=None, padding=(0, 1))
    for entry in known.versions.values():
        mark = " (default)" if entry.version == known.default_version else ""
        inputs = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in entry.signature.inputs)
        said = _state(state, entry, reasons.get((model, entry.version)))
        table.add_row(
            f"{entry.version}{mark}", said, f"{entry.size_bytes / 1024:,.0f} KiB", inputs, f"{entry.digest[:19]}…"
        )
    out.print(table)
    for fault in known.faults.items():
        out.print(styled(("not served", "bold red"), f" {fault[0]}: {fault[1]}"), soft_wrap=True)


def _show_version(entry: "ModelVersion", state: "CatalogState", reason: str | None) -> None:
    told = state.table.get(entry.model, entry.version)
    out.print(styled((f"{entry.model} {entry.version}", "bold"), f"  {_state(state, entry, reason)}"), soft_wrap=True)
    lines = {
        "digest": entry.digest,
        "size": f"{entry.size_bytes:,} bytes",
        "quantization": entry.quantization,
        "files": told.location if told is not None else str(entry.path.parent),
        "default": "yes" if state.catalog.model(entry.model).default_version == entry.version else "no",
        **{f"input {spec.name}": f"{spec.datatype} {list(spec.shape)}" for spec in entry.signature.inputs},
        **{f"output {spec.name}": f"{spec.datatype} {list(spec.shape)}" for spec in entry.signature.outputs},
        "classes": ", ".join(entry.classes) or "-",
        **{key: str(value) for key, value in entry.metrics.items()},
        **{key: str(value) for key, value in entry.quantized.items()},
    }
    for key, value in lines.items():
        out.print(f"  {key:24} {value}", soft_wrap=True)
    report = entry.path.parent / "report.json"
    if report.is_file():
        out.print(f"  {'report':24} {report}", soft_wrap=True)
    if reason:
        out.print(styled(("not served", "bold red"), f" {reason}"), soft_wrap=True)


def _state(state: "CatalogState", entry: "ModelVersion", reason: str | None) -> str:
    told: CatalogEntry | None = state.table.get(entry.model, entry.version)
    without_entry = "serving" if state.is_live else "in the store"
    return "failed" if reason else told.state if told is not None else without_entry


def _reached(models_dir: Path | None) -> "tuple[Settings, RunRecord | None]":
    settings, record = reach()
    if models_dir is None and (own := load_settings().stack.models_dir).is_dir():
        # As in `models add`: a store in the current folder goes before that of the stack.
        models_dir = own
    return (settings if models_dir is None else settings.changed(models_dir=models_dir)), record


def _names_broker(kafka: "KafkaSettings") -> bool:
    return "bootstrap_servers" in kafka.model_fields_set


def add_to(app: typer.Typer) -> None:
    """Add these commands to `inferlane models`."""
    app.command("serve")(serve_model)
    app.command("show")(show_model)
    app.command("default")(set_default_version)
    app.command("retire")(retire_model)
