"""`python -m benchmarks`: one command for each comparison."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from benchmarks.beside import beside_to_markdown, measure_beside
from benchmarks.bulk import bulk_to_markdown, measure_bulk
from benchmarks.burst import Burst, bursts_to_markdown, send_burst
from benchmarks.cached import cached_to_markdown, measure_cached
from benchmarks.cases import load_case
from benchmarks.closed_loop import Plan
from benchmarks.comparison import compare, serve
from benchmarks.cost import Deployment, Load, cost_to_markdown, measure_cost
from benchmarks.footprint import footprint_to_markdown, measure_footprint
from benchmarks.hops import hops_to_markdown, measure_hops
from benchmarks.idle import idle_to_markdown, measure_idle
from benchmarks.idle_versions import idle_versions_to_markdown, measure_idle_versions
from benchmarks.pairs import measure_pairs, pairs_to_markdown
from benchmarks.profile import measure_profiles, profiles_to_markdown
from benchmarks.protocols import measure_protocols, protocols_to_markdown
from benchmarks.report import to_markdown
from benchmarks.rollout_overhead import measure_overhead, overhead_to_markdown
from benchmarks.routing import measure_routing, routing_to_markdown
from benchmarks.scale_out import measure_scale_out, scale_out_to_markdown
from benchmarks.shadowing import measure_shadowing, shadowing_to_markdown
from benchmarks.state import Pool, measure_state, state_to_markdown
from benchmarks.submit import measure_submissions, submissions_to_markdown
from benchmarks.systems.peers import peer_names
from benchmarks.systems.running import NAME
from benchmarks.targets import read_targets, targets_to_markdown
from benchmarks.traces import time_traces, traces_to_markdown
from benchmarks.trials import time_trials, trials_to_markdown
from benchmarks.venvs import environment_of
from models.store_reader import load_catalog
from tests.support.brokers.kinds import BrokerKind

_HERE = Path(__file__).parent
RESULTS = _HERE / "results"
_PLOT = _HERE / "plot"

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.callback()
def main() -> None:
    """Each command starts what it measures and stops it."""
    # As Ctrl-C: a harness that just ended would leave what it started behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@app.command(name="compare")
def compare_systems(
    model: Annotated[str, typer.Option(help="iris, mlp or mlp-int8.")] = "iris",
    concurrency: Annotated[str, typer.Option(help="Requests under way, in this order.")] = "64,16,1,256",
    systems: Annotated[str, typer.Option(help="Which, separated by commas; all by default.")] = "",
    windows: Annotated[int, typer.Option(min=1, help="Windows of 1 s for each system, concurrency and round.")] = 6,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; every other one in reverse order.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder for JSON, Markdown and PNG.")] = RESULTS,
) -> None:
    """Run Inferlane and its peers side by side in a closed loop."""
    names = tuple(systems.split(",")) if systems else (NAME, *peer_names())
    plan = Plan(concurrencies=tuple(int(part) for part in concurrency.split(",")), windows=windows)
    comparison = compare(load_case(model), names, plan, rounds=rounds)
    base = out / comparison.case
    _save(base, comparison, to_markdown(comparison))
    python = environment_of(_PLOT) / "python"
    subprocess.run([python, _PLOT / "draw.py", base.with_suffix(".json"), base.with_suffix(".png")], check=True)


@app.command()
def burst(
    rate: Annotated[float, typer.Option(min=1, help="Requests a second; three times what the system can is a burst.")],
    model: Annotated[str, typer.Option(help="iris, mlp or mlp-int8.")] = "mlp",
    systems: Annotated[str, typer.Option(help="Which, separated by commas; all by default.")] = "",
    duration: Annotated[float, typer.Option(min=1, help="Seconds that the burst lasts.")] = 10,
    patience: Annotated[float, typer.Option(min=1, help="Seconds after which an answer is worth nothing.")] = 30,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """Send at a constant rate whatever the systems do, and count who is answered."""
    case = load_case(model)
    found: list[Burst] = []
    for name in systems.split(",") if systems else (NAME, *peer_names()):
        with serve(name, case) as running:
            sending = send_burst(running, case, rate_per_s=rate, duration_s=duration, patience_s=patience)
            found.append(asyncio.run(sending))
    _save(out / f"burst-{model}-{patience:g}s", found, bursts_to_markdown(found))


@app.command()
def hops(
    model: Annotated[str, typer.Option(help="iris, mlp or mlp-int8.")] = "iris",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way.")] = 64,
    seconds: Annotated[int, typer.Option(min=1, help="How long the load lasts.")] = 20,
    broker: Annotated[BrokerKind, typer.Option(help="embedded or apache.")] = BrokerKind.EMBEDDED,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """Split latency and CPU of one request by hop."""
    if broker not in (BrokerKind.EMBEDDED, BrokerKind.APACHE):
        raise typer.BadParameter(f"{broker}: this one starts its own stack, on embedded or apache")
    found = measure_hops(load_case(model), broker, concurrency=concurrency, seconds=seconds)
    _save(out / f"hops-{broker}-{model}-{concurrency}", found, hops_to_markdown(found))


@app.command()
def pairs(
    other: Annotated[Path, typer.Option(help="Another checkout, with a .venv of its own.")],
    model: Annotated[str, typer.Option(help="iris, mlp or mlp-int8.")] = "iris",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way.")] = 64,
    seconds: Annotated[int, typer.Option(min=1, help="How long a window lasts.")] = 2,
    count: Annotated[int, typer.Option(min=1, help="Pairs of windows.")] = 20,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """CPU of a request by process, beside that of another checkout."""
    found = measure_pairs(load_case(model), other, concurrency=concurrency, seconds=seconds, pairs=count)
    _save(out / f"pairs-{model}-{concurrency}", found, pairs_to_markdown(found))


@app.command()
def shadowing(
    share: Annotated[float, typer.Option(min=0.01, max=1, help="The share of requests that is copied.")] = 0.1,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way.")] = 64,
    seconds: Annotated[int, typer.Option(min=1, help="How long a window lasts.")] = 2,
    count: Annotated[int, typer.Option(min=1, help="Pairs of windows.")] = 20,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """CPU of a request by process, with shadow copies of a share of the requests and without."""
    found = measure_shadowing(share=share, concurrency=concurrency, seconds=seconds, pairs=count)
    _save(out / "shadowing", found, shadowing_to_markdown(found))


@app.command()
def profile(
    model: Annotated[str, typer.Option(help="iris, mlp or mlp-int8.")] = "iris",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way.")] = 64,
    seconds: Annotated[int, typer.Option(min=1, help="How long the profiler looks.")] = 15,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """Where the CPU of API, router and worker goes, by a sampling profiler (py-spy)."""
    found = measure_profiles(load_case(model), concurrency=concurrency, seconds=seconds)
    _save(out / f"profile-{model}-{concurrency}", found, profiles_to_markdown(found))


@app.command()
def bulk(
    records: Annotated[int, typer.Option(min=1, help="Records of 256 rows that wait for the worker.")],
    model: Annotated[str, typer.Option(help="iris, mlp or mlp-int8.")] = "mlp-int8",
    broker: Annotated[BrokerKind, typer.Option(help="The Kafka that it runs on.")] = BrokerKind.APACHE,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; every other one in reverse order.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """Let one worker drain bulk records, beside onnxruntime alone."""
    _refuse_embedded(broker)
    found = measure_bulk(load_case(model), broker, records=records, rounds=rounds)
    _save(out / f"bulk-{model}", found, bulk_to_markdown(found))


@app.command()
def submit(
    rows: Annotated[int, typer.Option(min=1_000, help="Rows of a file.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; every other one in reverse order.")] = 5,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """Score a file of iris rows with `inferlane batch submit`, from Parquet and from CSV."""
    found = measure_submissions(load_case("iris"), rows=rows, rounds=rounds)
    _save(out / "submit-iris", found, submissions_to_markdown(found))


@app.command()
def beside(
    model: Annotated[str, typer.Option(help="iris, mlp or mlp-int8.")] = "iris",
    rate: Annotated[float, typer.Option(min=1, help="Requests a second of the client.")] = 20,
    rows: Annotated[int, typer.Option(min=1_000, help="Rows of the file that is scored meanwhile.")] = 5_000_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each on a stack of its own.")] = 5,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """Ask at a low rate while a file is scored: latency and rate beside those alone."""
    found = measure_beside(load_case(model), rate_per_s=rate, rows=rows, rounds=rounds)
    _save(out / f"beside-{model}", found, beside_to_markdown(found))


@app.command()
def router(
    broker: Annotated[BrokerKind, typer.Option(help="The Kafka that it runs on.")] = BrokerKind.APACHE,
    records: Annotated[int, typer.Option(min=1, help="Records that wait for the router.")] = 40_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; every other one in reverse order.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """Let the router's data path and Faust agents drain the same records."""
    _refuse_embedded(broker)
    found = measure_routing(broker, records=records, rounds=rounds)
    _save(out / f"router-{broker}", found, routing_to_markdown(found))


@app.command()
def cost(
    deployments: Annotated[str, typer.Option(help="Versions x partitions, separated by commas.")] = "2x12,20x24",
    rate: Annotated[float, typer.Option(min=1, help="Requests a second.")] = 500,
    seconds: Annotated[float, typer.Option(min=1, help="How long the load lasts, and the idle spell before it.")] = 20,
    broker: Annotated[BrokerKind, typer.Option(help="The Kafka that it runs on.")] = BrokerKind.APACHE,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; every other one in reverse order.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """CPU of one iris request with few versions and partitions, and with many."""
    load = Load(rate_per_s=rate, seconds=seconds)
    chosen = [Deployment.parse(part) for part in deployments.split(",")]
    found = measure_cost(load_case("iris"), broker, chosen, load, rounds=rounds)
    _save(out / f"cost-{broker}-{rate:g}", found, cost_to_markdown(found))


@app.command(name="cache")
def response_cache(
    model: Annotated[str, typer.Option(help="iris, mlp or mlp-int8.")] = "iris",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; every other one in reverse order.")] = 8,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """CPU of an answer that was kept, beside one that is computed."""
    found = measure_cached(load_case(model), concurrency=concurrency, rounds=rounds)
    _save(out / f"cache-{model}", found, cached_to_markdown(found))


@app.command()
def idle(
    broker: Annotated[BrokerKind, typer.Option(help="The Kafka that it runs on.")] = BrokerKind.EMBEDDED,
    settle: Annotated[float, typer.Option(min=0, help="Seconds without a request before.")] = 120,
    seconds: Annotated[float, typer.Option(min=1, help="How long it is measured.")] = 30,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """CPU of the stack of the sample models by process while nobody asks."""
    found = measure_idle(load_case("iris"), broker, settle_s=settle, seconds=seconds)
    _save(out / f"idle-{broker}", found, idle_to_markdown(found))


@app.command()
def versions(
    idle: Annotated[int, typer.Option(min=1, help="How many versions share the process.")] = 50,
    settle: Annotated[float, typer.Option(min=0, help="Seconds without a request before.")] = 60,
    seconds: Annotated[float, typer.Option(min=1, help="How long it is measured.")] = 30,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """Memory, CPU and start of many small versions that nobody asks, in one process."""
    found = measure_idle_versions(load_case("iris"), versions=idle, settle_s=settle, seconds=seconds)
    _save(out / f"versions-{idle}", found, idle_versions_to_markdown(found))


@app.command()
def footprint(out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS) -> None:
    """Memory of the stack after load, the time until it is ready, and the CPU of a command."""
    found = measure_footprint(load_case("iris"))
    _save(out / "footprint", found, footprint_to_markdown(found))


@app.command()
def scaling(
    model: Annotated[str, typer.Option(help="iris, mlp or mlp-int8.")] = "iris",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way for each API process.")] = 64,
    seconds: Annotated[int, typer.Option(min=1, help="How long each load lasts.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; every other one in reverse order.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """Rate of 1 router, 1 API and 2 workers on Apache Kafka, and of twice as many; says what it is worth here."""
    found = measure_scale_out(load_case(model), concurrency=concurrency, seconds=seconds, rounds=rounds)
    _save(out / f"scaling-{model}", found, scale_out_to_markdown(found))


@app.command()
def state(
    workers: Annotated[int, typer.Option(min=1, help="Workers that send summaries.")] = 12,
    rate: Annotated[float, typer.Option(min=1, help="Requests a second that they answer between them.")] = 3000,
    seconds: Annotated[float, typer.Option(min=1, help="How long each spell lasts.")] = 20,
    broker: Annotated[BrokerKind, typer.Option(help="The Kafka that it runs on.")] = BrokerKind.APACHE,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; every other one in reverse order.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """CPU of the router's state path: the workers' summaries in, windows out."""
    found = measure_state(broker, Pool(workers=workers, rate_per_s=rate), seconds=seconds, rounds=rounds)
    _save(out / f"state-{broker}", found, state_to_markdown(found))


@app.command()
def protocols(
    model: Annotated[str, typer.Option(help="iris, mlp or mlp-int8.")] = "mlp-int8",
    rows: Annotated[str, typer.Option(help="Rows of a request, in this order.")] = "1,16,64",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way.")] = 8,
    requests: Annotated[int, typer.Option(min=1, help="Requests of a window.")] = 200,
    rounds: Annotated[int, typer.Option(min=1, help="Windows of each protocol.")] = 7,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """Rows a second by V1 JSON, V2 with binary tensors and gRPC, beside MLServer's gRPC."""
    counts = [int(part) for part in rows.split(",")]
    found = measure_protocols(load_case(model), counts, concurrency=concurrency, requests=requests, rounds=rounds)
    _save(out / f"protocols-{model}", found, protocols_to_markdown(found))


@app.command()
def traces(
    model: Annotated[str, typer.Option(help="iris, mlp or mlp-int8.")] = "iris",
    batch: Annotated[int, typer.Option(min=1, help="Requests in a batch.")] = 16,
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """Time the spans of one request: kept, not kept, not asked for."""
    case = load_case(model)
    served = load_catalog(case.models_dir, default_model=case.model).model()
    found = time_traces(served.version(served.default_version), batch=batch)
    _save(out / "traces", found, traces_to_markdown(found))


@app.command()
def trials(
    model: Annotated[str, typer.Option(help="iris, mlp or mlp-int8.")] = "iris",
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """Time what a fallback and a shadow add to one request."""
    found = time_trials(load_case(model))
    _save(out / "trials", found, trials_to_markdown(found))


@app.command(name="rollout-overhead")
def rollout_overhead(
    other: Annotated[Path, typer.Option(help="A checkout without the code of rollouts on the hot path.")],
    out: Annotated[Path, typer.Option(help="Folder for JSON and Markdown.")] = RESULTS,
) -> None:
    """Instructions of a request in router and worker, beside those of another checkout; needs valgrind."""
    found = measure_overhead(other)
    _save(out / "rollout-overhead", found, overhead_to_markdown(found))


@app.command()
def targets(results: Annotated[Path, typer.Option(help="Folder of the kept results.")] = RESULTS) -> None:
    """Show each target beside what was measured, from the kept results."""
    print(targets_to_markdown(read_targets(results)), end="")


def _refuse_embedded(broker: BrokerKind) -> None:
    if broker is BrokerKind.EMBEDDED:
        raise typer.BadParameter("the embedded broker tells a topic's end to within a batch, too coarse to count by")


def _save(base: Path, found: object, table: str) -> None:
    """Write `<base>.json` and `<base>.md`, and show the table."""
    base.parent.mkdir(parents=True, exist_ok=True)
    base.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    base.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    app()
