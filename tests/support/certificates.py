"""Certificates for the gRPC port, of an authority that lives as long as a test."""

from pathlib import Path

import trustme


def write_certificates(folder: Path, authority: trustme.CA | None = None) -> dict[str, str]:
    """Write the authority to `ca.pem`, a chain to `tls.pem` and its key to `tls.key`; return the settings for them."""
    authority = authority or trustme.CA()
    made = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "tls.pem").write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
    made.private_key_pem.write_to_path(folder / "tls.key")
    return {
        "INFERLANE_GRPC_SSL_CERTFILE": str(folder / "tls.pem"),
        "INFERLANE_GRPC_SSL_KEYFILE": str(folder / "tls.key"),
    }
