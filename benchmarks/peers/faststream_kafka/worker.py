"""The worker: a FastStream batch subscriber that runs what a poll brought at once and answers as a batch."""

import os
from typing import Any

import numpy as np
import onnxruntime
from faststream import FastStream
from faststream.kafka import KafkaBroker

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
FETCH_WAIT_MS = int(os.environ["BENCH_FETCH_WAIT_MS"])
# The answers to a poll go as one batch, which may be larger than the 16 KiB of the default.
broker = KafkaBroker(os.environ["BENCH_KAFKA"], max_batch_size=1024 * 1024)
app = FastStream(broker)


@broker.subscriber(
    "requests", batch=True, group_id="workers", auto_offset_reset="earliest", fetch_max_wait_ms=FETCH_WAIT_MS
)
async def infer(asked: list[dict[str, Any]]) -> None:
    rows = np.array([row for one in asked for row in one["instances"]], dtype=np.float32)
    labels, probabilities = session.run(None, {"input": rows})
    answers, start = [], 0
    for one in asked:
        end = start + len(one["instances"])
        found = {"labels": labels[start:end].tolist(), "probabilities": probabilities[start:end].tolist()}
        answers.append({"id": one["id"], **found})
        start = end
    await broker.publish_batch(*answers, topic="replies")
