from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maestro_dagster.errors import StepError
from maestro_dagster.steps.address import AddressRule, why_not_public

PRIVATE = [
    "0.0.0.0",  # noqa: S104
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    "2001:0:4136:e378:8000:63bf:f5ff:fffe",
    "2001:db8::1",
    "2002:7f00:1::",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert why_not_public(ipaddress.ip_address(address))
    with pytest.raises(StepError) as caught:
        AddressRule().check_address(address, "example.com")
    assert caught.value.error_code == "http-address"


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_passes(address: str) -> None:
    AddressRule().check_address(address, "example.com")


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    special = address.is_private or address.is_multicast or address.is_loopback or address.is_link_local
    if special and why_not_public(address) is None:
        # Only an IPv6 form of a public IPv4 address may pass.
        assert address.version == 6
        assert int(address) >> 96 in (0, 0x64FF9B << 64) or address in ipaddress.ip_network("::/80")
    if address.version == 4 and not address.is_global:
        assert why_not_public(address)


@pytest.mark.parametrize(
    ("allowed", "address", "host"),
    [
        ("127.0.0.1", "127.0.0.1", "localhost"),
        ("127.0.0.0/8", "127.9.9.9", "a.example"),
        ("intranet.example", "10.1.2.3", "Intranet.Example."),
        ("::1", "::1", "localhost"),
        ("10.0.0.0/8", "::ffff:10.1.2.3", "a.example"),
    ],
)
def test_the_project_can_except_an_address(allowed: str, address: str, host: str) -> None:
    AddressRule(allow_private=(allowed,)).check_address(address, host)


@pytest.mark.parametrize(
    ("allowed", "address", "host"),
    [("127.0.0.1", "127.0.0.2", "localhost"), ("intranet.example", "10.1.2.3", "x.intranet.example")],
)
def test_an_exception_is_no_wider_than_it_says(allowed: str, address: str, host: str) -> None:
    with pytest.raises(StepError):
        AddressRule(allow_private=(allowed,)).check_address(address, host)


@pytest.mark.parametrize(
    ("entry", "host", "port", "passes"),
    [
        ("example.com", "EXAMPLE.com.", 443, True),
        ("example.com", "www.example.com", 443, False),
        ("example.com:8080", "example.com", 8080, True),
        ("example.com:8080", "example.com", 443, False),
        ("*.example.com", "a.example.com", 443, True),
        ("*.example.com", "example.com", 443, False),
        ("*.example.com", "badexample.com", 443, False),
        ("[::1]:80", "::1", 80, True),
        ("[::1]:80", "::1", 81, False),
    ],
)
def test_egress_names_hosts_and_ports(entry: str, host: str, port: int, passes: bool) -> None:
    rule = AddressRule(egress=(entry,))
    if passes:
        rule.check_host(host, port)
        return
    with pytest.raises(StepError) as caught:
        rule.check_host(host, port)
    assert caught.value.error_code == "http-egress"
