"""What schemathesis does like a client of ours: keys of its own, time to be answered, tensors that fit the model.

It draws one key for many bodies, which is 422 as the draft of the header wants, and deadlines of nothing, which end
504. A call that is to be refused stays as it was drawn.
"""

import uuid
from typing import Any

import schemathesis

_HEADER = "Idempotency-Key"
_DEADLINE_S = 60.0
# The sample models: how many numbers a row has, and the outputs, of which only the second has a score for each class.
_WIDTHS = {"iris": 4, "digits": 64}
_OUTPUTS = ("label", "probabilities")
_TIMES = frozenset({"timeout_s", "deadline_s", "timeout"})


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: dict[str, Any]) -> None:
    """Give a call that is to be accepted a key that no other has, and a deadline that can be met."""
    if case.meta is None or case.meta.generation.mode is not schemathesis.GenerationMode.POSITIVE:
        return
    if _HEADER in (case.headers or {}):
        case.headers[_HEADER] = uuid.uuid4().hex
    if isinstance(case.body, dict) and "deadline_s" in case.body:
        case.body["deadline_s"] = max(_DEADLINE_S, case.body["deadline_s"] or _DEADLINE_S)
    if case.path == "/v1/rollouts" and isinstance(case.body, dict):
        # That weights rise and that two versions differ is more than a schema can say; and none is to begin here.
        case.body["candidate"] = "no-such-version"
    if case.path.endswith("/infer") and isinstance(case.body, dict):
        _make_fitting(case)


def _make_fitting(case: Any) -> None:
    """Let an infer call hold what no schema can ask for: tensors of its model, and one deadline that can be met."""
    if case.headers is not None:
        case.headers.pop("Inference-Header-Content-Length", None)
    width = _WIDTHS[case.path_parameters["model"]]
    case.body["inputs"] = [{"name": "input", "shape": [1, width], "datatype": "FP32", "data": [0.5] * width}]
    for name, output in zip(_OUTPUTS, case.body.get("outputs") or (), strict=False):
        output["name"] = name
        if name == "label" and output.get("parameters"):
            output["parameters"].pop("classification", None)
    if case.body.get("outputs"):
        case.body["outputs"] = case.body["outputs"][: len(_OUTPUTS)]
    if case.body.get("parameters"):
        given = {name: value for name, value in case.body["parameters"].items() if name not in _TIMES}
        case.body["parameters"] = given | {"timeout_s": _DEADLINE_S}
