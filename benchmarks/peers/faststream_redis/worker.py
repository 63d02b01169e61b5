"""The worker: runs what a poll brought at once, and answers all of it with one message on a channel of Redis."""

import os
from typing import Any

import msgspec
import numpy as np
import onnxruntime
from faststream import FastStream
from faststream.kafka import KafkaBroker
from redis.asyncio import Redis

CHANNEL = "replies"
FETCH_WAIT_MS = int(os.environ["BENCH_FETCH_WAIT_MS"])
# Each record is the id of its request and the body as it came.
ID_BYTES = 32

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
# No log line a batch and no validation of what the gateway wrote.
broker = KafkaBroker(os.environ["BENCH_KAFKA"], logger=None, apply_types=False)
redis = Redis.from_url(os.environ["BENCH_REDIS"])
app = FastStream(broker)
decode = msgspec.json.Decoder(dict[str, list[list[float]]]).decode


async def as_it_came(message: Any) -> Any:
    return message.body


@broker.subscriber(
    "requests",
    batch=True,
    group_id="workers",
    auto_offset_reset="earliest",
    fetch_max_wait_ms=FETCH_WAIT_MS,
    decoder=as_it_came,
)
async def infer(records: list[bytes]) -> None:
    ids = [record[:ID_BYTES].decode() for record in records]
    asked = [decode(record[ID_BYTES:])["instances"] for record in records]
    rows = np.array([row for instances in asked for row in instances], dtype=np.float32)
    labels, probabilities = session.run(None, {"input": rows})
    answers: dict[str, Any] = {}
    start = 0
    for request_id, instances in zip(ids, asked, strict=True):
        end = start + len(instances)
        answers[request_id] = {
            "labels": labels[start:end].tolist(),
            "probabilities": probabilities[start:end].tolist(),
        }
        start = end
    await redis.publish(CHANNEL, msgspec.json.encode(answers))
