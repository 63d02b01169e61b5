"""The API against whatever its own OpenAPI document allows, and against what no document would: never a 5xx.

A real broker and a real store run behind it; no router and no worker do, so calls end in 202. Which broker it is
makes no difference here, so it is always the embedded one.
"""

import asyncio
import json
from itertools import chain, product
from pathlib import Path

import aiohttp
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from inferlane.runtime.api_keys import Scope
from tests.support.running_api import SHORT_WAITS, running_api

pytestmark = pytest.mark.timeout(600)

EXAMPLES = 15
TIMEOUT_S = 60.0
# A server that is up may still say, truthfully, that a part behind it does not answer in time.
TRUTHFUL_5XX = {503}


def attack(url: str, key: str) -> dict[str, set[int]]:
    """Call every operation of the document with drawn arguments; return the statuses of each."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    return {operation.label: statuses_of(operation, key) for operation in operations}


def statuses_of(operation: schemathesis.APIOperation, key: str) -> set[int]:
    """Call one operation; fail on a 5xx that is not true, and on an error that says nothing."""
    statuses: set[int] = set()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def call(case: schemathesis.Case) -> None:
        answer = case.call(headers={"authorization": f"Bearer {key}"}, timeout=TIMEOUT_S)
        statuses.add(answer.status_code)
        if operation.path.startswith("/v2"):
            check_protocol_error(answer)
        elif answer.status_code >= 500:
            assert answer.status_code in TRUTHFUL_5XX, answer.text
            assert answer.json()["retryable"], answer.text
        elif answer.status_code >= 400:
            assert answer.json()["detail"], answer.text

    call()
    return statuses


def check_protocol_error(answer: schemathesis.Response) -> None:
    """A call of the Open Inference Protocol has no 202: it ends 504 where nobody answers in time."""
    if answer.status_code == 504:
        assert answer.headers["location"][0].startswith("/v1/predictions/"), answer.text
    elif answer.status_code >= 500:
        assert answer.status_code in TRUTHFUL_5XX, answer.text
    if answer.status_code >= 400:
        assert list(answer.json()) == ["error"], answer.text


async def test_no_call_that_the_document_allows_is_a_5xx(tmp_path: Path) -> None:
    """Guards every check of the API's input; fails, for one, when `_on_invalid` or `UNDECODABLE` is taken out."""
    async with running_api(tmp_path, scopes={"tester": Scope.ADMIN}, **SHORT_WAITS) as api:
        statuses = await asyncio.to_thread(attack, api.url, api.keys["tester"])
    assert {"POST /v1/models/predict", "POST /v1/traffic-split", "GET /v1/predictions/{request_id}"} <= statuses.keys()
    assert all(statuses.values()), statuses
    assert 401 not in set().union(*statuses.values())
    # The drawn calls get past the first check, too.
    assert statuses["POST /v1/models/predict"] & {422, 202}, statuses
    assert statuses["POST /v2/models/{model}/infer"] & {422, 504}, statuses


DEEP = 100_000


async def test_nested_or_swollen_json_is_a_problem_document(tmp_path: Path) -> None:
    """Guards `RecursionError` in `UNDECODABLE` and `_refuse_over`; fails (500) when the first is taken out."""
    bodies = {
        "deep array": b'{"instances": ' + b"[" * DEEP + b"]" * DEEP + b"}",
        "deep object": b'{"instances": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
        "deep elsewhere": b'{"weights": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
        "unclosed": b"[" * DEEP,
        "a million rows": b'{"instances": [' + b"[]," * 1_000_000 + b"[]]}",
        "a huge number": b'{"instances": [[' + b"9" * DEEP + b",0,0]]}",
        "a huge weight": b'{"v1": ' + b"9" * DEEP + b"}",
        "a lone surrogate": b'{"routing_key": "\\ud800", "instances": [[0, 0, 0]]}',
        "not utf-8": b'{"model": "\xff", "instances": [[0, 0, 0]]}',
    }
    head = b'{"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 3], "data": '
    tensors = {
        "deep data": head + b"[" * DEEP + b"]" * DEEP + b"}]}",
        "unclosed data": head + b"[" * DEEP,
        "a million values": head + b"[" + b"0," * 1_000_000 + b"0]}]}",
        "a million lists": head + b"[" + b"[]," * 1_000_000 + b"[]]}]}",
        "a huge value": head + b"[0,0," + b"9" * DEEP + b"]}]}",
        "a huge shape": head.replace(b"[1, 3]", b"[9223372036854775807, 3]") + b"[]}]}",
        "a million axes": head.replace(b"[1, 3]", b"[1" + b",1" * 1_000_000 + b"]") + b"[]}]}",
        "a million outputs": head + b'[0,0,0]}], "outputs": [' + b'{"name": "a"},' * 500_000 + b'{"name": "b"}]}',
    }
    async with (
        running_api(tmp_path, scopes={"tester": Scope.ADMIN}, **SHORT_WAITS) as api,
        aiohttp.ClientSession(headers={"authorization": f"Bearer {api.keys['tester']}"}) as session,
    ):
        headers = {"content-type": "application/json"}
        paths = {"/v1/models/predict": bodies, "/v1/traffic-split": bodies, "/v2/models/tiny/infer": bodies | tensors}
        for path, (name, body) in chain.from_iterable(product([path], paths[path].items()) for path in paths):
            async with session.post(api.url + path, data=body, headers=headers) as answer:
                text = await answer.text()
                assert 400 <= answer.status < 500, (path, name, text[:300])
                assert json.loads(text)["error" if path.startswith("/v2") else "detail"], (path, name)
        async with session.get(api.url + "/openapi.json") as answer:
            document = await answer.json()
    assert document["components"]["securitySchemes"]["apiKey"]["scheme"] == "bearer"
    assert document["paths"]["/v1/traffic-split"]["post"]["security"] == [{"apiKey": ["admin"]}]
    assert document["paths"]["/v1/models/predict"]["post"]["security"] == [{"apiKey": ["predict"]}]
    assert "security" not in document["paths"]["/livez"]["get"]
