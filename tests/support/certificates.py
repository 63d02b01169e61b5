"""Certificates for the ports of the API, of an authority that lives as long as a test."""

from datetime import datetime
from pathlib import Path

import trustme


def write_certificates(
    folder: Path, authority: trustme.CA | None = None, *, not_after: datetime | None = None
) -> dict[str, str]:
    """Write the authority to `ca.pem`, a chain to `tls.pem` and its key to `tls.key`; return the settings for them."""
    authority = authority or trustme.CA()
    made = authority.issue_cert("localhost", "127.0.0.1", not_after=not_after)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "tls.pem").write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
    made.private_key_pem.write_to_path(folder / "tls.key")
    return {
        f"INFERLANE_{port}_SSL_{kind}FILE": str(folder / name)
        for port in ("API", "GRPC")
        for kind, name in (("CERT", "tls.pem"), ("KEY", "tls.key"))
    }


def certificate_settings(folder: Path, port: str, authority: trustme.CA | None = None) -> dict[str, Path]:
    """Write them as `write_certificates`, and return the settings of one port by their names in the code."""
    return {
        name.removeprefix("INFERLANE_").lower(): Path(path)
        for name, path in write_certificates(folder, authority).items()
        if name.startswith(f"INFERLANE_{port}_")
    }
