"""Clients that know nothing of Inferlane, as docs/clients.md and docs/topics.md show them: each gets right answers.

`.ci/clients.sh` installs them and runs this.
"""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import confluent_kafka
import pytest
from jsonschema import Draft7Validator

from tests.support.keyed_stack import REPOSITORY, KeyedStack, running_stack

pytestmark = pytest.mark.timeout(900)

CLIENTS = Path(os.environ["INFERLANE_CLIENTS"])
EXAMPLES = {
    name: text
    for page in ("clients", "topics")
    for name, text in re.findall(
        r"<!-- (?:client|example|run): ([\w-]+) -->\n```\w+\n(.*?)```",
        (REPOSITORY / "docs" / f"{page}.md").read_text(),
        re.DOTALL,
    )
}
IRIS = [5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]
DIGITS = tuple([float(random.Random(seed).randrange(17)) for _ in range(64)] for seed in (1, 2))
# Longer than any of them takes to load on a busy machine.
_WITHIN_S = 300


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedStack]:
    with running_stack(tmp_path_factory.mktemp("stack"), settings={"INFERLANE_API_AUTH": "off"}) as stack:
        yield stack


@pytest.fixture(params=["iris", "digits"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def labels_of(stack: KeyedStack, model: str, version: str) -> list[int]:
    """The class indices of the two rows of a model, as the V2 call without any client has them."""
    rows = IRIS if model == "iris" else DIGITS
    data = [value for row in rows for value in row]
    tensor = {"name": "input", "shape": [2, len(rows[0])], "datatype": "FP32", "data": data}
    answer = stack.call(f"/v2/models/{model}/versions/{version}/infer", {"inputs": [tensor]})
    (labels,) = [output["data"] for output in answer["outputs"] if output["name"] == "label"]
    return list(labels)


def example_of(name: str, stack: KeyedStack, model: str) -> str:
    """The example as the page has it, for the ports of this stack, and for the rows of the model."""
    text = EXAMPLES[name].replace("127.0.0.1:9092", f"127.0.0.1:{stack.broker_port}")
    text = text.replace("localhost:8000", f"localhost:{stack.api_port}")
    if model == "digits":
        text = text.replace("iris", "digits")
        for iris, digits in zip(IRIS, DIGITS, strict=True):
            text = text.replace(json.dumps(iris), json.dumps(digits))
    return text


def run(*argv: str, **environment: str) -> str:
    done = subprocess.run(
        argv,
        env={**os.environ, **environment},
        cwd=CLIENTS,
        capture_output=True,
        text=True,
        timeout=_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def label_in(printed: str) -> int:
    """The label of the first V2 response that was printed."""
    response = json.loads(printed[printed.index("{") :].splitlines()[0])
    (label,) = next(output["data"] for output in response["outputs"] if output["name"] == "label")
    return int(label)


def newer_librdkafka() -> Mapping[str, str]:
    """The librdkafka of confluent-kafka's wheel: Debian's own cannot read the embedded broker's list of versions."""
    held = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    (library,) = held.glob("librdkafka-*.so*")
    link = CLIENTS / "librdkafka" / "librdkafka.so.1"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(library)
    return {"LD_LIBRARY_PATH": f"{link.parent}:{held}"}


def test_kcat(stack: KeyedStack, model: str) -> None:
    request_id = f"kcat-{model}"
    script = example_of("kcat", stack, model).replace("kcat-1", request_id)
    send, read = script.strip().splitlines()
    environment = newer_librdkafka()
    run("sh", "-c", send, **environment)
    for _ in range(60):
        printed = run("sh", "-c", read, **environment)
        lines = [line for line in printed.splitlines() if f"ce_id={request_id}," in line]
        if lines:
            assert label_in(lines[0]) == labels_of(stack, model, "v1")[0]
            return
    pytest.fail(f"no result for {request_id}: {printed}")


def test_kafkajs(stack: KeyedStack, model: str) -> None:
    script = CLIENTS / f"{model}.mjs"
    script.write_text(example_of("kafkajs", stack, model))
    printed = run("node", str(script))
    assert printed.startswith("SUCCEEDED ")
    assert label_in(printed) == labels_of(stack, model, "v1")[0]


def test_confluent_kafka(stack: KeyedStack, model: str) -> None:
    printed = run(sys.executable, "-c", example_of("confluent-kafka", stack, model))
    assert printed.startswith("v2-quantized ")
    assert label_in(printed) == labels_of(stack, model, "v2-quantized")[1]


@pytest.mark.parametrize("client", ["kserve", "mlserver"])
def test_clients_of_the_open_inference_protocol(stack: KeyedStack, model: str, client: str) -> None:
    printed = run(str(CLIENTS / client / "bin" / "python"), "-c", example_of(client, stack, model))
    assert printed.splitlines()[-1].endswith(str(labels_of(stack, model, "v1"))), printed


def test_curl_compressed(stack: KeyedStack) -> None:
    answer, models, split = run(
        "sh", "-c", example_of("client-curl", stack, "iris").replace("\n", "; echo;")
    ).splitlines()[:3]
    assert json.loads(answer)["predictions"][0]["label"] == "setosa"
    assert {each["name"] for each in json.loads(models)["models"]} >= {"iris", "digits"}
    assert json.loads(split)["model"] == "iris"


def test_the_asyncapi_document_is_one_by_asyncapis_own_schema(stack: KeyedStack) -> None:
    schema = json.loads((CLIENTS / "node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json").read_text())
    document = stack.call("/asyncapi.json")
    assert [error.message for error in Draft7Validator(schema).iter_errors(document)] == []
    assert list(Draft7Validator(schema).iter_errors({**document, "channels": {"x": {"address": 1}}}))
