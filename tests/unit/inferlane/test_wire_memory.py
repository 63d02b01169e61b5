"""However a body or a record is made, reading it takes a stated multiple of it and no more.

Each case is read in a process of its own, whose peak of resident memory is compared: what native libraries take counts.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inferlane.contracts.naming import Lane
from inferlane.contracts.record import JSON_LENGTH
from inferlane.contracts.wire.json_numbers import PEAK_CONSTANT_BYTES, PEAK_FACTOR
from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.errors import InferlaneError
from inferlane.runtime.config import load_settings
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.split_table import SplitTable
from models.catalog import Catalog, Model, ModelVersion
from producer_api.inference_protocol.infer_request import InferReader
from producer_api.predict.call import CallReader
from producer_api.predict.call_options import CallOrigin
from tests.support.decoding import decode
from tests.support.fakes.records import FakeRecord, make_version

REPOSITORY = Path(__file__).parents[3]
SIZE = 2_000_000


def spec(name: str, datatype: str, *row_shape: int) -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=(-1, *row_shape))


SIGNATURES = {
    "matrix": (spec("input", "FP32", 4),),
    "wide": (spec("input", "FP64", SIZE // 2),),
    "column": (spec("input", "FP64", 1),),
    "vector": (spec("input", "INT64"),),
    "image": (spec("input", "FP32", 64, 64),),
    "flags": (spec("input", "BOOL", 4),),
    "texts": (spec("input", "BYTES", 1),),
    "gaps": (replace(spec("input", "FP32", 4), allow_nan=True),),
    "columns of texts": (spec("country", "BYTES", 1), spec("amount", "FP32", 1)),
    "two": (spec("age", "INT64"), spec("features", "FP32", 2)),
}


def filled(piece: str) -> str:
    return ",".join([piece] * (SIZE // (len(piece) + 1)))


# What may stand in a list, where numbers should.
LISTS = {
    "one long string": '"' + "a" * SIZE + '",' + filled('""')[:360] + '""',
    "a long string of wide characters": '"' + "\\ud83d\\ude00" * (SIZE // 12) + '", ""',
    "empty strings": filled('""'),
    "short strings": filled('"é"'),
    "numbers": filled("1"),
    "fractions of zero": filled("1.0"),
    "rows of numbers": filled("[1,2,3,4]"),
    "one wide row": "[" + ",".join(["1"] * (SIZE // 2)) + "]",
    "rows of other lengths": filled("[1]"),
    "empty lists": filled("[]"),
    "empty objects": filled("{}"),
    "objects": filled('{"age":1,"features":[1,2]}'),
    "an object of many fields": "{" + ",".join(f'"{number}":0' for number in range(SIZE // 10)) + "}",
    "nulls": filled("null"),
    "booleans": filled("true"),
    "rows of booleans": filled("[true,true,true,false]"),
    "large whole numbers": filled("9" * 40),
    "one number of many digits": "9" * SIZE,
    "large exponents": filled("1e999"),
    "a lot of nesting": filled("[" * 500 + "]" * 500),
    "nesting without end": "[" * SIZE,
    "strings of two": filled('"ab"'),
    "strings of two wide characters": filled('"世界"'),
    "strings of sixteen": filled('"0123456789abcdef"'),
    "objects of columns": filled('{"country":"DE","amount":1}'),
    "rows with gaps": filled('[null,1,"NaN",1]'),
    "nothing": "",
}


def v2(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def v1(data: str) -> bytes:
    return f'{{"instances":[{data}]}}'.encode()


def tensor(data: str, datatype: str, shape: str) -> bytes:
    return f'{{"inputs":[{{"name":"input","datatype":"{datatype}","shape":{shape},"data":[{data}]}}]}}'.encode()


def binary_texts(text: str) -> bytes:
    one = len(text.encode()).to_bytes(4, "little") + text.encode()
    return one * (SIZE // len(one))


def binary_reader(version: ModelVersion, text: str) -> Callable[[bytes], object]:
    def read(raw: bytes) -> object:
        count = len(raw) // (4 + len(text.encode()))
        parameters = {"binary_data_size": len(raw)}
        header = v2(inputs=[{"name": "input", "datatype": "BYTES", "shape": [count, 1], "parameters": parameters}])
        headers = ((JSON_LENGTH, str(len(header)).encode()),)
        return decode(FakeRecord(value=header + raw, headers=headers), Lane.REQUESTS, version)

    return read


ENTRY = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
PARTS = {
    "a zero-size axis": v2(inputs=[{**ENTRY, "shape": [1_000_000_000, 0], "data": []}]),
    "a shape of all there is": v2(inputs=[{**ENTRY, "shape": [2**40, 2**20]}]),
    "a shape of many axes": v2(inputs=[{**ENTRY, "shape": [999] * (SIZE // 5)}]),
    "a shape of large numbers": v2(inputs=[{**ENTRY, "shape": [2**62] * 30}]),
    "many inputs": v2(inputs=[{"name": str(number), "datatype": "", "shape": [0]} for number in range(SIZE // 44)]),
    "one input many times": v2(inputs=[ENTRY] * (SIZE // 80)),
    "many outputs": v2(inputs=[ENTRY], outputs=[{"name": str(number)} for number in range(SIZE // 17)]),
    "nested parameters": v2(inputs=[ENTRY], parameters={"a": [[]] * (SIZE // 4)}),
    "a field of any length": v2(inputs=[ENTRY], **{"x" * SIZE: 1}),
    "a name of any length": v2(inputs=[{**ENTRY, "name": "x" * SIZE}]),
    "an id of any length": v2(inputs=[ENTRY], id="x" * SIZE),
    "a datatype of any length": v2(inputs=[{**ENTRY, "datatype": "x" * SIZE}]),
    "a model of any length": v2(inputs=[ENTRY], model="x" * SIZE),
    "a field many times": b'{"instances":[[1,2,3,4]]' + b',"model":"a"' * (SIZE // 12) + b"}",
    "a field of many names": b"{" + b'"instances":[],' * (SIZE // 15) + b'"instances":[]}',
}


def versions() -> dict[str, ModelVersion]:
    return {
        name: replace(make_version(), signature=Signature(inputs=inputs, outputs=()))
        for name, inputs in SIGNATURES.items()
    }


def record_reader(version: ModelVersion) -> Callable[[bytes], object]:
    return lambda body: decode(FakeRecord(value=body), Lane.REQUESTS, version)


def calls_of(version: ModelVersion) -> CallReader:
    model = Model(name="iris", description="", default_version="v1", versions={"v1": version})
    catalog = Catalog(models={"iris": model}, default_model="iris")
    return CallReader(
        load_settings().api,
        load_settings().kafka,
        load_settings().webhooks,
        catalog=catalog,
        splits=SplitTable(),
        clock=SystemClock(),
    )


def call_reader(version: ModelVersion) -> Callable[[bytes], object]:
    return calls_of(version).read


def infer_reader(version: ModelVersion) -> Callable[[bytes], object]:
    reader = InferReader(load_settings().api, calls_of(version))
    scope = {"path": "/v2/models/iris/infer", "headers": []}
    return lambda body: reader.read(scope, body, CallOrigin())


def cases() -> Iterator[tuple[str, Callable[[bytes], object], bytes]]:
    """What reads, and what: the record of a work topic and the call over HTTP, as V1 and as V2."""
    by_name = versions()
    for what, data in LISTS.items():
        for name in ("matrix", "column", "two"):
            yield f"record of {name}: {what}", record_reader(by_name[name]), v1(data)
        for name in ("texts", "gaps", "columns of texts"):
            yield f"call of {name}: {what}", call_reader(by_name[name]), v1(data)
        count = data.count(",") + 1
        yield f"record of texts as V2: {what}", record_reader(by_name["texts"]), tensor(data, "BYTES", f"[{count},1]")
        yield f"call of matrix: {what}", call_reader(by_name["matrix"]), v1(data)
        yield f"infer call of matrix: {what}", infer_reader(by_name["matrix"]), tensor(data, "FP32", "[1,4]")
        yield f"infer call of texts: {what}", infer_reader(by_name["texts"]), tensor(data, "BYTES", f"[{count},1]")
        for datatype, shape in (("FP64", f"[{SIZE // 2}]"), ("INT64", "[1,4]"), ("BOOL", f"[{SIZE // 5}]")):
            yield f"record with {datatype}: {what}", record_reader(by_name["matrix"]), tensor(data, datatype, shape)
    for name, what in (
        ("wide", "one wide row"),
        ("wide", "numbers"),
        ("vector", "numbers"),
        ("vector", "fractions of zero"),
        ("vector", "large whole numbers"),
        ("image", "a lot of nesting"),
        ("flags", "rows of booleans"),
    ):
        yield f"record of {name}: {what}", record_reader(by_name[name]), v1(LISTS[what])
    for text in ("", "a", "ab", "é", "abcdefghijklmnop"):
        yield f"record of texts as bytes: {text!r}", binary_reader(by_name["texts"], text), binary_texts(text)
    for what, body in PARTS.items():
        yield f"record: {what}", record_reader(by_name["matrix"]), body
        yield f"call: {what}", call_reader(by_name["matrix"]), body
        yield f"infer call: {what}", infer_reader(by_name["matrix"]), body


def peak_bytes(read: Callable[[bytes], object], body: bytes) -> tuple[int, str]:
    """What reading adds to a process's memory at most, and how it ended; in a child, so that nothing is left over."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        before = resident("VmRSS")
        try:
            said = f"read {type(read(body)).__name__}"
        except InferlaneError as error:
            said = f"{type(error).__name__}: {error}"
        except BaseException as error:  # noqa: BLE001 - told to the parent, which fails for it
            said = f"CRASHED {error!r}"
        os.write(sending, f"{resident('VmHWM') - before} {said}".encode()[:60_000])
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, errors="replace") as answer:
        grown, _, said = answer.read().partition(" ")
    os.waitpid(child, 0)
    return int(grown), said


def resident(field: str) -> int:
    with open("/proc/self/status") as status:  # noqa: PTH123 - the shortest way to a figure of the kernel's
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))


def main() -> None:
    for what, read, body in cases():
        grown, said = peak_bytes(read, body)
        sys.stdout.write(json.dumps([what, len(body), grown, said[:3_000]]) + "\n")


Measured = list[tuple[str, int, int, str]]


@pytest.fixture(scope="module")
def measured() -> Measured:
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_nothing_is_built_that_is_larger_than_a_multiple_of_what_came(measured: Measured) -> None:
    """A string of 4 MB among 120 empty ones took 2 GB: numpy makes every string as wide as the longest."""
    over = [
        (what, f"{grown / size:.1f} times {size} bytes", said[:200])
        for what, size, grown, said in measured
        if grown > PEAK_FACTOR * size + PEAK_CONSTANT_BYTES
    ]
    assert over == []
    assert len(measured) > 250
    assert len([case for case in measured if "texts" in case[0] and case[3].startswith("read ")]) >= 9


def test_reading_ends_in_a_request_or_in_an_error_of_ours_of_bounded_length(measured: Measured) -> None:
    assert [case for case in measured if case[3].startswith("CRASHED")] == []
    assert [case for case in measured if len(case[3]) > 2_200] == []


def test_a_header_that_gives_the_length_of_the_json_part_is_bounded_too() -> None:
    header = v2(inputs=[{**ENTRY, "parameters": {"binary_data_size": 2**62}}])
    record = FakeRecord(value=header, headers=((JSON_LENGTH, str(len(header)).encode()),))
    with pytest.raises(InferlaneError, match="both"):
        decode(record, Lane.REQUESTS, make_version())


if __name__ == "__main__":
    main()
