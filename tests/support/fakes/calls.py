"""A checked predict call, as a reader would return it."""

from producer_api.predict.call import Call

CALL = Call(
    request_id="id",
    proof=b"p" * 16,
    caller="",
    model="iris",
    version=None,
    routing_key=None,
    payload=b"{}",
    json_length=2,
    wait_s=30.0,
    wait_until_s=30.0,
    accepted_s=0.0,
    deadline_s=60.0,
)
