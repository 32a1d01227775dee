"""Which addresses an upstream may have, in every spelling that a resolver understands."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.addresses import Danger, danger_of, danger_of_host, is_near, may_call, spelled_address

EVERY_DANGER = ("169.254.0.0/16", "0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "100.100.100.200/32", "168.63.129.16/32")


@pytest.mark.parametrize(
    ("host", "danger"),
    [
        ("169.254.169.254", "link_local"),
        ("169.254.170.2", "link_local"),
        ("169.254.169.254.", "link_local"),
        ("2852039166", "link_local"),
        ("0xa9fea9fe", "link_local"),
        ("0XA9.0xFE.0xA9.0xFE", "link_local"),
        ("025177524776", "link_local"),
        ("0251.0376.0251.0376", "link_local"),
        ("169.254.43518", "link_local"),
        ("169.16689662", "link_local"),
        ("::ffff:169.254.169.254", "link_local"),
        ("::ffff:a9fe:a9fe", "link_local"),
        ("::169.254.169.254", "link_local"),
        ("64:ff9b::169.254.169.254", "link_local"),
        ("64:ff9b:1::a9fe:a9fe", "link_local"),
        ("2002:a9fe:a9fe::1", "link_local"),
        ("fe80::1", "link_local"),
        ("fe80::1%eth0", "link_local"),
        ("febf::1", "link_local"),
        ("fd00:ec2::254", "link_local"),
        ("fd00:ec2::23", "link_local"),
        ("fd20:ce::254", "link_local"),
        ("100.100.100.200", "link_local"),
        ("168.63.129.16", "link_local"),
        ("192.0.0.192", "link_local"),
        ("metadata.google.internal", "link_local"),
        ("Metadata.Google.Internal.", "link_local"),
        ("metadata", "link_local"),
        ("0.0.0.0", "nowhere"),
        ("0", "nowhere"),
        ("::", "nowhere"),
        ("::ffff:0.0.0.0", "nowhere"),
        ("224.0.0.1", "nowhere"),
        ("255.255.255.255", "nowhere"),
        ("ff02::1", "nowhere"),
        ("127.0.0.1", None),
        ("2130706433", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("localhost", None),
        ("10.0.0.8", None),
        ("172.16.0.1", None),
        ("192.168.1.7", None),
        ("100.64.0.1", None),
        ("fd12:3456::1", None),
        ("vllm", None),
        ("api.example.com", None),
        ("8.8.8.8", None),
        ("2606:4700::1111", None),
        ("169.253.255.255", None),
        ("169.255.0.0", None),
        ("fec0::1", None),
    ],
)
def test_a_host_is_judged_by_the_address_that_it_spells(host: str, danger: Danger | None) -> None:
    assert danger_of_host(host) == danger


def spellings(address: IPv4Address) -> list[str]:
    number, octets = int(address), address.packed
    low = int.from_bytes(octets[2:])
    return [
        str(number),
        hex(number),
        f"0{number:o}",
        ".".join(f"0x{octet:02X}" for octet in octets),
        ".".join(f"0{octet:o}" for octet in octets),
        f"{octets[0]}.0x{octets[1]:x}.0{low:o}",
        f"{octets[0]}.{int.from_bytes(octets[1:])}",
        f"{address}.",
    ]


@given(st.ip_addresses(v=4))
def test_every_spelling_of_an_ipv4_address_is_that_address(address: IPv4Address) -> None:
    assert {spelled_address(text) for text in spellings(address)} == {address}


@given(st.one_of([st.ip_addresses(v=4, network=network) for network in EVERY_DANGER]))
def test_no_ipv6_address_hides_a_dangerous_ipv4_one(address: IPv4Address) -> None:
    danger, number = danger_of(address), int(address)
    assert danger is not None
    for prefix in ("::ffff:0:0", "64:ff9b::", "64:ff9b:1::"):
        assert danger_of(IPv6Address(int(IPv6Address(prefix)) | number)) == danger
    assert danger_of(IPv6Address((0x2002 << 112) | (number << 80) | 1)) == danger


@given(st.ip_addresses())
def test_what_may_be_called_is_in_no_dangerous_network(address: IPv4Address | IPv6Address) -> None:
    networks = [ip_network(text) for text in (*EVERY_DANGER, "fe80::/10", "ff00::/8", "fd00:ec2::/32", "::/128")]
    dangerous = any(address in network for network in networks)
    if may_call(str(address), allow_link_local=False):
        assert not dangerous


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1%eth0", "fd00:ec2::254", "::ffff:169.254.169.254"])
def test_link_local_addresses_may_be_allowed(address: str) -> None:
    assert not may_call(address, allow_link_local=False)
    assert may_call(address, allow_link_local=True)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"])
def test_what_is_no_machine_may_never_be_called(address: str) -> None:
    assert not may_call(address, allow_link_local=True)


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("::ffff:192.168.0.1", True),
        ("fd12::1", True),
        ("100.64.0.9", True),
        ("vllm", True),
        ("vllm.models.svc", True),
        ("vllm.models.svc.cluster.local", True),
        ("gpu.internal", True),
        ("box.lan.", True),
        ("api.example.com", False),
        ("localhost.example.com", False),
        ("8.8.8.8", False),
        ("2606:4700::1111", False),
        ("134744072", False),
    ],
)
def test_what_is_near_is_told_by_the_host(host: str, near: bool) -> None:
    assert is_near(host) == near
