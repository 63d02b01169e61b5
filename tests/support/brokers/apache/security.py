"""TLS and SASL for the test's broker: a certificate authority, a certificate and a user that live as long as a test."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

SECURE_LISTENERS = ("SSL", "SASL_SSL", "SASL_PLAINTEXT")
MECHANISMS = ("SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN")


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """What clients need to pass the secure listeners. `SSL` asks for a client certificate, the others do not."""

    ca_path: Path
    server_path: Path
    client_path: Path
    username: str = "inferlane"
    password: str = "a passphrase with % and :"  # noqa: S105 - of a broker that lives as long as a test
    # Others with the same password. Where there are any, the broker has an authorizer: whoever logs in may do what an
    # ACL says and nothing else; the plain listener alone may do everything.
    users: tuple[str, ...] = ()

    @classmethod
    def make(cls, folder: Path, *, users: tuple[str, ...] = ()) -> Self:
        """A new authority with a certificate for 127.0.0.1 and one for a client."""
        folder.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        made = cls(
            ca_path=folder / "ca.pem",
            server_path=folder / "server.pem",
            client_path=folder / "client.pem",
            users=users,
        )
        authority.cert_pem.write_to_path(made.ca_path)
        made.server_path.write_bytes(_key_and_chain(authority.issue_cert("127.0.0.1", "localhost")))
        made.client_path.write_bytes(_key_and_chain(authority.issue_cert("client@inferlane.test")))
        return made

    def scram_users(self) -> tuple[str, ...]:
        """The users for `kafka.tools.StorageTool format --add-scram`."""
        return tuple(
            f'{mechanism}=[name="{name}",password="{self.password}"]'
            for name in (self.username, *self.users)
            for mechanism in MECHANISMS
            if mechanism.startswith("SCRAM")
        )

    def properties(self) -> dict[str, str]:
        """The part of a node's properties that is about its secure listeners. Kafka reads PEM files as they are."""
        login = "org.apache.kafka.common.security"
        plain = f'{login}.plain.PlainLoginModule required user_{self.username}="{self.password}";'
        values = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.server_path),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca_path),
            "listener.name.ssl.ssl.client.auth": "required",
            "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        }
        if self.users:
            values["authorizer.class.name"] = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
            values["super.users"] = "User:ANONYMOUS"
        for listener in ("sasl_ssl", "sasl_plaintext"):
            values[f"listener.name.{listener}.plain.sasl.jaas.config"] = plain
            for mechanism in ("scram-sha-256", "scram-sha-512"):
                name = f"listener.name.{listener}.{mechanism}.sasl.jaas.config"
                values[name] = f"{login}.scram.ScramLoginModule required;"
        return values


def _key_and_chain(leaf: trustme.LeafCert) -> bytes:
    """One PEM with the key first, in PKCS #8, which is the only form that Kafka reads."""
    key = load_pem_private_key(leaf.private_key_pem.bytes(), password=None)
    encoded = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return encoded + b"".join(certificate.bytes() for certificate in leaf.cert_chain_pems)
