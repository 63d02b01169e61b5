"""Every client of docs/clients.md and docs/topics.md on one stack with keys and TLS, on Apache Kafka with passwords.

Each asks three models: the two samples, and one of two inputs that was added to the running stack. What it gets is
what onnxruntime makes of the same rows. `.ci/clients.sh` installs the clients and runs this.
"""

import json
import random
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.support.brokers.apache.cluster import ApacheCluster
from tests.support.brokers.apache.security import Security
from tests.support.certificates import write_certificates
from tests.support.installed_clients import clients_folder, newer_librdkafka, run_client
from tests.support.keyed_stack import REPOSITORY, KeyedStack, running_stack
from tests.support.pair_model import write_pair_onnx

pytestmark = pytest.mark.timeout(900)

CLIENTS = clients_folder()
PROGRAMS = Path(__file__).with_name("programs")
# Two samples rows, and values that a mix-up of inputs, rows or bytes would change.
_DRAWN = random.Random(15)
QUESTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "iris": {
        "input": {"datatype": "FP32", "shape": [2, 4], "data": [5.1, 3.5, 1.4, 0.2, 6.7, 3.0, 5.2, 2.3]},
    },
    "digits": {
        "input": {"datatype": "FP32", "shape": [2, 64], "data": [float(_DRAWN.randrange(17)) for _ in range(128)]},
    },
    "pair": {
        "left": {"datatype": "FP32", "shape": [2, 3], "data": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]},
        "right": {"datatype": "INT64", "shape": [2], "data": [10, -20]},
    },
}
_DTYPES = {"FP32": np.float32, "INT64": np.int64}
_KCAT_READS = 60


@dataclass(frozen=True, kw_only=True)
class Secured:
    """A stack that lets nobody in without a key, a password and TLS, and what each model answers."""

    stack: KeyedStack
    broker: ApacheCluster
    security: Security
    expected: Mapping[str, Mapping[str, Any]]

    def asked(self) -> dict[str, Any]:
        """What a program is told on stdin."""
        return {
            "url": f"https://localhost:{self.stack.api_port}",
            "grpc": f"localhost:{self.stack.grpc_port}",
            "ca": str(self.stack.authority),
            "key": self.stack.admin_key,
            "kafka": self.broker.secure_servers("SASL_SSL"),
            "kafka_ca": str(self.security.ca_path),
            "kafka_user": self.security.username,
            "kafka_password": self.security.password,
            "questions": QUESTIONS,
        }

    def check(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Compare the outputs that a client got with those of the models."""
        assert found.keys() == self.expected.keys()
        for model, outputs in self.expected.items():
            assert found[model].keys() == outputs.keys()
            for name, values in outputs.items():
                got = np.asarray(found[model][name]).reshape(values.shape)
                np.testing.assert_allclose(got, values, rtol=1e-5, atol=1e-6, err_msg=f"{model}: {name}")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    models_dir = folder / "models"
    for name in ("iris", "digits"):
        shutil.copytree(REPOSITORY / ".inferlane" / "models" / name, models_dir / name)
    write_pair_onnx(folder / "pair.onnx")
    security = Security.make(folder / "security")
    with ApacheCluster(folder / "kafka", security=security) as broker:
        settings = write_certificates(folder) | broker.environment(
            kafka_bootstrap_servers=broker.secure_servers("SASL_SSL"),
            kafka_security_protocol="SASL_SSL",
            kafka_ssl_cafile=security.ca_path,
            kafka_sasl_mechanism="SCRAM-SHA-512",
            kafka_sasl_username=security.username,
            kafka_sasl_password=security.password,
            ingress_partitions=1,
            work_partitions=1,
            api_processes=2,
        )
        with running_stack(folder, models_dir=models_dir, settings=settings) as stack:
            stack.inferlane("models", "add", str(folder / "pair.onnx"), "--name", "pair")
            expected = {model: own_answers(models_dir / model / "v1", tensors) for model, tensors in QUESTIONS.items()}
            yield Secured(stack=stack, broker=broker, security=security, expected=expected)


def own_answers(version: Path, tensors: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the version's file computes, without anything of ours."""
    session = onnxruntime.InferenceSession(version / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    fed = {
        name: np.array(tensor["data"], _DTYPES[tensor["datatype"]]).reshape(tensor["shape"])
        for name, tensor in tensors.items()
    }
    return dict(zip(names, session.run(names, fed), strict=True))


def bodies(folder: Path) -> Path:
    """A file with a line for each model: its name and the body of its call."""
    file = folder / "bodies.txt"
    calls = {
        model: {"inputs": [{"name": name, **tensor} for name, tensor in tensors.items()]}
        for model, tensors in QUESTIONS.items()
    }
    file.write_text("".join(f"{model} {json.dumps(body)}\n" for model, body in calls.items()))
    return file


def outputs_of(response: Mapping[str, Any]) -> dict[str, Any]:
    return {output["name"]: output["data"] for output in response["outputs"]}


@pytest.mark.parametrize(
    ("environment", "program"),
    [
        pytest.param(environment, program, id=" ".join(program))
        for environment, *program in [
            (None, "triton_http.py"),
            (None, "triton_grpc.py"),
            ("kserve", "kserve_rest.py"),
            ("kserve", "kserve_grpc.py"),
            ("mlserver", "mlserver_types.py"),
            (None, "own_client.py", "sync"),
            (None, "own_client.py", "async"),
            (None, "confluent.py"),
        ]
    ],
)
def test_a_client_in_python(secured: Secured, environment: str | None, program: list[str]) -> None:
    python = sys.executable if environment is None else str(CLIENTS / environment / "bin" / "python")
    printed = run_client(python, str(PROGRAMS / program[0]), *program[1:], told=json.dumps(secured.asked()))
    secured.check(json.loads(printed.splitlines()[-1]))


def test_kafkajs(secured: Secured) -> None:
    secured.check(json.loads(run_client("node", str(PROGRAMS / "kafkajs.mjs"), told=json.dumps(secured.asked()))))


def test_kcat(secured: Secured, tmp_path: Path) -> None:
    asked = secured.asked()
    access = {
        "BROKER": asked["kafka"],
        "CA": asked["kafka_ca"],
        "KAFKA_USER": asked["kafka_user"],
        "KAFKA_PASSWORD": asked["kafka_password"],
        **newer_librdkafka(),
    }
    program = str(PROGRAMS / "kcat.sh")
    run_client(program, "send", str(bodies(tmp_path)), **access)
    for _ in range(_KCAT_READS):
        lines = [line.partition("\t") for line in run_client(program, "read", **access).splitlines()]
        found = {
            model: outputs_of(json.loads(value))
            for headers, _, value in lines
            for model in QUESTIONS
            if f"ce_id=kcat-{model}" in headers.split(",")
        }
        if found.keys() == QUESTIONS.keys():
            break
    secured.check(found)


def test_curl_compressed(secured: Secured, tmp_path: Path) -> None:
    asked = secured.asked()
    access = {"URL": asked["url"], "CA": asked["ca"], "KEY": asked["key"]}
    printed = run_client(str(PROGRAMS / "curl.sh"), str(bodies(tmp_path)), **access)
    answers = [json.loads(line) for line in printed.splitlines()]
    secured.check({answer["model_name"]: outputs_of(answer) for answer in answers})


def test_nobody_gets_in_without_a_key(secured: Secured, tmp_path: Path) -> None:
    access = {"URL": secured.asked()["url"], "CA": secured.asked()["ca"], "KEY": "il_no-key-of-ours"}
    with pytest.raises(AssertionError, match="401"):
        run_client(str(PROGRAMS / "curl.sh"), str(bodies(tmp_path)), **access)
