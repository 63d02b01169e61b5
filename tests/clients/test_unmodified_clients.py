"""The examples of docs/clients.md and docs/topics.md, as they stand there, on a stack as README.md starts it.

`.ci/clients.sh` installs them and runs this.
"""

import json
import re
import sys
from collections.abc import Iterator

import pytest
from jsonschema import Draft7Validator

from tests.support.installed_clients import clients_folder, newer_librdkafka, run_client
from tests.support.keyed_stack import REPOSITORY, KeyedStack, running_stack

pytestmark = pytest.mark.timeout(900)

CLIENTS = clients_folder()
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


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedStack]:
    with running_stack(tmp_path_factory.mktemp("stack"), settings={"INFERLANE_API_AUTH": "off"}) as stack:
        yield stack


def labels_of(stack: KeyedStack, version: str) -> list[int]:
    """The class indices of the two rows, as the V2 call without any client has them."""
    tensor = {"name": "input", "shape": [2, 4], "datatype": "FP32", "data": [value for row in IRIS for value in row]}
    answer = stack.call(f"/v2/models/iris/versions/{version}/infer", {"inputs": [tensor]})
    (labels,) = [output["data"] for output in answer["outputs"] if output["name"] == "label"]
    return list(labels)


def example_of(name: str, stack: KeyedStack) -> str:
    """The example as the page has it, for the ports of this stack."""
    text = EXAMPLES[name].replace("127.0.0.1:9092", f"127.0.0.1:{stack.broker_port}")
    return text.replace("localhost:8000", f"localhost:{stack.api_port}")


def label_in(printed: str) -> int:
    """The label of the first V2 response that was printed."""
    response = json.loads(printed[printed.index("{") :].splitlines()[0])
    (label,) = next(output["data"] for output in response["outputs"] if output["name"] == "label")
    return int(label)


def test_kcat(stack: KeyedStack) -> None:
    request_id = "kcat-1"
    send, read = example_of("kcat", stack).strip().splitlines()
    environment = newer_librdkafka()
    run_client("sh", "-c", send, **environment)
    for _ in range(60):
        printed = run_client("sh", "-c", read, **environment)
        lines = [line for line in printed.splitlines() if f"ce_id={request_id}," in line]
        if lines:
            assert label_in(lines[0]) == labels_of(stack, "v1")[0]
            return
    pytest.fail(f"no result for {request_id}: {printed}")


def test_kafkajs(stack: KeyedStack) -> None:
    script = CLIENTS / "example.mjs"
    script.write_text(example_of("kafkajs", stack))
    printed = run_client("node", str(script))
    assert printed.startswith("SUCCEEDED ")
    assert label_in(printed) == labels_of(stack, "v1")[0]


def test_confluent_kafka(stack: KeyedStack) -> None:
    printed = run_client(sys.executable, "-c", example_of("confluent-kafka", stack))
    assert printed.startswith("v2-quantized ")
    assert label_in(printed) == labels_of(stack, "v2-quantized")[1]


@pytest.mark.parametrize("client", ["kserve", "mlserver"])
def test_clients_of_the_open_inference_protocol(stack: KeyedStack, client: str) -> None:
    printed = run_client(str(CLIENTS / client / "bin" / "python"), "-c", example_of(client, stack))
    assert printed.splitlines()[-1].endswith(str(labels_of(stack, "v1"))), printed


def test_curl_compressed(stack: KeyedStack) -> None:
    answer, models, split = run_client(
        "sh", "-c", example_of("client-curl", stack).replace("\n", "; echo;")
    ).splitlines()[:3]
    assert json.loads(answer)["predictions"][0]["label"] == "setosa"
    assert {each["name"] for each in json.loads(models)["models"]} >= {"iris", "digits"}
    assert json.loads(split)["model"] == "iris"


def test_the_asyncapi_document_is_one_by_asyncapis_own_schema(stack: KeyedStack) -> None:
    schema = json.loads((CLIENTS / "node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json").read_text())
    document = stack.call("/asyncapi.json")
    assert [error.message for error in Draft7Validator(schema).iter_errors(document)] == []
    assert list(Draft7Validator(schema).iter_errors({**document, "channels": {"x": {"address": 1}}}))
