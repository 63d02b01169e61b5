"""What a version under trial costs a request: in the router, in the worker that answers, in the one that compares."""

import json
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.cases import Case
from benchmarks.steps import Step, request_record, timed
from inferlane.contracts.fallback import is_overdue
from inferlane.contracts.naming import Lane, Names
from inferlane.contracts.record import FALLBACK, ROLLOUT, SHADOW, SHADOW_OF, SHADOW_RUN, read_headers
from inferlane.contracts.shadow import Answer, answer_of, classes_digest, copy_record
from inferlane.contracts.traffic_split import Shadow, Split
from inferlane.contracts.wire.v1 import decode_instances
from models.store_reader import load_catalog
from router.routing import Route, deciding_split, fallback_of, shadow_of
from tests.support.fakes.records import FakeRecord
from workers.batching import run_batch, stack
from workers.model import OnnxModel
from workers.request_reader import RequestReader
from workers.row_comparison import compare_all, labels_of

# As many as a worker sends in one write.
_COPIES = 64
_TRIAL_HEADERS = frozenset({ROLLOUT, FALLBACK, SHADOW, SHADOW_OF, SHADOW_RUN})


def time_trials(case: Case) -> tuple[Step, ...]:
    """Each step that a trial adds to a request, of one row."""
    return tuple(_steps(case))


def trials_to_markdown(steps: Sequence[Step]) -> str:
    """A table of the steps."""
    lines = ["| who pays | for what | CPU µs |", "|---|---|---:|"]
    return "\n".join([*lines, *(f"| {step.hop} | {step.step} | {step.cpu_us:.2f} |" for step in steps)]) + "\n"


def _steps(case: Case) -> Iterator[Step]:
    model = load_catalog(case.models_dir, default_model=case.model).model()
    version = model.version(model.default_version)
    tensors = decode_instances(
        json.dumps([[float(str(number)) for number in case.rows[0]]]).encode(), version.signature
    )
    payload, plain = request_record(case.model, tensors, request_id="0" * 32, now_s=1.0)
    record = FakeRecord(value=payload, headers=tuple(plain))
    headers = read_headers(record)
    chosen = Route(case.model, version.version)
    no_splits: dict[str, Split] = {}
    named = dict(plain)

    def nothing_asked(splits: dict[str, Split]) -> None:
        split = deciding_split(headers, chosen, splits)
        if split is not None:
            fallback_of(chosen, split)
            shadow_of(headers, chosen, split)

    yield timed("every request", "headers that are not there, router and worker", lambda: _look_up(named, times=2))
    yield timed("every request", "no split, in the router", lambda: nothing_asked(no_splits))
    yield timed(
        "every request",
        "not overdue, in the worker",
        lambda: headers.fallback is not None and is_overdue(headers, now_s=1.0),
    )
    shadowed = {
        case.model: Split(
            model=case.model, weights={version.version: 1.0}, fallback="v0", shadow=Shadow(version="v0", share=0.1)
        )
    }
    yield timed("with a fallback and a shadow", "the split, in the router", lambda: nothing_asked(shadowed))
    marked = FakeRecord(value=payload, headers=(*plain, (SHADOW, b"v0")))
    reader = RequestReader(version)
    ((request,), _) = reader.read([marked], Lane.REQUESTS)
    session = OnnxModel(version, intra_op_num_threads=1)
    (inferred,) = run_batch(session.run, [request])
    outputs = inferred.outputs
    assert outputs is not None  # noqa: S101 - the model serves its own example
    label_output = version.label_output

    def copy() -> FakeRecord:
        answer = _answer(outputs, label_output, version.classes)
        made = copy_record(marked, request.headers, answer, answered_by=version.version, names=Names(), deadline_s=60.0)
        return FakeRecord(value=made.value, headers=tuple(made.headers))

    yield timed("a copy", "made, in the worker that answers", copy)
    copied = copy()
    yield timed("a copy", "decoded, in the worker that compares", lambda: reader.read([copied], Lane.BULK))
    block = stack([request] * _COPIES)
    yield timed("a copy", f"inferred, {_COPIES} at once", lambda: session.run(block), share=_COPIES)

    def compare() -> None:
        pairs = [(answer, outputs) for _ in range(_COPIES) if (answer := answer_of(copied)) is not None]
        compare_all(pairs, label_output=label_output, classes=version.classes)

    yield timed("a copy", f"compared, {_COPIES} at once", compare, share=_COPIES)


def _look_up(named: dict[str, bytes], *, times: int) -> None:
    for _ in range(times):
        named.keys().isdisjoint(_TRIAL_HEADERS)


def _answer(outputs: dict[str, np.ndarray], label_output: str | None, classes: Sequence[str]) -> Answer:
    labels = labels_of(outputs, label_output, classes)
    return Answer(
        outputs=outputs,
        row_time_s=0.001,
        labels=None if labels is None else tuple(labels),
        classes_digest=classes_digest(classes),
    )
