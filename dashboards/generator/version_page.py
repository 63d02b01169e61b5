"""The page of versions: stable and canary on the same axes."""

from dashboards.generator.panels import (
    CANARY,
    CHOSEN,
    CPU_S,
    ERROR_RATIO,
    MEMORY_BYTES,
    P95_S,
    POOL,
    POOL_NAME,
    STABLE,
    Page,
    Panel,
    Query,
    Section,
    Shape,
    of_workers,
    quantiles,
    rate,
    value,
)
from inferlane.runtime.metrics import router_metrics, worker_metrics
from inferlane.runtime.metrics.instruments import Collector

_CPU = f"rate({CPU_S}[$__rate_interval])"
_ROLLOUT_PHASE = "{{model}} {{phase}}"
_ROLLOUT_CHECK = "{{model}} {{check}}"
_WAITED_FOR = f'{CHOSEN}, lane="requests"'


def _times(title: str, about: str, histogram: Collector, *ranks: float) -> Panel:
    return Panel(title=title, about=about, unit="s", queries=quantiles(histogram, *ranks, where=_WAITED_FOR))


def _roles(title: str, unit: str, recorded: str) -> Panel:
    return Panel(
        title=title,
        about="Stable has the largest weight of its model's split; each other version with a weight is a canary.",
        unit=unit,
        queries=(
            Query(f"{recorded}{{{CHOSEN}}} and on (model, version) {STABLE}", f"stable {POOL_NAME}"),
            Query(f"{recorded}{{{CHOSEN}}} and on (model, version) {CANARY}", f"canary {POOL_NAME}"),
        ),
    )


PAGE = Page(
    uid="inferlane-versions",
    title="Inferlane: versions",
    about="Stable beside canary: traffic, failures, time, predictions and what each version uses.",
    sections=(
        Section(
            title="Stable against canary, by the split's weights",
            panels=(
                _roles("Errors", "percentunit", ERROR_RATIO),
                _roles("p95", "s", P95_S),
            ),
        ),
        Section(
            title="Rollouts",
            panels=(
                Panel(
                    title="Phase",
                    about="The phase of each model's rollout under way, or else of the one that ended last.",
                    unit="short",
                    queries=(
                        Query(
                            f"{value(router_metrics.ROLLOUT_PHASE, by='model, phase', op='max')} == 1", _ROLLOUT_PHASE
                        ),
                    ),
                ),
                Panel(
                    title="Evidence that the candidate is worse",
                    about="Logarithm of the e-value of each check; about 4.6 (alpha 0.01) rolls back or pauses.",
                    unit="short",
                    queries=(
                        Query(value(router_metrics.ROLLOUT_EVIDENCE, by="model, check", op="max"), _ROLLOUT_CHECK),
                    ),
                ),
                Panel(
                    title="Paused",
                    about="How long a rollout waits for a person.",
                    unit="s",
                    queries=(Query(value(router_metrics.ROLLOUT_PAUSED, by="model", op="max"), "{{model}}"),),
                ),
            ),
        ),
        Section(
            title="Each version",
            panels=(
                Panel(
                    title="Requests",
                    about="Ended a second.",
                    unit="reqps",
                    queries=(Query(rate(worker_metrics.REQUESTS, by=POOL, where=CHOSEN), POOL_NAME),),
                ),
                Panel(
                    title="Errors by reason",
                    about="FAILED and EXPIRED. invalid_input, undecodable: the sender's. model_error: the model's.",
                    unit="reqps",
                    queries=(
                        Query(
                            rate(worker_metrics.REQUESTS, by=f"{POOL}, reason", where=f'{CHOSEN}, status!="SUCCEEDED"'),
                            f"{POOL_NAME} {{{{reason}}}}",
                        ),
                    ),
                ),
                _times(
                    "Total",
                    "From acceptance to the durable result, for waiting clients.",
                    worker_metrics.TOTAL,
                    0.5,
                    0.95,
                    0.99,
                ),
                _times(
                    "Queue wait",
                    "To the start of inference: high means too few workers.",
                    worker_metrics.QUEUE_WAIT,
                    0.5,
                    0.95,
                ),
                _times(
                    "Inference",
                    "One run: high means a slow model or large batches.",
                    worker_metrics.INFERENCE,
                    0.5,
                    0.95,
                ),
                Panel(
                    title="Predicted classes",
                    about="Share of the rows. Other classes than stable on the same traffic: look at the canary.",
                    unit="percentunit",
                    queries=(
                        Query(
                            f"{rate(worker_metrics.PREDICTIONS, by=f'{POOL}, class', where=CHOSEN)} "
                            "/ on (model, version) group_left "
                            f"{rate(worker_metrics.PREDICTIONS, by=POOL, where=CHOSEN)}",
                            f"{POOL_NAME} {{{{class}}}}",
                        ),
                    ),
                ),
                Panel(
                    title="Predicted values",
                    about="Quantiles of a regression's predictions, coarse: a bucket a decade.",
                    unit="short",
                    queries=quantiles(worker_metrics.PREDICTION_VALUE, 0.05, 0.5, 0.95, where=CHOSEN),
                ),
            ),
        ),
        Section(
            title="What it uses",
            panels=(
                Panel(
                    title="CPU",
                    about="Cores, all workers of the version. Versions that share a process show all of it each.",
                    unit="short",
                    queries=(
                        Query(
                            f"sum by ({POOL}) ({of_workers(_CPU, worker_metrics.MODEL_SIZE)})",
                            POOL_NAME,
                        ),
                    ),
                ),
                Panel(
                    title="Memory",
                    about="Resident, all workers of the version. Versions that share a process show all of it each.",
                    unit="bytes",
                    queries=(
                        Query(f"sum by ({POOL}) ({of_workers(MEMORY_BYTES, worker_metrics.MODEL_SIZE)})", POOL_NAME),
                    ),
                    shape=Shape.STACK,
                ),
                Panel(
                    title="Model size",
                    about="The file that is served: what quantization saved.",
                    unit="bytes",
                    queries=(Query(value(worker_metrics.MODEL_SIZE, by=POOL, where=CHOSEN, op="max"), POOL_NAME),),
                ),
            ),
        ),
    ),
)
