"""The identity of a request: its id is bound to its sender, so the same id from another sender is another request.

An id alone proves nothing: whoever reads it may produce a record with it. So the API's ids are commitments. The API
draws a secret of 128 bits, the *proof*; the id is a digest of proof, source, caller, model and payload. The proof
is on the record alone, never on a result. Only a record with the proof and exactly these contents owns the id; any
other record that names the id is a foreign one.

A foreign record is identified by its claimed source, its id and its payload: `(source, id, payload)`.
"""

import os
import re
from hashlib import sha256

_ID_CHARS = 32
_PROOF_BYTES = 16
PROOF_CHARS = 2 * _PROOF_BYTES
"""The length of a proof; a header of another length is none."""
# The secrets that are drawn at once: a system call costs as much for many bytes as for few.
_DRAWN_AT_ONCE = 256
_drawn: list[bytes] = []
# A forked process must not use the secrets of its parent.
os.register_at_fork(after_in_child=_drawn.clear)
# A UUID of version 8, written without dashes. Source: RFC 9562, section 5.8. Its contents are free, so no ordinary
# generator makes one, and the shape of an id tells whether the API made it.
_OWN_ID = re.compile(r"[0-9a-f]{12}8[0-9a-f]{3}8[0-9a-f]{15}")
# No id of the API begins with it, so a foreign key is never mistaken for an id.
FOREIGN = "~"
UNKNOWN_KEY = FOREIGN
"""The key of headers whose sender was not identified: no request has this key."""


def make_proof() -> bytes:
    """Return a secret for one request, as the header's text. Safe for threads."""
    while True:
        try:
            # `pop` is atomic: no two threads get the same secret.
            return _drawn.pop()
        except IndexError:
            text = os.urandom(_PROOF_BYTES * _DRAWN_AT_ONCE).hex().encode()
            _drawn.extend(text[start : start + PROOF_CHARS] for start in range(0, len(text), PROOF_CHARS))


def committed_id(proof: bytes, *, source: bytes, caller: bytes, model: bytes, payload: bytes) -> str:
    """Return the id of a request of the API: 120 bits that nobody can guess without the proof."""
    # Each part is hashed with its length, so no two requests give the same bytes. A large payload is not copied.
    digest = sha256(b"%d %b %d %b %d %b %b " % (len(source), source, len(caller), caller, len(model), model, proof))
    digest.update(payload)
    raw = digest.hexdigest()
    return f"{raw[:12]}8{raw[12:15]}8{raw[15:30]}"


def is_own_id(request_id: str) -> bool:
    """Return whether the id has the shape of an id that the API made."""
    return _OWN_ID.fullmatch(request_id) is not None


def foreign_name(source: bytes, request_id: str) -> str:
    """Return the name by which a foreign producer asks for its result: its source and its id."""
    return FOREIGN + _digest(b"%d %b %b" % (len(source), source, request_id.encode()))


def foreign_key(source: bytes, request_id: str, payload: bytes) -> str:
    """Return the store's key of a foreign request's result: its name, and a digest that tells payloads apart."""
    return foreign_name(source, request_id) + FOREIGN + _digest(payload)


def name_of(key: str) -> str:
    """Return the name in a foreign key."""
    return key.rpartition(FOREIGN)[0]


def default_id(place: bytes, key: bytes, payload: bytes) -> str:
    """The id of a record that has none: the same at each delivery, and not told by the record's position alone."""
    digest = sha256(b"%d %b %d %b " % (len(place), place, len(key), key))
    digest.update(payload)
    return digest.hexdigest()[:_ID_CHARS]


def _digest(raw: bytes) -> str:
    return sha256(raw).hexdigest()[:_ID_CHARS]
