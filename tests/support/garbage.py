"""Records that no process of ours writes: bytes of any kind, and records of ours with changed or missing parts."""

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from inferlane.contracts.naming import CALLBACK_STAGES, Lane, Names
from inferlane.contracts.rollout import Action, Phase

_ODD = [
    "null",
    "true",
    "-1",
    "0",
    "2147483648",
    "281474976710656",
    "9007199254740992",
    "9223372036854775808",
    "1e308",
    "-1e308",
    "5e-324",
    "1e400",
    '""',
    '"\\u0000"',
    '"\\ud800"',
    "[]",
    "{}",
    "[[[[]]]]",
    '{"a":{"b":[1]}}',
    '"v1"',
    '"stepping"',
    '"NaN"',
]
_RAW = (
    b"",
    b"\x00",
    b"{",
    b"[]",
    b"null",
    b"{}",
    b"[" * 5_000,
    b'{"a":' * 2_000,
    b"\xff\xfe{}",
    b'"' + b"a" * 100_000 + b'"',
)
_KEYS = (b"", b"\xff\xfe", b"digits", b"command/", b"command/x", b"x" * 5_000, b"garbage/v1", b"a/b/c")
_TEXTS = (
    None,
    b"",
    b"\xff",
    b"-1",
    b"9" * 4_300,
    b"9999-12-31T23:59:59Z",
    b"0001-01-01T00:00:00Z",
    b"x" * 5_000,
    b"nan",
)
_DIGEST = "sha256:" + "0" * 64
_CALLBACK = {
    "ce_specversion": b"1.0",
    "ce_type": b"io.inferlane.callback.v1",
    "ce_id": b"garbage",
    "ce_callbackid": b"garbage-1",
    "ce_source": b"garbage",
    "ce_model": b"digits",
    "ce_modelversion": b"v1",
    "ce_time": b"2026-11-26T00:00:00Z",
    "ce_callbackurl": b"https://127.0.0.1:1/garbage",
}
_MORE_HEADERS = [
    "ce_tries",
    "ce_firsttried",
    "ce_due",
    "ce_deadline",
    "ce_rollout",
    "ce_attempt",
    "traceparent",
    "ce_replyto",
    "ce_fallback",
    "ce_shadow",
]


@dataclass(frozen=True, kw_only=True)
class GarbageRecord:
    topic: str
    key: bytes
    value: bytes | None
    headers: Sequence[tuple[str, Any]]


class Garbage:
    """Makes such records for every topic of a stack that serves `versions`; the same ones for the same seed."""

    def __init__(self, names: Names, versions: Sequence[tuple[str, str]], *, seed: int) -> None:
        self._names = names
        self._random = random.Random(seed)
        self._makers: dict[str, Callable[[], tuple[bytes, dict[str, Any]]]] = {
            names.catalog: self._catalog,
            names.rollouts: self._rollout,
            names.splits: self._split,
            names.outcomes: self._summary,
            names.feedback: lambda: (b"", {"token": "a.b.c", "label": "x", "reward": 1.0}),
        }
        self.topics = (
            *self._makers,
            *names.ingress.values(),
            names.results,
            names.dead_letters,
            names.callbacks,
            *(names.callback_retries(stage) for stage in range(1, CALLBACK_STAGES + 1)),
            *(names.work_topic(*version, lane) for version in versions for lane in Lane),
        )

    def records(self, count: int) -> list[GarbageRecord]:
        """Return `count` records for each topic."""
        return [self._record(topic) for topic in self.topics for _ in range(count)]

    def _record(self, topic: str) -> GarbageRecord:
        make = self._makers.get(topic)
        if make is None or self._random.random() < 0.2:
            value = self._random.choice((None, self._random.randbytes(200), *_RAW))
            return GarbageRecord(topic=topic, key=self._random.choice(_KEYS), value=value, headers=self._headers())
        key, about = make()
        changed: Any = about
        for _ in range(self._random.randrange(3)):
            changed = self._changed(changed)
        raw = json.dumps(changed)
        for number, odd in enumerate(_ODD):
            raw = raw.replace(f'"<odd {number}>"', odd)
        return GarbageRecord(topic=topic, key=key, value=raw.encode(), headers=[])

    def _changed(self, value: Any) -> Any:
        draw = self._random
        if isinstance(value, dict) and value and draw.random() < 0.85:
            name = draw.choice(list(value))
            how = draw.random()
            if how < 0.1:
                return {other: kept for other, kept in value.items() if other != name}
            if how < 0.2:
                return value | {name * 50: self._odd()}
            return value | {name: self._changed(value[name])}
        if isinstance(value, list) and value and draw.random() < 0.7:
            at = draw.randrange(len(value))
            return [*value[:at], self._changed(value[at]), *value[at + 1 :]]
        return self._odd()

    def _odd(self) -> str:
        # In its place until it is written: some of them are JSON that Python cannot write.
        return f"<odd {self._random.randrange(len(_ODD))}>"

    def _headers(self) -> list[tuple[str, Any]]:
        headers: list[tuple[str, Any]] = list(_CALLBACK.items())
        headers += [
            (self._random.choice([*_CALLBACK, *_MORE_HEADERS]), self._random.choice(_TEXTS))
            for _ in range(self._random.randrange(4))
        ]
        del headers[self._random.randrange(len(headers))]
        return headers

    def _catalog(self) -> tuple[bytes, dict[str, Any]]:
        # One version, or each would get a pool.
        tensors = [{"name": "x", "datatype": "FP32", "shape": [-1, 4], "allow_nan": False}]
        manifest = {"digest": _DIGEST, "size_bytes": 1, "quantization": "none", "inputs": tensors, "outputs": tensors}
        return b"garbage/v1", {
            "model": "garbage",
            "version": "v1",
            "state": self._random.choice(("serving", "retiring", "retired")),
            "digest": _DIGEST,
            "location": "/nowhere",
            "generation": int(time.time() * 1_000),
            "default_since": 0,
            "classes": [],
            "manifest": manifest,
            "changed_s": 1.0,
        }

    def _rollout(self) -> tuple[bytes, dict[str, Any]]:
        spec = {"model": "digits", "candidate": "v2-quantized", "stable": "v1", "steps": [{"weight": 0.5}]}
        name = f"garbage-{self._random.randrange(30)}"
        if self._random.random() < 0.4:
            action = self._random.choice(list(Action)).value
            return f"command/{name}".encode(), {"id": name, "rollout": name, "action": action, "spec": spec}
        return name.encode(), {
            "id": name,
            "spec": spec,
            "phase": self._random.choice(list(Phase)).value,
            "generation": 1,
            "revision": 1,
            "step": 0,
            "paused_from": None,
            "evidence": {"through_slot": 5, "numbers": {}},
            "events": [],
        }

    def _split(self) -> tuple[bytes, dict[str, Any]]:
        return b"digits", {
            "model": "digits",
            "weights": {"v1": 0.5, "v2-quantized": 0.5},
            "lane_weights": {"bulk": {"v1": 1.0}},
            "generation": 0,
            "shadow": {"version": "v1", "share": 0.5},
            "fallback": "v1",
        }

    def _summary(self) -> tuple[bytes, dict[str, Any]]:
        now_s = time.time()
        lane = {"rollout": "garbage-1", "lane": "requests", "requests": 5, "failed": 1, "runs": {"5": 2}, "buckets": ""}
        return b"digits/v1", {
            "schema": 2,
            "model": "digits",
            "version": "v1",
            "worker_id": f"garbage-{self._random.randrange(3)}",
            "sequence": self._random.randrange(1_000),
            "from_s": now_s - 1,
            "to_s": now_s,
            "outcomes": {"SUCCEEDED": 3},
            "failures": {"x": 1},
            "latency": {},
            "classes": {"0": 3},
            "values": "",
            "lanes": [lane],
        }
