"""Candidates as real ONNX models. They serve like the stable version until a row has a value over `ODD`.

So each passes the check with which a worker starts, as a model does that fails on what only clients send.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tests.support.fakes.stores import write_tiny_onnx
from tests.support.fakes.zoo import save

ODD = 1e6
_FOR_EVER = 2**62
# Rounds of a loop: hundreds of times as long as the rest of the model.
_SLOW_ROUNDS = 60_000
_node = helper.make_node


def _constant(name: str, value: object, kind: type) -> TensorProto:
    return numpy_helper.from_array(np.array(value, kind), name)


# `is_odd` is (rows, 1) bool, `alike` (rows, 3) what the stable version answers.
_COMMON: list[NodeProto] = [
    _node("ReduceMax", ["input", "last"], ["largest"], keepdims=1),
    _node("Greater", ["largest", "limit"], ["is_odd"]),
    _node("Softmax", ["input"], ["alike"]),
]
_CONSTANTS = [
    _constant("last", [1], np.int64),
    _constant("limit", ODD, np.float32),
    _constant("zero", 0.0, np.float32),
    _constant("one", 1.0, np.float32),
]


def _write(path: Path, nodes: list[NodeProto], constants: list[TensorProto]) -> None:
    save(path, [*_COMMON, *nodes], initializers=[*_CONSTANTS, *constants])


def write_good(path: Path) -> None:
    write_tiny_onnx(path)


def write_failing(path: Path) -> None:
    """Looks an odd row up where a table has none: onnxruntime fails on it."""
    nodes = [
        _node("Cast", ["is_odd"], ["odd"], to=TensorProto.INT64),
        _node("Mul", ["odd", "far"], ["index"]),
        _node("Gather", ["table", "index"], ["nothing"]),
        _node("Add", ["alike", "nothing"], ["probabilities"]),
    ]
    _write(path, nodes, [_constant("far", 99, np.int64), _constant("table", [0.0], np.float32)])


def write_nan(path: Path) -> None:
    """Divides zero by zero for an odd row."""
    nodes = [
        _node("Where", ["is_odd", "zero", "one"], ["divisor"]),
        _node("Div", ["zero", "divisor"], ["nothing"]),
        _node("Add", ["alike", "nothing"], ["probabilities"]),
    ]
    _write(path, nodes, [])


def write_different(path: Path) -> None:
    """Names the class that is the least likely."""
    nodes = [_node("Neg", ["input"], ["other"]), _node("Softmax", ["other"], ["probabilities"])]
    save(path, nodes)


def write_hanging(path: Path) -> None:
    """Goes round for an odd row until somebody ends it."""
    _write_loop(path, _FOR_EVER)


def write_slow(path: Path) -> None:
    """Takes hundreds of times as long for an odd row."""
    _write_loop(path, _SLOW_ROUNDS)


def _write_loop(path: Path, rounds: int) -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [_node("Identity", ["condition"], ["goes_on"]), _node("Identity", ["state"], ["next"])],
        "body",
        [
            value("number", TensorProto.INT64, ()),
            value("condition", TensorProto.BOOL, ()),
            value("state", TensorProto.FLOAT, (None, 3)),
        ],
        [value("goes_on", TensorProto.BOOL, ()), value("next", TensorProto.FLOAT, (None, 3))],
    )
    nodes = [
        _node("ReduceMax", ["largest"], ["largest_of_all"], keepdims=0),
        _node("Greater", ["largest_of_all", "limit"], ["has_odd"]),
        _node("Where", ["has_odd", "rounds", "once"], ["times"]),
        _node("Loop", ["times", "true", "alike"], ["probabilities"], body=body),
    ]
    constants = [
        _constant("rounds", rounds, np.int64),
        _constant("once", 1, np.int64),
        _constant("true", True, np.bool_),
    ]
    _write(path, nodes, constants)


CANDIDATES: dict[str, Callable[[Path], None]] = {
    "good": write_good,
    "fails": write_failing,
    "nan": write_nan,
    "differs": write_different,
    "hangs": write_hanging,
    "slow": write_slow,
}
