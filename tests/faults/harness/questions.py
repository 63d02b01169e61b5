"""What is asked, what comes back, and the model run directly, which says what is right."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np
import onnxruntime

from inferlane.contracts.results import CANCELLED, Status
from models.catalog import Model

MODEL = "iris"
VERSIONS = ("v1", "v2")
# In the catalog, and without a worker here: what is asked of it waits in its topic until it expires.
IDLE_VERSION = "v2-quantized"
# A row of these is what the workers of a fault run die of.
KILLER_VALUE = 6.6e6

# Batches of other sizes round otherwise in the last bits.
_TOLERANCE = 1e-5
# A row between two classes could be either after rounding: such a row is not asked.
_LEAST_MARGIN = 0.01
_MAX_ROWS = 3
_SHORT_SHARE = 0.1
_SHORT_DEADLINE_S = (1.0, 8.0)
_LONG_DEADLINE_S = 900.0

Rows = tuple[tuple[float, ...], ...]


class Way(StrEnum):
    """How a request comes in."""

    HTTP_WAIT = "HTTP, waiting"
    HTTP_ASYNC = "HTTP, asynchronous"
    REQUESTS = "inferlane.requests"
    BULK = "inferlane.bulk"


class Fate(StrEnum):
    """How a question may end, unless it expires or is taken back."""

    SERVED = "with the model's answer"
    REFUSED = "with a failure: nothing can serve it"
    EITHER = "either way: what serves it may be gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Rows for a model. `version` is a pin, or None where the split decides; `deadline_s` counts from acceptance."""

    rows: Rows
    version: str | None
    deadline_s: float
    fate: Fate = Fate.SERVED


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One terminal result as a client reads it, whichever way it came."""

    status: Status
    version: str
    labels: tuple[int, ...] = ()
    probabilities: tuple[tuple[float, ...], ...] = ()
    error_code: str | None = None

    def is_same(self, other: "Answer") -> bool:
        """Whether both tell a client the same, but for how a batch of another size rounds."""
        if (self.status, self.error_code) != (other.status, other.error_code):
            return False
        if self.status is not Status.SUCCEEDED:
            # A problem document does not name the version, nor does an answer that no worker gave.
            return True
        if (self.version, self.labels) != (other.version, other.labels):
            return False
        return bool(np.allclose(self.probabilities, other.probabilities, rtol=0, atol=_TOLERANCE))


class Oracle:
    """The versions of the model, run one request at a time with no queue in between."""

    def __init__(self, model: Model) -> None:
        self._classes = model.version(VERSIONS[0]).classes
        self._sessions = {
            name: onnxruntime.InferenceSession(str(model.version(name).path), providers=["CPUExecutionProvider"])
            for name in VERSIONS
        }

    def ask(self, draw: random.Random) -> Question:
        """A request that nobody asked before: distinct rows tell mixed-up answers apart."""
        rows = tuple(self._row(draw) for _ in range(draw.randint(1, _MAX_ROWS)))
        is_short = draw.random() < _SHORT_SHARE
        deadline_s = draw.uniform(*_SHORT_DEADLINE_S) if is_short else _LONG_DEADLINE_S
        return Question(rows=rows, version=draw.choice((*VERSIONS, None)), deadline_s=deadline_s)

    def right_answer(self, version: str, rows: Rows) -> Answer:
        """What the version says of these rows."""
        labels, probabilities = self._run(version, rows)
        return Answer(
            status=Status.SUCCEEDED,
            version=version,
            labels=tuple(labels.tolist()),
            probabilities=tuple(tuple(row) for row in probabilities.tolist()),
        )

    def why_wrong(self, question: Question, answer: Answer, *, may_expire: bool, is_cancelled: bool) -> str | None:
        """Why this is not an answer to the question, or None when it is."""
        if answer.status is not Status.SUCCEEDED:
            is_right = (
                (answer.status is Status.EXPIRED and may_expire)
                or (answer.error_code == CANCELLED and is_cancelled)
                or (answer.status is Status.FAILED and question.fate is not Fate.SERVED)
            )
            return None if is_right else f"{answer.status} ({answer.error_code})"
        if question.fate is Fate.REFUSED:
            return "SUCCEEDED, and nothing can serve it"
        if answer.version not in self._sessions or question.version not in (None, answer.version):
            return f"asked of {question.version}, answered by {answer.version!r}"
        right = self.right_answer(answer.version, question.rows)
        return None if answer.is_same(right) else f"{answer} where the model says {right}"

    def read_http(self, body: Mapping[str, Any]) -> Answer | None:
        """The terminal result in an answer of the API; None while it is queued."""
        status = Status(body["status"])
        if status is Status.QUEUED:
            return None
        predictions: Sequence[Any] = body.get("predictions") or ()
        return Answer(
            status=status,
            version=body["version"],
            labels=tuple(self._classes.index(prediction["label"]) for prediction in predictions),
            probabilities=tuple(tuple(prediction["probabilities"]) for prediction in predictions),
            error_code=(body.get("error") or {}).get("code"),
        )

    def read_record(self, headers: Mapping[str, bytes], value: bytes) -> Answer:
        """The terminal result in a record of `inferlane.results`, JSON as it was asked."""
        outputs = {}
        if value:
            outputs = {output["name"]: output["data"] for output in msgspec.json.decode(value)["outputs"]}
        flat, width = outputs.get("probabilities", []), len(self._classes)
        return Answer(
            status=Status(headers["ce_status"].decode()),
            version=headers["ce_modelversion"].decode(),
            labels=tuple(outputs.get("label", ())),
            probabilities=tuple(tuple(flat[start : start + width]) for start in range(0, len(flat), width)),
            error_code=headers["ce_errorcode"].decode() if "ce_errorcode" in headers else None,
        )

    def _row(self, draw: random.Random) -> tuple[float, ...]:
        while True:
            row = tuple(round(draw.uniform(0.1, 8.0), 6) for _ in range(4))
            if all(self._margin(version, row) > _LEAST_MARGIN for version in VERSIONS):
                return row

    def _margin(self, version: str, row: tuple[float, ...]) -> float:
        _, probabilities = self._run(version, (row,))
        second, first = sorted(probabilities[0].tolist())[-2:]
        return float(first - second)

    def _run(self, version: str, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        labels, probabilities = self._sessions[version].run(
            ["label", "probabilities"], {"input": np.array(rows, dtype=np.float32)}
        )
        return labels, probabilities
