"""Which URLs may be endpoints: public addresses, in one spelling."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import WebhookUrlRefused
from engine.webhook_urls import URL_LENGTH_MAX, check_url, is_public

PUBLIC = ("8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2606:4700::1111", "2a00:1450:4001::1")
PRIVATE = (
    "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "fe80::1", "fe80::1%lo", "fc00::1", "fd12::1",
    "fec0::1", "ff02::1", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::",
    "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "3fff::1", "100::1", "5f00::1",
)  # fmt: skip
SPELLINGS = (
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0x7f.0.0.1", "017700000001", "0177.0.0.1",
    "0177.0.0.01", "0", "0x0", "10.1", "0xa9fea9fe", "2852039166", "127.0.0.1.", "[::1]", "[0:0:0:0:0:0:0:1]", "[::]",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "localhost",
    "LOCALHOST", "localhost.", "a.localhost", "printer.local", "metadata.google.internal", "192.168.0.1", "100.64.1.1",
)  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", [*PRIVATE, "", "localhost", "8.8.8.8 ", "8.8.8"])
def test_everything_else_is_not(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_no_address_that_carries_one_of_ipv4_is_public(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    for carrying in (0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80, number):
        assert not is_public(str(ipaddress.IPv6Address(carrying)))


@pytest.mark.parametrize("host", SPELLINGS)
def test_a_private_address_is_refused_in_every_spelling(host: str) -> None:
    for url in (f"https://{host}/hooks", f"https://{host}:8443/", f"https://{host}"):
        with pytest.raises(WebhookUrlRefused, match="private"):
            check_url(url, allow_http=True, allow_private=False)
    check_url(f"https://{host}/", allow_http=False, allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "", "https://", "https:///path", "//host/", "host/path", "ftp://host/", "file:///etc/passwd", "gopher://host/",
        "javascript:alert(1)", "https://user@host/", "https://user:pass@host/", "https://@host/", "https://host/#part",
        "https://host/#", "https://host:0/", "https://host:99999/", "https://host:x/", "https://[::1", "https://[fe80::1%25lo]/",
        "https://ho st/", "https://host/\r\nX: 1", "https://host/\x00", "https://host\\@evil/", "https://hôst/", "https://１２７.0.0.1/",
        "https://.host/", "https://" + "a" * 254 + "/", "https://host/" + "a" * URL_LENGTH_MAX,
    ],
)  # fmt: skip
def test_what_is_no_address_to_send_to_is_refused(url: str) -> None:
    with pytest.raises(WebhookUrlRefused):
        check_url(url, allow_http=True, allow_private=True)


@pytest.mark.parametrize(
    "url", ["https://shop.example.com/hooks?a=1", "https://8.8.8.8/", "HTTPS://shop.example.com:8443", "https://xn--hst-qla/"]
)  # fmt: skip
def test_a_good_one_is_taken(url: str) -> None:
    check_url(url, allow_http=False, allow_private=False)


def test_http_is_taken_only_where_it_is_allowed() -> None:
    with pytest.raises(WebhookUrlRefused, match="https"):
        check_url("http://shop.example.com/", allow_http=False, allow_private=False)
    check_url("http://shop.example.com/", allow_http=True, allow_private=False)
