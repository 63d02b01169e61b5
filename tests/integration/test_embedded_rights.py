"""A broker without ACLs: the embedded one answers nothing to a request for one, and closes the connection."""

import pytest

from control_plane.broker_acls import grant_rights, rights_of_version
from inferlane.contracts.naming import Names
from inferlane.errors import UnavailableError
from tests.support.brokers.embedded import EmbeddedBroker


async def test_rights_on_a_broker_without_acls_are_refused_with_the_remedy() -> None:
    broker = EmbeddedBroker()
    broker.open()
    try:
        with pytest.raises(
            UnavailableError, match=r"asked for an ACL .* embedded broker\. Use Apache Kafka with an auth"
        ):
            await grant_rights(broker.settings().kafka, Names(), rights_of_version(Names(), ("iris", "v1")))
    finally:
        broker.close()
