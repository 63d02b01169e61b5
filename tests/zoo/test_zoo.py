"""Models as users have them: each is served over HTTP, by topic and in bulk, and answers as its own library."""

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from typer.testing import CliRunner

from control_plane.cli.main import command_line
from tests.zoo.conftest import Zoo
from tests.zoo.menagerie import ANIMALS, BROKEN, Animal, Broken

pytestmark = pytest.mark.timeout(900)

NAMES = list(ANIMALS)
_REQUESTS, _RESULTS = "inferlane.requests", "inferlane.results"
_WITHIN_S = 240
# Thirty workers have just started when the first file is sent.
_PATIENCE_S = "240"


def compare(animal: Animal, found: Mapping[int, list[Any]]) -> None:
    """Compare outputs, by their place, with the predictions of the library."""
    for place, wanted in animal.expected.items():
        values = np.ravel(found[place])
        if wanted.dtype.kind in "OU":
            assert values.tolist() == wanted.ravel().tolist()
        else:
            tolerance = animal.tolerance
            np.testing.assert_allclose(values.astype(np.float64), wanted.ravel(), rtol=tolerance, atol=tolerance)


def output_names(zoo: Zoo, name: str) -> list[str]:
    return [spec.name for spec in zoo.catalog.model(name).version("v1").signature.outputs]


def by_place(zoo: Zoo, name: str, rows: list[Any]) -> dict[int, list[Any]]:
    """The outputs of predictions by their place."""
    names = output_names(zoo, name)
    return {place: [row[output] if len(names) > 1 else row for row in rows] for place, output in enumerate(names)}


def test_the_zoo_holds_thirty_models_and_five_broken_ones() -> None:
    assert len(NAMES) >= 30
    assert len(BROKEN) == 5


@pytest.mark.parametrize("name", NAMES)
def test_a_model_answers_over_http_what_its_library_predicts(zoo: Zoo, name: str) -> None:
    animal = zoo.animals[name]

    status, answer = zoo.stack.call("/v1/models/predict", {"model": name, "instances": animal.rows, "timeout_s": 60})

    assert status == 200, answer
    compare(animal, by_place(zoo, name, answer["predictions"]))


@pytest.fixture(scope="session")
def results(zoo: Zoo) -> Mapping[str, Any]:
    """The results of a record to the topic of requests for each model, which all wait there at once."""
    return asyncio.run(asyncio.wait_for(_results(zoo), _WITHIN_S))


async def _results(zoo: Zoo) -> Mapping[str, Any]:
    servers = {"bootstrap_servers": zoo.bootstrap_servers, "request_timeout_ms": 60_000}
    found: dict[str, Any] = {}
    async with AIOKafkaConsumer(_RESULTS, **servers) as consumer, AIOKafkaProducer(**servers) as producer:
        await consumer.seek_to_end()
        for name, animal in zoo.animals.items():
            value = json.dumps({"instances": animal.rows}).encode()
            headers = [("ce_id", f"zoo/{name}".encode()), ("ce_model", name.encode())]
            await producer.send_and_wait(_REQUESTS, value, headers=headers)
        while len(found) < len(zoo.animals):
            record = await consumer.getone()
            where, _, name = dict(record.headers)["ce_id"].decode().partition("/")
            if where == "zoo":
                found[name] = json.loads(record.value)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_model_answers_a_record_what_its_library_predicts(zoo: Zoo, results: Mapping[str, Any], name: str) -> None:
    result = results[name]

    assert "outputs" in result, result
    outputs = {output["name"]: output["data"] for output in result["outputs"]}
    classes = zoo.catalog.model(name).version("v1").class_names
    found: dict[int, list[Any]] = {}
    for place, output in enumerate(output_names(zoo, name)):
        is_named = place in zoo.animals[name].expected and zoo.animals[name].expected[place].dtype.kind in "OU"
        # In the protocol's own form a label is the index of its class.
        found[place] = [classes[output][value] for value in outputs[output]] if is_named else outputs[output]
    compare(zoo.animals[name], found)


def write_jsonl(animal: Animal, path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in animal.rows), encoding="utf-8")


def write_csv(animal: Animal, path: Path) -> None:
    """As a spreadsheet writes it: nothing where a value is missing."""
    frame(animal).to_csv(path, index=False, header=isinstance(animal.rows[0], dict))


def write_parquet(animal: Animal, path: Path) -> None:
    frame(animal).to_parquet(path)


def frame(animal: Animal) -> pd.DataFrame:
    columns = pd.DataFrame(animal.rows)
    return columns.rename(columns=str)


_FILES = {".jsonl": write_jsonl, ".csv": write_csv, ".parquet": write_parquet}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_rows_is_answered_by_batch_submit_as_the_library_predicts(
    zoo: Zoo, name: str, tmp_path: Path
) -> None:
    """A table in each form that one has: text, missing values and names of columns must survive all of them."""
    animal = zoo.animals[name]
    for suffix in _FILES if animal.is_a_table else [".jsonl"]:
        rows, out = tmp_path / f"rows{suffix}", tmp_path / "results.jsonl"
        _FILES[suffix](animal, rows)
        # The command itself, in this process: each of its own would spend a second on imports.
        arguments = ["batch", "submit", str(rows), "--out", str(out), "--model", name, "--stall-timeout-s", _PATIENCE_S]
        ran = CliRunner().invoke(command_line(), arguments, env=zoo.stack.environment)

        assert ran.exit_code == 0, f"{ran.output}{ran.exception!r}"
        found = [json.loads(line)["prediction"] for line in out.read_text().splitlines()]
        compare(animal, by_place(zoo, name, found))


@pytest.mark.parametrize("case", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_file_is_refused_with_the_reason_while_the_others_are_served(
    zoo: Zoo, tmp_path: Any, case: Broken
) -> None:
    case.write(tmp_path / case.file)

    refused = zoo.stack.run("models", "add", str(tmp_path / case.file), "--name", "broken")

    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert re.search(case.sentence, " ".join(refused.stderr.split())), refused.stderr
    assert not (zoo.folder / "models" / "broken").exists()
    status, answer = zoo.stack.call("/v1/models/predict", {"instances": zoo.animals["pipeline"].rows})
    assert status == 200, answer
