"""Steps 1 to 5: what is served, and the ways to ask."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from _traffic.report import make_table

from inferlane_client import InvalidInput

from .stage import describe_row, expect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from inferlane_client import Prediction

    from .stage import Stage

UNPROCESSABLE = 422
ASYNC_LIMIT_S = 60.0
SHOWN_NUMBERS = 8


async def show_models(stage: Stage) -> None:
    stage.title(1, "What is served")
    table = make_table(stage.console, "model / version", "weight", "quantization", "size", "input")
    for model in stage.served:
        for version in model.versions:
            inputs = ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in version.inputs)
            table.add_row(
                f"{model.name} / {version.version}",
                f"{version.weight:.0%}",
                version.quantization,
                f"{version.size_bytes / 1000:,.1f} kB",
                inputs.replace("[", r"\["),
            )
    stage.console.print(table)


async def ask_once(stage: Stage) -> None:
    stage.title(2, "One prediction: POST /v1/models/predict")
    shown = ", ".join(f"{number:g}" for number in stage.row[:SHOWN_NUMBERS])
    more = f", and {len(stage.row) - SHOWN_NUMBERS} more" if len(stage.row) > SHOWN_NUMBERS else ""
    stage.say(f"instance   [{shown}{more}]")
    start_s = time.perf_counter()
    prediction = await stage.predict()
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
        prediction = await stage.predict(version)
        expect(prediction.version == version, f"version {version} was asked, {prediction.version} answered")
        row = _only_row(prediction)
        probabilities = "  ".join(f"{number:.4f}" for number in row.get("probabilities", ())[:SHOWN_NUMBERS])
        table.add_row(version, str(row.get("label")), f"{sizes[version] / 1000:,.1f} kB", probabilities)
    stage.console.print(table)


async def ask_without_waiting(stage: Stage) -> None:
    stage.title(4, "Without waiting: submit, then the result by its id")
    handle = await stage.client.submit([stage.row], model=stage.model.name)
    stage.say(f"accepted   /v1/predictions/{handle.request_id}, {await handle.status()}")
    prediction = await handle.result(timeout_s=ASYNC_LIMIT_S)
    expect(
        prediction.request_id == handle.request_id, f"{handle.request_id} was asked for, not {prediction.request_id}"
    )
    stage.say(f"SUCCEEDED  {describe_row(_only_row(prediction))}, from {prediction.version}")


async def make_an_error(stage: Stage) -> None:
    stage.title(5, "A mistake on purpose: an instance that is one number short")
    try:
        await stage.client.predict([stage.row[:-1]], model=stage.model.name)
    except InvalidInput as error:
        expect(error.status == UNPROCESSABLE, f"a wrong shape was answered {error.status}, not 422")
        expect(bool(error.code and error.detail), "the problem document has no code or no detail")
        for name in ("status", "code", "title", "detail"):
            stage.say(f"{name:<8} {getattr(error, name)}")
    else:
        expect(claim=False, otherwise="an instance that is one number short was answered with a prediction")


def _only_row(prediction: Prediction) -> Mapping[str, Any]:
    expect(
        len(prediction.predictions) == 1,
        f"one instance was sent, {len(prediction.predictions)} predictions came back for {prediction.request_id}",
    )
    row: Mapping[str, Any] = prediction.predictions[0]
    return row
