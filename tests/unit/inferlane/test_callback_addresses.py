"""Which URLs and addresses callbacks go to: never one inside the deployment, however it is written."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferlane.contracts.callback_addresses import check_address, check_url, is_allowed, parse_networks
from inferlane.errors import CallbackRefusedError, ConfigurationError

INSIDE_V4 = [
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.2.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
INSIDE_V6 = [
    ip_network(text)
    for text in ("::/127", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "2001:db8::/32", "100::/64", "2002::/16")
]


def _addresses(networks: list, kind: type) -> st.SearchStrategy:  # type: ignore[type-arg]
    return st.sampled_from(networks).flatmap(
        lambda network: st.integers(int(network.network_address), int(network.broadcast_address)).map(kind)
    )


inside_v4 = _addresses(INSIDE_V4, IPv4Address)


@given(st.one_of(inside_v4, _addresses(INSIDE_V6, IPv6Address)))
def test_no_address_inside_is_called(address: IPv4Address | IPv6Address) -> None:
    assert not is_allowed(address, ())


@given(inside_v4, st.sampled_from(["::ffff:0:0", "::", "64:ff9b::"]))
def test_no_address_inside_is_called_through_an_ipv6_address_that_embeds_it(inside: IPv4Address, prefix: str) -> None:
    assert not is_allowed(IPv6Address(int(IPv6Address(prefix)) | int(inside)), ())


@pytest.mark.parametrize(
    "text",
    ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "::ffff:169.254.169.254", "fe80::1%eth0"],
)
def test_no_metadata_service_is_called(text: str) -> None:
    with pytest.raises(CallbackRefusedError):
        check_address(text, ())


@pytest.mark.parametrize("text", ["1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"])
def test_public_addresses_are_called(text: str) -> None:
    check_address(text, ())


@given(inside_v4)
def test_what_the_operator_allows_is_called_however_it_is_written(inside: IPv4Address) -> None:
    networks = parse_networks(f"{inside}/32, fd00::/8")
    assert is_allowed(inside, networks)
    assert is_allowed(ip_address(f"::ffff:{inside}"), networks)
    assert is_allowed(ip_address("fd12::1"), networks)


def test_networks_that_are_none_are_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="10\\.0\\.0\\.1/8"):
        parse_networks("10.0.0.1/8")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://example.com/", "https"),
        ("file:///etc/passwd", "https"),
        ("//example.com/", "https"),
        ("https://", "host"),
        ("https://user@example.com/", "password"),
        ("https://user:word@example.com/", "password"),
        ("https://example.com/#part", "fragment"),
        ("https://example.com:0/", "port"),
        ("https://example.com:99999/", "no URL"),
        ("https://[::1/", "no URL"),
        ("https://example.com/a b", "spaces"),
        ("https://example.com\\@internal/", "backslashes"),
        ("https://example.com/\r\nHost: internal", "printable"),
        ("https://münchen.example/", "ASCII"),
        ("https://example.com/" + "a" * 2048, "2048"),
        ("http://127.0.0.1:6379/", "private"),
        ("http://[::1]/", "private"),
        ("http://[::ffff:10.0.0.1]/", "private"),
        ("http://169.254.169.254/latest/meta-data/", "private"),
    ],
)
def test_a_url_that_must_not_be_called_is_refused_with_the_reason(url: str, says: str) -> None:
    with pytest.raises(CallbackRefusedError, match=says) as refused:
        check_url(url, ())
    assert "word" not in str(refused.value).replace("password", "")


def test_a_url_names_its_receiver_by_host_and_port() -> None:
    assert check_url("https://Example.com/path?x=1", ()) == "example.com:443"
    assert check_url("http://example.com:8080", ()) == "example.com:8080"
    assert check_url("http://10.1.2.3/", parse_networks("10.1.0.0/16")) == "10.1.2.3:80"


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    for url in (text, f"http://{text}", f"https://{text}/"):
        try:
            check_url(url, ())
        except CallbackRefusedError:
            continue
