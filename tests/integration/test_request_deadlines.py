"""A call that waits longer than the deadline of its request is answered at the deadline, whichever call it is."""

import asyncio
from pathlib import Path

import pytest

from tests.support.running_api import CALL, running_api

pytestmark = pytest.mark.timeout(180)

# The calls ask to wait this long. The limit is shorter, so a call that waits out its own time fails the test.
WAIT_S = 50.0
LIMIT_S = 30.0
HURRIED = {**CALL, "timeout_s": WAIT_S, "deadline_s": 2.0}


async def test_a_read_of_a_result_may_wait_as_long_as_a_call(tmp_path: Path) -> None:
    async with running_api(tmp_path, max_wait_s=120.0) as api:
        document = await (await api.session.get(f"{api.url}/openapi.json")).json()
        parameters = document["paths"]["/v1/predictions/{request_id}"]["get"]["parameters"]
        (longest_s,) = (each["schema"]["maximum"] for each in parameters if each["name"] == "wait_s")
        assert longest_s == 120.0
        # Nobody knows the request, so neither call waits.
        status, _ = await api.call("GET", f"/v1/predictions/unknown?wait_s={longest_s}")
        assert status == 404
        for wait_s, said in ((longest_s + 1, "wait_s is 121.0; it must be between 0 and 120.0 seconds"), (-1, "")):
            status, problem = await api.call("GET", f"/v1/predictions/unknown?wait_s={wait_s}")
            assert (status, said in problem["detail"]) == (422, True)


async def test_every_waiting_call_is_answered_at_the_deadline(tmp_path: Path) -> None:
    """Guards `ResultWaits.until` in each of its callers: taken out, its client waits for all of its 50 s."""
    async with running_api(tmp_path) as api:

        async def predict(**headers: str) -> tuple[int, dict[str, object]]:
            return await api.call("POST", "/v1/models/predict", HURRIED, **headers)

        status, accepted = await predict(Prefer="respond-async")
        assert status == 202
        async with asyncio.timeout(LIMIT_S):
            first, keyed, joining, read = await asyncio.gather(
                predict(),
                predict(Idempotency_Key="one"),
                predict(Idempotency_Key="one"),
                api.call("GET", f"/v1/predictions/{accepted['request_id']}?wait_s={WAIT_S}"),
            )
        assert [status for status, _ in (first, keyed, joining)] == [504] * 3
        assert {body["code"] for _, body in (first, keyed, joining)} == {"deadline_exceeded"}
        assert keyed[1]["request_id"] == joining[1]["request_id"]
        assert read[0] == 200
        assert read[1]["status"] == "EXPIRED"
