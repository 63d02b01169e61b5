"""Whose a request is: what binds an id to the one who made it, so that the same id from elsewhere is another request.

An id alone proves nothing: whoever reads it may produce a record with it. So the API's ids are commitments. The API
draws a secret of 128 bits, the *proof*; the id is a digest of proof, source, caller, model and payload. The proof
travels on the record alone, never on a result. Only a record with the proof and those very contents has the id for its
own; any other record that names the id is a foreign one.

A foreign record is known by what it says its source is, by its id, and by its payload: `(source, id, payload)`.
"""

import os
import re
from hashlib import sha256

_ID_CHARS = 32
_PROOF_BYTES = 16
# Asking the system costs as much for many as for one.
_DRAWN_AT_ONCE = 256
_drawn: list[bytes] = []
# A process that is forked must not use the secrets of the other.
os.register_at_fork(after_in_child=_drawn.clear)
# A UUID of version 8, written without dashes. Source: RFC 9562, section 5.8. The version leaves its contents to us, so
# that nobody else's generator makes one, and an id tells by its shape whether the API made it.
_OWN_ID = re.compile(r"[0-9a-f]{12}8[0-9a-f]{3}8[0-9a-f]{15}")
# No id of the API begins with it, so that a foreign key is never taken for one.
FOREIGN = "~"
UNKNOWN_KEY = FOREIGN
"""The key of headers whose identity nobody has looked at: it is no request's."""


def make_proof() -> bytes:
    """A secret for one request, as the header's text. Safe for threads."""
    while True:
        try:
            # One step, which no other thread can be in the middle of.
            return _drawn.pop()
        except IndexError:
            text = os.urandom(_PROOF_BYTES * _DRAWN_AT_ONCE).hex().encode()
            chars = 2 * _PROOF_BYTES
            _drawn.extend(text[start : start + chars] for start in range(0, len(text), chars))


def committed_id(proof: bytes, *, source: bytes, caller: bytes, model: bytes, payload: bytes) -> str:
    """The id of a request of the API: 120 bits that nobody can hit who does not know the proof."""
    # Each part with its length, so that no two requests are the same bytes. The payload may be large: it is not copied.
    digest = sha256(b"%d %b %d %b %d %b %b " % (len(source), source, len(caller), caller, len(model), model, proof))
    digest.update(payload)
    raw = digest.hexdigest()
    return f"{raw[:12]}8{raw[12:15]}8{raw[15:30]}"


def is_own_id(request_id: str) -> bool:
    """Whether the id has the shape of those that the API makes."""
    return _OWN_ID.fullmatch(request_id) is not None


def foreign_name(source: bytes, request_id: str) -> str:
    """What a foreign producer asks by: its source and its id."""
    return FOREIGN + _digest(b"%d %b %b" % (len(source), source, request_id.encode()))


def foreign_key(source: bytes, request_id: str, payload: bytes) -> str:
    """What a foreign request's result is kept under: its name, and what tells two payloads of one name apart."""
    return foreign_name(source, request_id) + FOREIGN + _digest(payload)


def name_of(key: str) -> str:
    """The name in a foreign key."""
    return key.rpartition(FOREIGN)[0]


def default_id(place: bytes, key: bytes, payload: bytes) -> str:
    """The id of a record that has none: the same at each delivery, and not told by the record's position alone."""
    digest = sha256(b"%d %b %d %b " % (len(place), place, len(key), key))
    digest.update(payload)
    return digest.hexdigest()[:_ID_CHARS]


def _digest(raw: bytes) -> str:
    return sha256(raw).hexdigest()[:_ID_CHARS]
