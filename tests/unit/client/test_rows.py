"""What is taken as rows, and what goes over the wire."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from inferlane_client import InvalidInput, Request, TimedOut
from tests.unit.client.conftest import Ask, Scripted, ScriptedServer

BIG = 2**53 + 1


def instances_sent(rows: Any) -> Any:
    return json.loads(Request(rows=rows).encoded())["instances"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1.5, 2], (3, 4.25)], [[1.5, 2], [3, 4.25]]),
        (({"a": n} for n in range(2)), [{"a": 0}, {"a": 1}]),
        (np.array([[1.5, 2.0]], np.float32), [[1.5, 2.0]]),
        (np.array([BIG], np.int64), [BIG]),
        (np.zeros((1, 2, 2), bool), [[[False, False], [False, False]]]),
        ([np.array([1.5, 2.5]), [np.float32(0.5), np.int8(3)]], [[1.5, 2.5], [0.5, 3]]),
        # A whole number stays one beside a column of reals, also where a real would lose its last digits.
        (pd.DataFrame({"a": [BIG, 2], "b": [0.5, 1.5]}), [[BIG, 0.5], [2, 1.5]]),
        (pd.Series([1.5, 2.5]), [1.5, 2.5]),
        (pd.DataFrame({"x": ["a", "b"]}), [["a"], ["b"]]),
        (pa.table({"a": [BIG, 2], "b": [0.5, 1.5]}), [[BIG, 0.5], [2, 1.5]]),
        (pa.RecordBatch.from_pydict({"a": [1, 2]}), [[1], [2]]),
        (pa.table({"rows": [[1.0, 2.0], [3.0, 4.0]]}), [[1.0, 2.0], [3.0, 4.0]]),
        (pd.DataFrame({"rows": [np.array([1.0, 2.0])]}), [[1.0, 2.0]]),
        (pa.chunked_array([[1, 2], [3]]), [1, 2, 3]),
        (
            {"age": np.array([30, 40]), "pixels": pd.DataFrame({"p": [0.5, 1.0], "q": [2.0, 3.0]})},
            [{"age": 30, "pixels": [0.5, 2.0]}, {"age": 40, "pixels": [1.0, 3.0]}],
        ),
        ({"age": pa.array([30]), "name": ["x"]}, [{"age": 30, "name": "x"}]),
        # Missing values, as each library has them.
        (pd.DataFrame({"a": [1.5, np.nan], "b": ["x", None]}), [[1.5, "x"], [None, None]]),
        (pd.DataFrame({"a": pd.array([BIG, None], dtype="Int64"), "b": [1, 2]}), [[BIG, 1], [None, 2]]),
        (np.array([[1.5, np.nan]], np.float32), [[1.5, None]]),
        ([{"a": np.float32("nan"), "b": (float("nan"), True)}], [{"a": None, "b": [None, True]}]),
        (pa.table({"a": [None, 1.5]}), [[None], [1.5]]),
    ],
)
def test_rows_are_sent_one_element_a_row_each_value_with_its_type(rows: Any, expected: Any) -> None:
    sent = instances_sent(rows)
    assert sent == expected
    assert json.dumps(sent) == json.dumps(expected)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([[1.0, 2.0], [3.0, -np.inf]]), r"instances\[1\]\[1\] is -inf"),
        ([{"a": 1, "b": [object()]}], r"instances\[0\]\.b\[0\] is of the type object"),
        (np.array([[1]], np.longdouble), r"instances\[0\]\[0\] is of the type longdouble"),
        (np.array([["2026-01-01"]], "M8[D]"), "of the type date"),
        (np.array(1.5), "the array has no axis"),
        ("5.1,3.5", "str holds no rows"),
        (5, "int holds no rows"),
        ({"a": [1, 2], "b": [1]}, "the columns have {'a': 2, 'b': 1} rows"),
        ({}, "the columns have {} rows"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_it_is(server: ScriptedServer, ask: Ask, rows: Any, message: str) -> None:
    server.will(Scripted(document={}))
    with pytest.raises(InvalidInput, match=message) as raised:
        ask(server.url, lambda client: client.predict(rows))
    assert (raised.value.code, raised.value.status) == ("invalid_input", None)
    assert not server.seen


def test_no_optional_library_is_imported() -> None:
    program = (
        "import sys, inferlane_client as client; client.Request(rows=[[1.5]]).encoded(); "
        "print(*{'numpy', 'pandas', 'pyarrow', 'inferlane', 'producer_api'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_what_a_request_says_of_itself_is_sent_and_nothing_else() -> None:
    options: dict[str, Any] = {
        "model": "iris",
        "version": "v1",
        "routing_key": "k",
        "deadline_s": 5,
        "callback_url": "https://a.example",
    }
    assert json.loads(Request(rows=[1], **options).encoded()) == {"instances": [1], **options}
    assert json.loads(Request(rows=[1], idempotency_key="k").encoded()) == {"instances": [1]}


def test_each_call_that_creates_a_request_takes_a_callback(server: ScriptedServer, ask: Ask) -> None:
    server.will(Scripted(status=202, document={"request_id": "r1", "status": "QUEUED"}))
    ask(server.url, lambda client: client.submit([1], callback_url="https://a.example/1"))
    with pytest.raises(TimedOut):
        ask(server.url, lambda client: client.predict([1], callback_url="https://a.example/2", timeout_s=0))
    sent = [json.loads(call.body)["callback_url"] for call in server.seen if call.body]
    assert sent == ["https://a.example/1", "https://a.example/2"]
