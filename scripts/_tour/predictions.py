"""Steps 1 to 5: what is served, and the ways to ask."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from _traffic.api import expect_ok
from _traffic.documents import Prediction, Problem
from _traffic.report import make_table

from .stage import describe_row, expect

if TYPE_CHECKING:
    from _traffic.documents import Row

    from .stage import Stage

ACCEPTED = 202
UNPROCESSABLE = 422
ASYNC_LIMIT_S = 60.0
SHOWN_NUMBERS = 8


async def show_models(stage: Stage) -> None:
    stage.title(1, "What is served")
    table = make_table(stage.console, "model / version", "weight", "quantization", "size", "input")
    for model in stage.served.models:
        for version in model.versions:
            inputs = ", ".join(f"{spec.name} {spec.datatype} {spec.shape}" for spec in version.inputs)
            table.add_row(
                f"{model.name} / {version.version}",
                "-" if version.weight is None else f"{version.weight:.0%}",
                str(version.quantization or "none"),
                "-" if version.size_bytes is None else f"{version.size_bytes / 1000:,.1f} kB",
                inputs.replace("[", r"\["),
            )
    stage.console.print(table)


async def ask_once(stage: Stage) -> None:
    stage.title(2, "One prediction: POST /v1/models/predict")
    shown = ", ".join(f"{number:g}" for number in stage.row[:SHOWN_NUMBERS])
    more = f", and {len(stage.row) - SHOWN_NUMBERS} more" if len(stage.row) > SHOWN_NUMBERS else ""
    stage.say(f"instance   [{shown}{more}]")
    start_s = time.perf_counter()
    prediction = await stage.api.predict(stage.body)
    elapsed_ms = (time.perf_counter() - start_s) * 1e3
    stage.say(f"answer     {describe_row(_only_row(prediction))}, from {prediction.model} {prediction.version}")
    stage.say(f"request    {prediction.request_id}, through Kafka and back in {elapsed_ms:.1f} ms")


async def compare_quantized(stage: Stage) -> None:
    stage.title(3, "The same instance, pinned to a version and to its quantized twin")
    if stage.quantized is None:
        stage.say(f"{stage.model.name} has no quantized version: skipped")
        return
    sizes = {version.version: version.size_bytes for version in stage.model.versions}
    table = make_table(stage.console, "version", "label", "size", "probabilities")
    for version in (stage.canary or stage.baseline, stage.quantized):
        prediction = await stage.api.predict({**stage.body, "version": version})
        expect(prediction.version == version, f"version {version} was asked, {prediction.version} answered")
        row = _only_row(prediction)
        size = sizes[version]
        probabilities = "  ".join(f"{number:.4f}" for number in row.probabilities[:SHOWN_NUMBERS])
        table.add_row(version, str(row.label), "-" if size is None else f"{size / 1000:,.1f} kB", probabilities)
    stage.console.print(table)


async def ask_without_waiting(stage: Stage) -> None:
    stage.title(4, "Without waiting: Prefer: respond-async, then the result from its Location")
    reply = await stage.api.call("POST", "/v1/models/predict", body=stage.body, headers={"prefer": "respond-async"})
    expect(reply.status == ACCEPTED, f"Prefer: respond-async answered {reply.status}, not 202")
    accepted = reply.document(Prediction)
    expect(reply.location is not None, "the 202 answer has no Location header")
    stage.say(f"202 {accepted.status}   Location: {reply.location}")
    path = str(reply.location).removeprefix(stage.api.url)
    deadline_s = time.perf_counter() + ASYNC_LIMIT_S
    while True:
        polled = await stage.api.call("GET", path, params={"wait_s": "5"})
        # While there is no result the state comes with 200 or 202.
        result = (polled if polled.status == ACCEPTED else expect_ok(polled, f"GET {path}")).document(Prediction)
        if result.status != "QUEUED" or time.perf_counter() > deadline_s:
            break
    expect(result.status == "SUCCEEDED", f"the result of {path} is {result.status}, not SUCCEEDED")
    expect(result.request_id == accepted.request_id, f"{path} answered for {result.request_id}")
    stage.say(f"200 {result.status}   {describe_row(_only_row(result))}, from {result.version}")


async def make_an_error(stage: Stage) -> None:
    stage.title(5, "A mistake on purpose: an instance that is one number short")
    reply = await stage.api.call("POST", "/v1/models/predict", body={**stage.body, "instances": [stage.row[:-1]]})
    expect(reply.status == UNPROCESSABLE, f"a wrong shape was answered {reply.status}, not 422")
    expect(
        reply.content_type == "application/problem+json",
        f"the error is {reply.content_type}, not application/problem+json (RFC 9457)",
    )
    problem = reply.document(Problem)
    expect(bool(problem.code and problem.detail), "the problem document has no code or no detail")
    for name in ("status", "code", "title", "detail", "remedy"):
        value = getattr(problem, name)
        if value:
            stage.say(f"{name:<8} {value}")


def _only_row(prediction: Prediction) -> Row:
    expect(
        len(prediction.predictions) == 1,
        f"one instance was sent, {len(prediction.predictions)} predictions came back for {prediction.request_id}",
    )
    return prediction.predictions[0]
