"""`inferlane scale`: try the scaling of a pool, and plan a deployment, before there is one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from control_plane.cli.console import err, load_settings, out
from inferlane.contracts.naming import check_model_name, check_version_name
from inferlane.errors import ConfigurationError

# numpy, YAML and the Kafka client are loaded by the commands that need them (PLC0415).
# ruff: noqa: PLC0415
if TYPE_CHECKING:
    from typing import TextIO

    from control_plane.autoscaling.capacity_plan import WorkerPace
    from control_plane.autoscaling.scaled_object import ScaledObject
    from control_plane.autoscaling.simulated_load import Load, Pattern
    from control_plane.autoscaling.simulation import PoolModel, PoolRun
    from inferlane.contracts.naming import Names
    from inferlane.runtime.config import Settings

app = typer.Typer(no_args_is_help=True, help="Simulate the scaling of pools, and plan the capacity of a deployment.")

ServiceTime = Annotated[
    float,
    typer.Option(min=1e-7, max=1e6, help="Seconds a worker takes for one row of a full batch.", show_default=True),
]
BatchOverhead = Annotated[float, typer.Option(min=0, max=1e6, help="Seconds a batch takes besides its rows.")]
RowsPerRecord = Annotated[float, typer.Option(min=0.001, max=1e6, help="Rows of a request, the mean.")]
Rate = Annotated[float, typer.Option(min=0, max=1e9, help="Requests a second at the peak, over all versions.")]
Versions = Annotated[int, typer.Option(min=1, help="Versions that share the load, each with a pool of its own.")]
Skew = Annotated[float, typer.Option(min=0, max=100, help="0: even shares; 1: each version's share is 1 / its rank.")]
Partitions = Annotated[
    int | None, typer.Option(min=1, help="Partitions of each work topic.", show_default="INFERLANE_WORK_PARTITIONS")
]


@app.command()
def simulate(  # noqa: PLR0913, PLR0917 - one parameter a flag is how typer reads them
    trace: Annotated[
        Path | None,
        typer.Option(help="CSV with time_s, requests_per_s and bulk_per_s over all versions; instead of --pattern."),
    ] = None,
    pattern: Annotated[str, typer.Option(help="steady, burst, daily or spikes, with the peaks of --rate.")] = "burst",
    rate: Rate = 200.0,
    bulk_rate: Annotated[float, typer.Option(min=0, max=1e9, help="Bulk records a second at the peak.")] = 0.0,
    duration: Annotated[float, typer.Option(min=10, max=1e6, help="Seconds of a pattern.")] = 3600.0,
    step: Annotated[float, typer.Option(min=0.05, max=1e6, help="Seconds of one step of the simulation.")] = 1.0,
    service_time: ServiceTime = 0.005,
    batch_overhead: BatchOverhead = 0.005,
    rows: RowsPerRecord = 1.0,
    start_time: Annotated[float, typer.Option(min=0, max=1e6, help="Seconds until a new worker takes records.")] = 10.0,
    rebalance_time: Annotated[
        float, typer.Option(min=0, max=1e6, help="Seconds that a rebalance stops a pool when its size changes.")
    ] = 3.0,
    scaled_object: Annotated[
        Path | None,
        typer.Option(help="Manifest with the ScaledObject to try; without, the ScaledObject for --target-wait."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Of the ScaledObject.", show_default="the default model")] = None,
    version: Annotated[str, typer.Option(help="Of the ScaledObject.")] = "v1",
    target_wait: Annotated[float, typer.Option(min=0, max=1e6, help="Seconds that a client's record may wait.")] = 5.0,
    bulk_wait: Annotated[float, typer.Option(min=0, max=1e6, help="Seconds that a bulk record may wait.")] = 60.0,
    partitions: Partitions = None,
    versions: Versions = 1,
    skew: Skew = 0.0,
    output: Annotated[
        Path | None, typer.Option("--out", help="Write .csv, or a picture: .png, .svg or .pdf (needs the extra plot).")
    ] = None,
) -> None:
    """Simulate pools under a load as KEDA and the HPA would scale them: workers, lag and wait over time."""
    from control_plane.autoscaling.simulated_load import draw_pattern, read_trace
    from control_plane.autoscaling.simulation import PoolModel, merged, summarize
    from control_plane.cli.scale_output import print_run, write_run

    settings = load_settings()
    pace = worker_pace(settings, service_time=service_time, batch_overhead=batch_overhead, rows=rows)
    partitions = partitions or settings.kafka.work_partitions
    if trace:
        with _opened(trace) as file:
            load = read_trace(file, step_s=step, source=str(trace))
    else:
        load = draw_pattern(_pattern(pattern), rate_per_s=rate, bulk_per_s=bulk_rate, duration_s=duration, step_s=step)
    chosen = model or settings.stack.default_model
    check_model_name(chosen)
    check_version_name(version)
    tried = (
        _from_manifest(scaled_object, chosen, version, settings.stack.names)
        if scaled_object
        else _by_wait(
            pace, chosen, version, waits_s=(target_wait, bulk_wait), partitions=partitions, names=settings.stack.names
        )
    )
    pool = PoolModel(
        scaled_object=tried,
        pace=pace,
        partitions=partitions,
        start_s=start_time,
        rebalance_s=rebalance_time,
        bulk_share=settings.worker.bulk_share,
        lanes=tuple(int(trigger.topic.endswith(".bulk")) for trigger in tried.triggers),
    )
    runs = _runs(pool, load, versions=versions, skew=skew)
    print_run(out, pool, merged(runs), summarize(runs), versions=versions)
    if output:
        write_run(output, merged(runs), title=f"{tried.name}: {versions} version{'s' * (versions > 1)}")
        out.print(f"wrote {output}")


@app.command()
def plan(  # noqa: PLR0913, PLR0917 - one parameter a flag is how typer reads them
    rate: Rate = 10_000.0,
    versions: Versions = 50,
    skew: Skew = 1.0,
    service_time: ServiceTime = 0.005,
    batch_overhead: BatchOverhead = 0.005,
    rows: RowsPerRecord = 1.0,
    partitions: Partitions = None,
    record_bytes: Annotated[int, typer.Option(min=1, help="Bytes of a request's record.")] = 1_000,
    replication: Annotated[int, typer.Option(min=1, help="Replicas of each partition.")] = 3,
    api_rate: Annotated[float, typer.Option(min=1, max=1e9, help="Requests a second of one API process.")] = 2_000.0,
    router_rate: Annotated[
        float, typer.Option(min=1, max=1e9, help="Records a second of one router process.")
    ] = 10_000.0,
    broker_partitions: Annotated[int, typer.Option(min=1, help="Partition replicas that one broker holds.")] = 4_000,
) -> None:
    """Compute what a load needs at its peak: workers, API and router replicas, partitions, groups, brokers."""
    from control_plane.autoscaling import capacity_plan
    from control_plane.cli.scale_output import print_plan

    settings = load_settings()
    demand = capacity_plan.Demand(
        rate_per_s=rate,
        shares=capacity_plan.zipf_shares(versions, skew),
        record_bytes=record_bytes,
        work_partitions=partitions or settings.kafka.work_partitions,
        ingress_partitions=settings.kafka.ingress_partitions,
        replication_factor=replication,
    )
    capacity = capacity_plan.Capacity(api_per_s=api_rate, router_per_s=router_rate, broker_partitions=broker_partitions)
    pace = worker_pace(settings, service_time=service_time, batch_overhead=batch_overhead, rows=rows)
    print_plan(out, demand, capacity, capacity_plan.plan_capacity(demand, pace, capacity))


def _runs(pool: "PoolModel", load: "Load", *, versions: int, skew: float) -> "list[tuple[PoolRun, int]]":
    """Simulate one pool for each share that is different, with how many versions have it."""
    from rich.progress import track

    from control_plane.autoscaling.capacity_plan import zipf_shares
    from control_plane.autoscaling.simulation import simulate as run_pool

    counts: dict[float, int] = {}
    for share in zipf_shares(versions, skew):
        counts[share] = counts.get(share, 0) + 1
    return [
        (run_pool(pool, load.share(share)), count)
        for share, count in track(counts.items(), "simulating", console=err, transient=True)
    ]


def worker_pace(settings: "Settings", *, service_time: float, batch_overhead: float, rows: float) -> "WorkerPace":
    """Return the pace of a worker with these settings."""
    from control_plane.autoscaling.capacity_plan import WorkerPace

    return WorkerPace(
        row_s=service_time,
        max_batch_rows=settings.worker.max_batch_rows,
        batch_overhead_s=batch_overhead,
        rows_per_record=rows,
        batches_in_flight=settings.worker.batches_in_flight,
        commit_interval_s=settings.kafka.commit_interval_s,
    )


def _pattern(name: str) -> "Pattern":
    from control_plane.autoscaling.simulated_load import Pattern

    try:
        return Pattern(name)
    except ValueError as error:
        raise typer.BadParameter(f"{name!r} is none of {', '.join(Pattern)}") from error


def _opened(path: Path) -> "TextIO":
    try:
        return path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}. Name another file.") from error


def _from_manifest(path: Path, model: str, version: str, names: "Names") -> "ScaledObject":
    from control_plane.autoscaling.scaled_object import read_scaled_objects

    with _opened(path) as file:
        found = read_scaled_objects(file.read(), source=str(path))
    group = names.worker_group(model, version)
    for scaled_object in found:
        if any(trigger.consumer_group == group for trigger in scaled_object.triggers):
            return scaled_object
    has = ", ".join(scaled_object.name for scaled_object in found) or "none"
    raise ConfigurationError(f"{path} has no ScaledObject for the group {group}; it has: {has}. Name another version.")


def _by_wait(
    pace: "WorkerPace", model: str, version: str, *, waits_s: tuple[float, float], partitions: int, names: "Names"
) -> "ScaledObject":
    from control_plane.autoscaling.capacity_plan import lag_threshold_records, make_scaled_object
    from inferlane.contracts.naming import Lane

    return make_scaled_object(
        name=f"{model}-{version}",
        target=f"{model}-{version}",
        group=names.worker_group(model, version),
        thresholds={
            names.work_topic(model, version, lane): lag_threshold_records(pace, target_wait_s=wait_s)
            for lane, wait_s in zip((Lane.REQUESTS, Lane.BULK), waits_s, strict=True)
        },
        max_replicas=partitions,
    )
