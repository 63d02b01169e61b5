"""Sends the requests of a workload and records every outcome."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from .api import JSON_HEADERS, OK
from .documents import Prediction, Problem
from .statistics import Answer

if TYPE_CHECKING:
    from .api import Api
    from .consistency import Consistency
    from .statistics import Tally
    from .workload import Workload

UNDECODABLE = "undecodable_body"


class Sender:
    """Has the signature of `arrivals.Send`: what becomes of a request goes to the tally, and nothing is raised."""

    def __init__(self, api: Api, workload: Workload, tally: Tally, consistency: Consistency | None = None) -> None:
        self._api = api
        self._url = f"{api.url}/v1/models/predict"
        self._workload = workload
        self._tally = tally
        self._consistency = consistency

    async def __call__(self, index: int, due_s: float) -> None:
        sent_s = time.perf_counter()
        self._tally.count_sent(due_s=due_s, sent_s=sent_s)
        try:
            async with self._api.session.post(
                self._url, data=self._workload.body(index), headers=JSON_HEADERS
            ) as response:
                raw, status = await response.read(), response.status
        except TimeoutError:
            done_s, answer = time.perf_counter(), Answer(status="timeout")
        except (aiohttp.ClientError, OSError) as error:
            done_s, answer = time.perf_counter(), Answer(status=type(error).__name__)
        else:
            # The time of the last byte: decoding is the client's work.
            done_s, answer = time.perf_counter(), self._read(index, status, raw)
        self._tally.count_answer(answer, due_s=due_s, sent_s=sent_s, done_s=done_s)

    def _read(self, index: int, status: int, raw: bytes) -> Answer:
        try:
            if status == OK:
                return self._read_prediction(index, msgspec.json.decode(raw, type=Prediction))
            # A 202 is no problem document: it has a status of its own and no code.
            code = "" if status < HTTPStatus.BAD_REQUEST else msgspec.json.decode(raw, type=Problem).code
            return Answer(status=str(status), code=code)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Answer(status=str(status), code=UNDECODABLE)

    def _read_prediction(self, index: int, prediction: Prediction) -> Answer:
        if self._consistency is not None:
            key, number = self._workload.routing_key(index), self._workload.body_number(index)
            self._consistency.observe(prediction, body_number=number, routing_key=key)
        return Answer(status=str(OK), version=prediction.version)
