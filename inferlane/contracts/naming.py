"""The names of the topics, consumer groups, store keys and channels of one stack.

All begin with the prefix of the stack (`INFERLANE_PREFIX`): two stacks on one broker and one store share nothing.
A prefix holds no dot and no underscore: the first dot ends it, and no name of one stack can be spelled in another, not
even in Kafka's metrics, which write `.` as `_`.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from inferlane.errors import InvalidNameError, quoted

DEFAULT_PREFIX = "inferlane"
PREFIX_RULE = r"^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$"


MAX_NAME_CHARS = 63
_MODEL = re.compile(rf"[A-Za-z0-9](?:[A-Za-z0-9_-]{{0,{MAX_NAME_CHARS - 2}}}[A-Za-z0-9])?")
_VERSION = re.compile(rf"[A-Za-z0-9](?:[A-Za-z0-9._-]{{0,{MAX_NAME_CHARS - 2}}}[A-Za-z0-9])?")
# A model of this name would share a consumer group with a part of Inferlane, or a label with unnamed models.
_RESERVED = frozenset(
    {"router", "requests", "bulk", "results", "outcomes", "dead-letters", "splits", "rollouts", "catalog", "callbacks"}
    | {"webhooks", "feedback", "dashboard", "unknown", "none"}
)


def check_model_name(name: str) -> None:
    """Return if topics, groups, labels, Kubernetes objects and URLs can all be called after a model of this name.

    Raises:
        InvalidNameError: they cannot; the message has the rule.
    """
    if not _MODEL.fullmatch(name):
        raise InvalidNameError(
            f"the model name {quoted(name)} is not 1 to {MAX_NAME_CHARS} letters (A-Z, a-z), digits, dashes and "
            "underscores with a letter or digit at both ends; a dot may stand in versions alone. Rename it."
        )
    if name.lower() in _RESERVED:
        raise InvalidNameError(f"the model name {quoted(name)} is one of Inferlane's own. Rename it.")


def is_model_name(name: str) -> bool:
    """Return whether `check_model_name` lets it through."""
    try:
        check_model_name(name)
    except InvalidNameError:
        return False
    return True


def check_version_name(name: str) -> None:
    """Return if topics, groups, labels, Kubernetes objects and URLs can all be called after a version of this name.

    Raises:
        InvalidNameError: they cannot; the message has the rule.
    """
    if not _VERSION.fullmatch(name):
        raise InvalidNameError(
            f"the version name {quoted(name)} is not 1 to {MAX_NAME_CHARS} letters (A-Z, a-z), digits, dots, dashes "
            "and underscores with a letter or digit at both ends. Rename it."
        )


def pool_key(model: str, version: str) -> str:
    """Return the name of a version with case, dots and underscores ignored; no two versions of a stack may share it.

    Kafka's metrics write `.` as `_`, Kubernetes allows neither capitals nor underscores, some file systems ignore case,
    and the pools of `a` `b-c` and of `a-b` `c` would have one name.
    """
    return re.sub(r"[._]", "-", f"{model}-{version}".lower())


CALLBACK_STAGES = 5
"""The topics in which callbacks wait for another try, each for four times as long as the one before."""


class Lane(StrEnum):
    """The lane of a request: `requests` if a client waits for it, `bulk` if throughput counts."""

    REQUESTS = "requests"
    BULK = "bulk"


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one stack."""

    prefix: str = DEFAULT_PREFIX

    @property
    def ingress(self) -> dict[Lane, str]:
        """The topic to which the requests of each lane are produced."""
        return {lane: f"{self.prefix}.{lane}" for lane in Lane}

    @property
    def results(self) -> str:
        """The topic of results."""
        return f"{self.prefix}.results"

    @property
    def outcomes(self) -> str:
        """The topic of the workers' summaries."""
        return f"{self.prefix}.outcomes"

    @property
    def dead_letters(self) -> str:
        """The topic of the dead letters."""
        return f"{self.prefix}.dead-letters"

    @property
    def splits(self) -> str:
        """The compacted topic of the traffic splits."""
        return f"{self.prefix}.splits"

    @property
    def rollouts(self) -> str:
        """The compacted topic of the rollouts and of the commands to them."""
        return f"{self.prefix}.rollouts"

    @property
    def catalog(self) -> str:
        """The compacted topic of the versions that are served."""
        return f"{self.prefix}.catalog"

    @property
    def callbacks(self) -> str:
        """The topic of results that are to be sent to the URLs that their requests named."""
        return f"{self.prefix}.callbacks"

    def callback_retries(self, stage: int) -> str:
        """Return the topic of callbacks that wait for a retry; `stage` counts from 1, each waits longer."""
        return f"{self.callbacks}.retry-{stage}"

    def work_topic(self, model: str, version: str, lane: Lane) -> str:
        """Return the topic that the workers of one version read."""
        return f"{self.prefix}.{model}.{version}.{lane}"

    @property
    def feedback(self) -> str:
        """The topic of feedback."""
        return f"{self.prefix}.feedback"

    @property
    def feedback_group(self) -> str:
        """The consumer group of the routers' tally of feedback."""
        return f"{self.prefix}.router.feedback"

    @property
    def router_group(self) -> str:
        """The consumer group of the routers' data path."""
        return f"{self.prefix}.router"

    @property
    def outcomes_group(self) -> str:
        """The group of the Faust agent that reads outcomes; Faust makes its app id the group."""
        return f"{self.prefix}.router.outcomes"

    @property
    def dashboard_group(self) -> str:
        """A group that never commits: its lag is the number of records in a topic."""
        return f"{self.prefix}.dashboard"

    def webhooks_group(self, topic: str) -> str:
        """Return the group in which the webhooks processes read one of the topics of callbacks."""
        return f"{self.prefix}.webhooks{topic.removeprefix(self.callbacks)}"

    def worker_group(self, model: str, version: str) -> str:
        """Return the consumer group of one version's workers."""
        return f"{self.prefix}.{model}.{version}"

    def store_key(self, kind: str, *parts: object) -> str:
        """Return the store's key of one item of a kind, as in `inferlane:result:<id>`, or a channel's name."""
        return ":".join((self.prefix, kind, *map(str, parts)))
