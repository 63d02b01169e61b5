"""Who gets in to broker and store: users, their rights, passwords. Pure: documents in, sentences out."""

from collections.abc import Iterable, Iterator
from typing import Any

from control_plane.broker_acls import Service, rights_by_service, user_name
from inferlane.contracts.naming import Names

Document = dict[str, Any]
Version = tuple[str, str]
_WORKLOADS = {"Deployment", "StatefulSet", "Job"}
_COMPONENT = "app.kubernetes.io/component"


def access_faults(documents: list[Document], *, names: Names, versions: Iterable[Version]) -> Iterator[str]:
    """Yield what of users, rights and passwords is not as the code has it."""
    yield from _user_faults(documents, names, list(versions))
    yield from _listener_faults(documents)
    yield from _password_faults(documents, names)
    yield from _store_faults(documents)


def _user_faults(documents: list[Document], names: Names, versions: list[Version]) -> Iterator[str]:
    """KafkaUsers and the plan of the rights say the same."""
    users = {each["metadata"]["name"]: each["spec"] for each in documents if each["kind"] == "KafkaUser"}
    if not users:
        return
    planned = {
        user_name(names, service): {
            (str(right.resource), right.name, tuple(str(each) for each in right.operations)) for right in rights
        }
        for service, rights in rights_by_service(names, versions).items()
    }
    for name in sorted(planned.keys() ^ users.keys()):
        yield f"KafkaUser {name} is {'missing' if name in planned else 'of no service'}"
    for name in sorted(planned.keys() & users.keys()):
        granted = {
            (acl["resource"]["type"], acl["resource"].get("name", ""), tuple(acl["operations"]))
            for acl in users[name].get("authorization", {}).get("acls", ())
            if acl["resource"].get("patternType", "literal") == "literal" and acl.get("type", "allow") == "allow"
        }
        count = len(users[name].get("authorization", {}).get("acls", ()))
        for right in sorted(planned[name] ^ granted):
            kind, resource, operations = right
            what = "missing" if right in planned[name] else "more than it needs"
            yield f"KafkaUser {name}: {', '.join(operations)} on {kind} {resource} is {what}"
        if count != len(granted):
            yield f"KafkaUser {name}: a right is not on one whole name"


def _listener_faults(documents: list[Document]) -> Iterator[str]:
    """Users have no effect, and stay NotReady, on a broker without authorization; a listener without is open to all."""
    has_users = any(each["kind"] == "KafkaUser" for each in documents)
    authentications = {each["metadata"]["name"] for each in documents if each["kind"] == "TriggerAuthentication"}
    for document in documents:
        name, spec = document["metadata"]["name"], document.get("spec", {})
        if document["kind"] == "Kafka":
            if has_users and spec["kafka"].get("authorization", {}).get("type") != "simple":
                yield f"Kafka {name}: there are KafkaUsers with rights, and the broker has no authorization"
            for listener in spec["kafka"]["listeners"]:
                if "authentication" not in listener or not listener["tls"]:
                    yield f"Kafka {name}: listener {listener['name']} lets in without TLS or a user"
        if document["kind"] == "ScaledObject" and authentications:
            for trigger in spec["triggers"]:
                if trigger.get("authenticationRef", {}).get("name") not in authentications:
                    yield f"{name}: a trigger has no authenticationRef to a TriggerAuthentication that is there"


def _password_faults(documents: list[Document], names: Names) -> Iterator[str]:
    """Passwords come out of Secrets, and each service is its own user."""
    for document in documents:
        if document["kind"] not in _WORKLOADS:
            continue
        name, template = document["metadata"]["name"], document["spec"]["template"]
        component = template["metadata"]["labels"].get(_COMPONENT, "")
        for container in template["spec"]["containers"]:
            env = {each["name"]: each for each in container.get("env", ())}
            for key, entry in env.items():
                if key.endswith(("PASSWORD", "_API_KEY")) and "secretKeyRef" not in entry.get("valueFrom", {}):
                    yield f"{name}: {key} is written out; it must come from a Secret"
            user = env.get("INFERLANE_KAFKA_SASL_USERNAME", {}).get("value")
            if component in set(Service) and user != user_name(names, Service(component)):
                yield f"{name}: logs in to Kafka as {user}, not as {user_name(names, Service(component))}"
            # One calls whom a client names, and needs no store.
            if component in set(Service) - {Service.WEBHOOKS} and "INFERLANE_REDIS_PASSWORD" not in env:
                yield f"{name}: has no password of the store"


def _store_faults(documents: list[Document]) -> Iterator[str]:
    for document in documents:
        if document["kind"] != "StatefulSet":
            continue
        name, container = document["metadata"]["name"], document["spec"]["template"]["spec"]["containers"][0]
        args = container["args"]
        if "--aclfile" not in args or args[args.index("--aclfile") + 1] == "":
            yield f"{name}: the store lets in whoever reaches it; it needs its users"
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if "ping" not in container.get(probe, {}).get("exec", {}).get("command", ()):
                yield f"{name}: {probe} must ask the store for an answer"
