"""Whose request it is: believed from our own proxies only, from the nearest hop outwards."""

from __future__ import annotations

import ipaddress

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from app.settings import ServerSettings
from handlers.address import ClientAddresses, limit_key, parse

PROXIES = ("10.0.0.0/8", "fd00::/8")


def request_from(peer: str, *headers: str) -> web.Request:
    request = make_mocked_request("GET", "/", headers=[("X-Forwarded-For", text) for text in headers])
    return request.clone(remote=peer)


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),  # not our proxy: anybody can send the header
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),  # the first was sent by the client
        ("10.0.0.1", ["1.1.1.1", "198.51.100.1"], "198.51.100.1"),  # the header more than once
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1, 10.2.3.4"], "198.51.100.1"),  # through two of ours
        ("10.0.0.1", ["nonsense, 198.51.100.1"], "198.51.100.1"),  # what the client sent does not matter
        ("10.0.0.1", ["198.51.100.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1,"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, unknown, 10.2.3.4"], "10.0.0.1"),
        ("10.0.0.1", ["10.9.9.9, 10.8.8.8"], "10.9.9.9"),  # from within: the farthest
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),  # a socket for both families
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["198.51.100.1:x"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1:\u0661"], "10.0.0.1"),
        ("", ["198.51.100.1"], ""),  # a Unix socket has no address
    ],
)
def test_the_client_is_the_first_hop_that_is_not_ours(peer: str, headers: list[str], client: str) -> None:
    assert ClientAddresses(PROXIES).of(request_from(peer, *headers)) == client


def test_without_trusted_proxies_the_header_is_never_read() -> None:
    assert ClientAddresses().of(request_from("10.0.0.1", "198.51.100.1")) == "10.0.0.1"


HOPS = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=4).map(lambda address: f"{address}:80"),
    st.ip_addresses(network="10.0.0.0/8").map(str),
    st.text(alphabet="0123456789abcdef.:[] unkow%", max_size=40),
)
OUTSIDE = st.ip_addresses(v=4).filter(lambda address: address not in ipaddress.ip_network("10.0.0.0/8"))
OURS = st.ip_addresses(network="10.0.0.0/8").map(str)


@given(forged=st.lists(HOPS, max_size=5), client=OUTSIDE, ours=st.lists(OURS, max_size=3))
def test_nothing_that_a_client_sends_changes_who_it_is(
    forged: list[str], client: ipaddress.IPv4Address, ours: list[str]
) -> None:
    """Whatever stands left of what our outermost proxy has added."""
    header = ",".join([*(hop.replace(",", "") for hop in forged), str(client), *ours])

    assert ClientAddresses(PROXIES)._walk("10.0.0.1", header) == str(client)


@given(peer=HOPS, header=st.lists(HOPS, max_size=6).map(",".join))
def test_the_answer_is_the_peer_or_an_address_from_the_header(peer: str, header: str) -> None:
    """Never text of the client's own: it goes into logs."""
    found = ClientAddresses(PROXIES)._walk(peer, header)

    assert found == peer or found in {str(parse(hop)) for hop in header.split(",")}
    assert found == peer or str(ipaddress.ip_address(found)) == found


@given(header=st.text(max_size=200))
def test_no_header_breaks_it(header: str) -> None:
    ClientAddresses(PROXIES)._walk("10.0.0.1", header)


@given(address=st.ip_addresses(v=6), host=st.integers(0, 2**64 - 1))
def test_an_ipv6_client_is_its_64(address: ipaddress.IPv6Address, host: int) -> None:
    """A customer gets a /64 at least, and could else come from a new address with every request."""
    neighbour = ipaddress.IPv6Address(int(address) >> 64 << 64 | host)
    if address.ipv4_mapped is None and neighbour.ipv4_mapped is None:
        assert limit_key(str(address)) == limit_key(str(neighbour))
    beyond = ipaddress.IPv6Address(int(address) ^ 1 << 64)
    assert limit_key(str(address)) != limit_key(str(beyond))


def test_an_ipv4_client_is_its_address_in_whatever_form() -> None:
    assert limit_key("198.51.100.1") == limit_key("::ffff:198.51.100.1") == "198.51.100.1"
    assert limit_key("198.51.100.2") != limit_key("198.51.100.1")
    assert limit_key("fe80::1%eth0") == limit_key("fe80::2%eth1") == "fe80::/64"
    assert limit_key("") == ""


@pytest.mark.parametrize("network", ["nonsense", "10.0.0.1/8", "0.0.0.0/0", "::/0", "10.0.0.0/33"])
def test_a_wrong_proxy_is_refused_by_key_name(network: str) -> None:
    """Everybody as a proxy would mean that everybody says who it is."""
    with pytest.raises(ValueError, match=r"server\.trusted_proxies"):
        ServerSettings(trusted_proxies=(network,))
