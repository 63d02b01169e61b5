"""A topic that is deleted and created again while its readers go on."""

from aiokafka.admin import AIOKafkaAdminClient

from control_plane.topic_admin import create_topics
from inferlane.runtime.config import Settings
from tests.support.parts import eventually

WAIT_S = 120.0


async def recreate(settings: Settings, topic: str) -> None:
    """Delete the topic and create it again, while its readers go on."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka.bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_topics([topic])

        async def is_gone() -> bool:
            return topic not in await admin.list_topics()

        await eventually(is_gone, within_s=WAIT_S)
    finally:
        await admin.close()
    await create_topics(settings.kafka, settings.stack.names, settings.webhooks, [("iris", "v1")])
