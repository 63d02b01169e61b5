"""The settings that topics have on the broker, against those that they should have."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from inferlane.errors import ConfigurationError, clipped

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient

_POLICY, _RETENTION, _SIZE = "cleanup.policy", "retention.ms", "max.message.bytes"
# What a broker means that does not say it.
_USUAL_POLICY, _FOR_EVER_MS = "delete", -1


async def read_topic_settings(admin: "AIOKafkaAdminClient", names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the settings of each topic, but for one that the broker does not tell, for want of the right to."""
    # All of them: the embedded broker closes the connection where single ones are asked for.
    wanted = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    answers = await admin.describe_configs(wanted) if wanted else []
    return {
        name: {key: value for key, value, *_ in entries}
        for answer in answers
        for code, _, _, name, entries in answer.resources
        if not code and entries
    }


def refuse_harmful(wanted: Mapping[str, Mapping[str, str]], found: Mapping[str, Mapping[str, str]]) -> None:
    """Return if no topic has settings that lose or refuse records, by those that are wanted of each. Pure.

    A longer retention, and room for larger records, harm nobody.

    Raises:
        ConfigurationError: one has; the message names each with what it should be.
    """
    faults = {name: _faults(wanted[name], found[name]) for name in wanted.keys() & found.keys()}
    if harmful := [f"{name}: {', '.join(each)}" for name, each in sorted(faults.items()) if each]:
        raise ConfigurationError(
            f"settings of topics: {clipped('; '.join(harmful))}. Records would be lost or refused. Change the topics "
            "with kafka-configs.sh --alter --add-config or, if the values are meant, INFERLANE_REQUEST_RETENTION_S, "
            "INFERLANE_MAX_BODY_BYTES and INFERLANE_MAX_RESULT_BYTES."
        )


def _faults(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    faults = []
    policy, has_policy = (config.get(_POLICY, _USUAL_POLICY) for config in (wanted, found))
    if has_policy != policy:
        faults.append(f"{_POLICY} is {has_policy}, not {policy}")
    least_ms, kept_ms = (int(config.get(_RETENTION, _FOR_EVER_MS)) for config in (wanted, found))
    if _FOR_EVER_MS not in {least_ms, kept_ms} and kept_ms < least_ms:
        faults.append(f"{_RETENTION} is {kept_ms}, less than {least_ms}")
    least_bytes = int(wanted.get(_SIZE, 0))
    if int(found.get(_SIZE, least_bytes)) < least_bytes:
        faults.append(f"{_SIZE} is {found[_SIZE]}, less than {least_bytes}")
    return faults
