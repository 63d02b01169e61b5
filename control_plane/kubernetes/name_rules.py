"""The rules of Kubernetes for names that a person gives, checked before a cluster refuses the files. Pure."""

import re

from inferlane.errors import ConfigurationError, quoted

# RFC 1123.
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# https://github.com/distribution/reference, without a limit on the length of a registry's name.
_IMAGE = re.compile(
    r"(?:(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?/)?"
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[A-Za-z][A-Za-z0-9+._-]*:[0-9A-Fa-f]{32,})?"
)
_MAX_IMAGE_CHARS = 512
_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_DOMAIN = r"(?=.{1,253}/)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
_RESOURCE = re.compile(f"{_DOMAIN}/{_NAME}")
_LABEL = re.compile(f"(?:{_DOMAIN}/)?{_NAME}=(?:{_NAME})?")


def check_namespace(namespace: str) -> None:
    """Return if a cluster can have a namespace of this name.

    Raises:
        ConfigurationError: it cannot.
    """
    if not _NAMESPACE.fullmatch(namespace):
        raise ConfigurationError(
            f"--namespace {quoted(namespace)} is no name of a namespace: it has 1 to 63 lower-case letters, digits and "
            "dashes, and begins and ends with a letter or digit"
        )


def check_image(option: str, image: str) -> None:
    """Return if a container runtime can read this reference of an image; `option` is the flag that names it.

    Raises:
        ConfigurationError: it cannot.
    """
    if len(image) > _MAX_IMAGE_CHARS or not _IMAGE.fullmatch(image):
        raise ConfigurationError(
            f"{option} {quoted(image)} is no image: write NAME, NAME:TAG or REGISTRY/NAME:TAG, all with @DIGEST at the "
            f"end or without, in at most {_MAX_IMAGE_CHARS} characters. NAME has lower-case letters and digits, with "
            ". _ - / between them, as in registry.example.com/ml/inferlane:1.0"
        )


def check_resource(resource: str) -> None:
    """Return if a container can ask for this resource.

    Raises:
        ConfigurationError: it cannot.
    """
    if not _RESOURCE.fullmatch(resource):
        raise ConfigurationError(
            f"--gpu-resource {quoted(resource)} is no resource: write DOMAIN/NAME, as nvidia.com/gpu, with at most 63 "
            "letters, digits and . _ - in NAME"
        )


def label_of(text: str) -> tuple[str, str]:
    """Return key and value of a label `KEY=VALUE`.

    Raises:
        ConfigurationError: it is none.
    """
    if not _LABEL.fullmatch(text):
        raise ConfigurationError(
            f"--gpu-node {quoted(text)} is no label; write KEY=VALUE or DOMAIN/KEY=VALUE, with at most 63 letters, "
            "digits and . _ - in KEY and in VALUE"
        )
    key, _, value = text.partition("=")
    return key, value
