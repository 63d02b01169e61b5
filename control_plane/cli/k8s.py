"""`inferlane k8s`: the manifests of a deployment, made of the catalogue and the settings."""

import secrets
from pathlib import Path
from typing import Annotated

import typer

from control_plane.cli.console import out
from inferlane import __version__
from inferlane.errors import ConfigurationError
from inferlane.runtime.config import load_settings

# YAML and the Kafka client are loaded by the command that needs them (PLC0415).
# ruff: noqa: PLC0415

app = typer.Typer(no_args_is_help=True, help="Write the manifests of a deployment on Kubernetes.")


@app.command()
def render(  # noqa: PLR0913, PLR0917 - one parameter a flag is how typer reads them
    folder: Annotated[Path, typer.Option("--out", help="Folder to write to; other files in it stay.")] = Path("k8s"),
    version: Annotated[
        list[str] | None,
        typer.Option(
            help="A pool to render, as MODEL/VERSION or VERSION of the default model; repeat.",
            show_default="every version of the default model",
        ),
    ] = None,
    namespace: Annotated[str, typer.Option(help="Namespace of everything.")] = "inferlane",
    image: Annotated[str, typer.Option(help="The image of API, router and workers.")] = f"inferlane:{__version__}",
    target_wait: Annotated[float, typer.Option(min=0, help="Seconds that a client's record may wait.")] = 5.0,
    bulk_wait: Annotated[float, typer.Option(min=0, help="Seconds that a bulk record may wait.")] = 60.0,
    service_time: Annotated[
        float, typer.Option(min=1e-7, help="Seconds a worker takes for one row of a full batch.")
    ] = 0.005,
    batch_overhead: Annotated[float, typer.Option(min=0, help="Seconds a batch takes besides its rows.")] = 0.005,
    rows: Annotated[float, typer.Option(min=0.001, help="Rows of a request, the mean.")] = 1.0,
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
) -> None:
    """Write Deployments, ScaledObjects, topics and policies; `INFERLANE_*` settings become the pods' environment."""
    from control_plane.autoscaling.planning import WorkerPace
    from control_plane.kubernetes.files import files, write_files
    from control_plane.kubernetes.plan import Waits, cluster_settings, make_plan

    settings = cluster_settings(load_settings(), namespace=namespace, store_tls=store_tls)
    plan = make_plan(
        settings,
        _versions(version),
        namespace=namespace,
        image=image,
        pace=WorkerPace(
            row_s=service_time,
            max_batch_rows=settings.max_batch_rows,
            batch_overhead_s=batch_overhead,
            rows_per_record=rows,
            batches_in_flight=settings.batches_in_flight,
            commit_interval_s=settings.commit_interval_s,
        ),
        waits=Waits(requests_s=target_wait, bulk_s=bulk_wait),
        user_per_service=user_per_service,
    )
    texts = files(plan)
    write_files(folder, texts)
    for pool in plan.pools:
        thresholds = ", ".join(f"{topic} {records}" for topic, records in pool.thresholds.items())
        out.print(f"{pool.name}: lagThreshold {thresholds}", soft_wrap=True)
    out.print(f"{len(texts)} files in {folder}", soft_wrap=True)


@app.command("store-secret")
def store_secret(namespace: Annotated[str, typer.Option(help="Namespace of everything.")] = "inferlane") -> None:
    """Print a Secret with a new random password of the store, for `kubectl create -f -`. Keep it nowhere else."""
    from control_plane.kubernetes.files import dumped
    from control_plane.kubernetes.store import secret_document

    names = load_settings().names
    typer.echo(dumped(secret_document(names, namespace=namespace, password=secrets.token_hex(32))), nl=False)


def _versions(named: list[str] | None) -> list[tuple[str, str]]:
    """Return the versions to render; each must be in the catalogue, for a worker of another would not start."""
    from models.catalog import load_catalog

    settings = load_settings()
    catalog = load_catalog(settings.models_dir, default_model=settings.default_model)
    if named is None:
        return [(settings.default_model, version) for version in catalog.model().versions]
    found = []
    for name in named:
        model, _, version = name.rpartition("/")
        served = catalog.model(model or None).version(version)
        found.append((served.model, served.version))
    if len(set(found)) < len(found):
        raise ConfigurationError(f"a version is named twice in {', '.join(named)}; name each once")
    return found
