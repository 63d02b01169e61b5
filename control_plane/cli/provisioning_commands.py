"""`inferlane topics`, `acls` and `k8s`: what must exist before the services run."""

import asyncio
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from control_plane.broker_acls import rights_by_service, user_name
from control_plane.cli.console import load_settings, out, reachable_settings
from control_plane.cli.scale_commands import BatchOverhead, RowsPerRecord, ServiceTime, worker_pace
from inferlane import __version__
from inferlane.contracts.naming import check_model_name, check_version_name
from inferlane.errors import ConfigurationError, InvalidNameError, quoted

# YAML, the Kafka client and the catalog are loaded by the command that needs them (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from inferlane.runtime.settings import StackSettings
    from models.catalog import ModelVersion

NamedVersions = Annotated[
    list[str] | None,
    typer.Option(
        "--version",
        help="A version as MODEL/VERSION, or VERSION of the default model; repeat. Needs no models folder.",
        show_default="every version of INFERLANE_MODELS_DIR",
    ),
]


def chosen_versions(settings: "StackSettings", named: list[str] | None) -> list[tuple[str, str]]:
    """Return the `(model, version)` pairs.

    Raises:
        ConfigurationError: a name is no pair, is given twice, or no models folder is there and none is named.
    """
    if named is None:
        return _of_the_catalog(settings)
    found = [_pair(name, settings.default_model) for name in named]
    if len(set(found)) < len(found):
        raise ConfigurationError(f"a version is named twice in {quoted(named)}; name each once")
    return found


def _pair(name: str, default_model: str) -> tuple[str, str]:
    model, separator, version = name.rpartition("/")
    try:
        check_version_name(version)
        if separator:
            check_model_name(model)
    except InvalidNameError as error:
        raise ConfigurationError(
            f"--version {quoted(name)} names no version; write MODEL/VERSION, as iris/v1: {error}"
        ) from error
    return model or default_model, version


def _of_the_catalog(settings: "StackSettings") -> list[tuple[str, str]]:
    from models.store_reader import load_catalog

    try:
        catalog = load_catalog(settings.models_dir, default_model=settings.default_model)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error} Or name what there is to be: --version MODEL/VERSION.") from error
    return [(version.model, version.version) for version in catalog.all_versions()]


topics_app = typer.Typer(no_args_is_help=True, help="Create and list the topics that the models need.")


@topics_app.command("create")
def topics_create(version: NamedVersions = None) -> None:
    """Create the topics that do not exist yet; existing ones stay as they are."""
    from inferlane.runtime.kafka.topic_admin import create_topics

    settings = reachable_settings()
    created = asyncio.run(create_topics(settings, chosen_versions(settings, version)))
    out.print(f"created {len(created)} topics" + "".join(f"\n  {name}" for name in created))


@topics_app.command("list")
def topics_list(version: NamedVersions = None) -> None:
    """Show every topic with the partitions and settings that it should have."""
    from inferlane.runtime.kafka.topic_admin import topic_specs

    settings = reachable_settings()
    table = Table("topic", "partitions", "settings")
    for spec in topic_specs(settings, chosen_versions(settings, version)):
        table.add_row(spec.name, str(spec.partitions), ", ".join(f"{k}={v}" for k, v in spec.config.items()))
    out.print(table)


acls_app = typer.Typer(no_args_is_help=True, help="Show and create the rights that each service has on the broker.")


@acls_app.command("create")
def acls_create(version: NamedVersions = None) -> None:
    """Create the ACLs on a broker with an authorizer. Log in as a user that may alter the cluster."""
    from control_plane.broker_acls import grant_rights

    settings = reachable_settings()
    rights = rights_by_service(settings.names, chosen_versions(settings, version))
    count = asyncio.run(grant_rights(settings, rights))
    users = ", ".join(user_name(settings.names, service) for service in rights)
    out.print(f"{count} rights for {users}", soft_wrap=True)


@acls_app.command("list")
def acls_list(version: NamedVersions = None) -> None:
    """Show every user with its rights, without asking the broker."""
    settings = reachable_settings()
    table = Table("user", "on", "name", "may")
    for service, rights in rights_by_service(settings.names, chosen_versions(settings, version)).items():
        for right in rights:
            table.add_row(user_name(settings.names, service), right.resource, right.name, ", ".join(right.operations))
    out.print(table)


k8s_app = typer.Typer(no_args_is_help=True, help="Write the manifests of a deployment on Kubernetes.")


@k8s_app.command("render")
def k8s_render(  # noqa: PLR0913, PLR0917 - one parameter a flag is how typer reads them
    folder: Annotated[Path, typer.Option("--out", help="Folder to write to; other files in it are kept.")] = Path(
        "k8s"
    ),
    version: Annotated[
        list[str] | None,
        typer.Option(
            help="A pool to render, as MODEL/VERSION or VERSION of the default model; repeat.",
            show_default="every version of the default model",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Print the objects and topics of this model's --version alone. Default: off.")
    ] = None,
    namespace: Annotated[str, typer.Option(help="Namespace of everything.")] = "inferlane",
    image: Annotated[str, typer.Option(help="The image of API, router and workers.")] = f"inferlane:{__version__}",
    target_wait: Annotated[float, typer.Option(min=0, help="Seconds that a client's record may wait.")] = 5.0,
    bulk_wait: Annotated[float, typer.Option(min=0, help="Seconds that a bulk record may wait.")] = 60.0,
    service_time: ServiceTime = 0.005,
    batch_overhead: BatchOverhead = 0.005,
    rows: RowsPerRecord = 1.0,
    store_tls: Annotated[
        bool, typer.Option("--store-tls", help="Reach the store with TLS, by the Secret inferlane-store-tls.")
    ] = False,
    user_per_service: Annotated[
        bool,
        typer.Option(
            "--user-per-service",
            help="With a broker of your own too, each service logs in as PREFIX-SERVICE, by the Secret of that name.",
        ),
    ] = False,
    gpu: Annotated[
        int, typer.Option("--gpu", min=1, help="GPUs of a worker whose version asks for a GPU in [runtime].")
    ] = 1,
    gpu_resource: Annotated[
        str, typer.Option(help="What the cluster calls them; a part of one: nvidia.com/mig-1g.10gb.")
    ] = "nvidia.com/gpu",
    gpu_image: Annotated[
        str | None, typer.Option(help="The image of these workers.", show_default="that of --image, with -gpu")
    ] = None,
    gpu_node: Annotated[
        list[str] | None,
        typer.Option(help="A label KEY=VALUE of the nodes with GPUs; repeat.", show_default="none"),
    ] = None,
    helm: Annotated[
        bool, typer.Option("--helm", help="Write a Helm chart instead; its release has the namespace. Default: off.")
    ] = False,
) -> None:
    """Write Deployments, ScaledObjects, topics and policies; `INFERLANE_*` settings become the pods' environment."""
    from control_plane.kubernetes.deployment_plan import GpuPlan, Waits, cluster_settings, make_plan
    from control_plane.kubernetes.helm_chart import chart_files
    from control_plane.kubernetes.helm_templates import CHART_IMAGE, CHART_NAMESPACE, CHART_POOL
    from control_plane.kubernetes.manifest_files import files, text_of_pools, write_files

    if model is not None and not version:
        raise ConfigurationError(f"--model {quoted(model)} needs --version: which of its versions to print")
    served = _served_versions(version if model is None else [f"{model}/{name}" for name in version or ()])
    versions = [(each.model, each.version) for each in served]
    namespace = CHART_NAMESPACE if helm else namespace
    settings = cluster_settings(load_settings(), namespace=namespace, store_tls=store_tls)
    on_gpu = GpuPlan(
        image=gpu_image or f"{image}-gpu",
        count=gpu,
        resource=gpu_resource,
        node_selector=dict(_label(text) for text in gpu_node or ()),
    )
    gpus = {(each.model, each.version): on_gpu for each in served if each.execution.on_gpu}
    plan = make_plan(
        settings,
        [CHART_POOL] if helm else versions,
        namespace=namespace,
        image=CHART_IMAGE if helm else image,
        pace=worker_pace(settings, service_time=service_time, batch_overhead=batch_overhead, rows=rows),
        waits=Waits(requests_s=target_wait, bulk_s=bulk_wait),
        user_per_service=user_per_service,
        gpus=gpus,
    )
    if model is not None:
        written = text_of_pools(plan)
        typer.echo(written, nl=False)
        return
    texts = chart_files(plan, versions, image=image, gpus=gpus) if helm else files(plan)
    write_files(folder, texts)
    for pool in () if helm else plan.pools:
        thresholds = ", ".join(f"{topic} {records}" for topic, records in pool.thresholds.items())
        out.print(f"{pool.name}: lagThreshold {thresholds}", soft_wrap=True)
    out.print(f"{len(texts)} files in {folder}", soft_wrap=True)


@k8s_app.command("store-secret")
def k8s_store_secret(namespace: Annotated[str, typer.Option(help="Namespace of everything.")] = "inferlane") -> None:
    """Print a Secret with a new random password of the store, for `kubectl create -f -`. Keep it nowhere else."""
    from control_plane.kubernetes.backing_services import secret_document
    from control_plane.kubernetes.manifest_files import dumped

    names = load_settings().names
    typer.echo(dumped(secret_document(names, namespace=namespace, password=secrets.token_hex(32))), nl=False)


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not (key and separator):
        raise ConfigurationError(f"--gpu-node {quoted(text)} is no label; write KEY=VALUE")
    return key, value


def _served_versions(named: list[str] | None) -> "list[ModelVersion]":
    """Return the versions to render; each must be in the catalogue, for a worker of another would not start."""
    from models.store_reader import load_catalog

    settings = load_settings()
    catalog = load_catalog(settings.models_dir, default_model=settings.default_model)
    if named is None:
        return list(catalog.model().versions.values())
    found = []
    for name in named:
        model, _, version = name.rpartition("/")
        found.append(catalog.model(model or None).version(version))
    if len({(served.model, served.version) for served in found}) < len(found):
        raise ConfigurationError(f"a version is named twice in {', '.join(named)}; name each once")
    return found
