"""`inferlane k8s`: the manifests of a deployment on Kubernetes, and the Secret of its store."""

import secrets
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control_plane.cli.console import load_settings, out
from control_plane.cli.scale_commands import BatchOverhead, RowsPerRecord, ServiceTime, worker_pace
from control_plane.kubernetes.name_rules import check_image, check_namespace, check_resource, label_of
from inferlane import __version__
from inferlane.errors import ConfigurationError, clipped, quoted

# YAML and the catalog are loaded by the command that needs them (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from collections.abc import Iterable

    from control_plane.kubernetes.deployment_plan import DeploymentPlan
    from models.catalog import Catalog, ModelVersion

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
    target_wait: Annotated[float, typer.Option(min=0, max=1e6, help="Seconds that a client's record may wait.")] = 5.0,
    bulk_wait: Annotated[float, typer.Option(min=0, max=1e6, help="Seconds that a bulk record may wait.")] = 60.0,
    service_time: ServiceTime = 0.005,
    batch_overhead: BatchOverhead = 0.005,
    rows: RowsPerRecord = 1.0,
    store_tls: Annotated[
        bool, typer.Option("--store-tls", help="Reach the store with TLS, by the Secret inferlane-store-tls.")
    ] = False,
    api_tls: Annotated[
        bool, typer.Option("--api-tls", help="Serve the API with TLS, by the Secret inferlane-api-tls.")
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
    share: Annotated[
        list[str] | None,
        typer.Option(
            help="Versions whose workers serve all of them in one process, as a/v1,b/v1; repeat for another such pool.",
            show_default="none",
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            help="A version MODEL/VERSION that has its pool already: Strimzi's users keep their rights for it; repeat.",
            show_default="none",
        ),
    ] = None,
    users: Annotated[
        bool,
        typer.Option(
            "--users",
            help="Print Strimzi's users alone, with their rights for every version of the store. Default: off.",
        ),
    ] = False,
    helm: Annotated[
        bool, typer.Option("--helm", help="Write a Helm chart instead; its release has the namespace. Default: off.")
    ] = False,
) -> None:
    """Write Deployments, ScaledObjects, topics and policies; `INFERLANE_*` settings become the pods' environment."""
    from control_plane.kubernetes.deployment_plan import GpuPlan, Waits, make_plan
    from control_plane.kubernetes.helm_chart import chart_files
    from control_plane.kubernetes.helm_templates import CHART_IMAGE, CHART_NAMESPACE, CHART_POOL
    from control_plane.kubernetes.manifest_files import files, text_of_pools, text_of_users, write_files
    from control_plane.kubernetes.pod_settings import cluster_settings

    check_namespace(namespace)
    check_image("--image", image)
    check_resource(gpu_resource)
    if model is not None and not version:
        raise ConfigurationError(f"--model {quoted(model)} needs --version: which of its versions to print")
    catalog = _catalog()
    groups = [_served_versions(catalog, group.split(",")) for group in share or ()]
    _check_groups(groups, helm=helm)
    named = version if model is None else [f"{model}/{name}" for name in version or ()]
    served = [] if named is None and groups else _served_versions(catalog, named)
    versions = _pairs(served)
    namespace = CHART_NAMESPACE if helm else namespace
    settings = cluster_settings(load_settings(), namespace=namespace, store_tls=store_tls, api_tls=api_tls)
    on_gpu = GpuPlan(
        image=f"{image}-gpu" if gpu_image is None else gpu_image,
        count=gpu,
        resource=gpu_resource,
        node_selector=dict(map(label_of, gpu_node or ())),
    )
    gpus = {(each.model, each.version): on_gpu for each in served if each.execution.on_gpu}
    if gpus or gpu_image is not None:
        check_image("--gpu-image", on_gpu.image)
    made = make_plan(
        settings,
        [CHART_POOL] if helm else versions,
        namespace=namespace,
        image=CHART_IMAGE if helm else image,
        pace=worker_pace(settings, service_time=service_time, batch_overhead=batch_overhead, rows=rows),
        waits=Waits(requests_s=target_wait, bulk_s=bulk_wait),
        user_per_service=user_per_service,
        gpus=gpus,
        shared=list(map(_pairs, groups)),
        others=_pairs(catalog.all_versions() if users else _served_versions(catalog, also or [])),
    )
    plan = replace(made, has_api_tls=api_tls)
    if users:
        _check_strimzi(plan)
        written = text_of_users(plan)
        typer.echo(written, nl=False)
        return
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
    missing = [f"{one}/{other}" for one, other in _pairs(catalog.all_versions()) if (one, other) not in plan.granted]
    if missing and plan.runs_kafka and not helm:
        out.print(
            f"Strimzi's users in them have no rights for {clipped(', '.join(missing))}. For each of them that has a "
            "pool already, add --also",
            soft_wrap=True,
        )


@k8s_app.command("store-secret")
def k8s_store_secret(namespace: Annotated[str, typer.Option(help="Namespace of everything.")] = "inferlane") -> None:
    """Print a Secret with a new random password of the store, for `kubectl create -f -`. Keep it nowhere else."""
    from control_plane.kubernetes.backing_services import secret_document
    from control_plane.kubernetes.manifest_files import dumped

    check_namespace(namespace)
    names = load_settings().stack.names
    typer.echo(dumped(secret_document(names, namespace=namespace, password=secrets.token_hex(32))), nl=False)


def _catalog() -> "Catalog":
    from models.store_reader import load_catalog

    settings = load_settings()
    return load_catalog(settings.stack.models_dir, default_model=settings.stack.default_model)


def _check_strimzi(plan: "DeploymentPlan") -> None:
    if not plan.runs_kafka:
        raise ConfigurationError(
            f"the broker {plan.settings.kafka.bootstrap_servers} is not Strimzi's, which alone has objects of users; "
            "`inferlane acls create` creates their rights"
        )


def _pairs(versions: "Iterable[ModelVersion]") -> list[tuple[str, str]]:
    return [(each.model, each.version) for each in versions]


def _check_groups(groups: "list[list[ModelVersion]]", *, helm: bool) -> None:
    """Return if each group can be served by one process.

    Raises:
        ConfigurationError: one is of a single version, has one on a GPU, or shares a version with another; or a
            chart is wanted, which has a pool for each version.
    """
    if groups and helm:
        raise ConfigurationError("the chart has a pool for each version; render shared pools without --helm")
    names = ["/".join(pair) for group in groups for pair in _pairs(group)]
    for group in groups:
        if len(group) == 1:
            raise ConfigurationError(f"--share {group[0].model}/{group[0].version} names one version; name two or more")
        for served in group:
            if served.execution.on_gpu:
                raise ConfigurationError(
                    f"--share names {served.model}/{served.version}, which asks for a GPU; give it a pool of its own"
                )
            if names.count(f"{served.model}/{served.version}") > 1:
                raise ConfigurationError(f"--share names {served.model}/{served.version} twice; name each version once")


def _served_versions(catalog: "Catalog", named: list[str] | None) -> "list[ModelVersion]":
    """Return the versions to render; each must be in the catalogue, for a worker of another would not start."""
    if named is None:
        return list(catalog.model().versions.values())
    found = []
    for name in named:
        model, _, version = name.strip().rpartition("/")
        found.append(catalog.model(model or None).version(version))
    if len({(served.model, served.version) for served in found}) < len(found):
        raise ConfigurationError(f"a version is named twice in {', '.join(named)}; name each once")
    return found
