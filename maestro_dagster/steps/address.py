"""Which network addresses a step may reach.

Everything that is not public is refused: private, loopback, link-local, carrier-grade NAT, multicast,
unspecified and reserved ranges (RFC 6890), the metadata services of clouds, and IPv6 forms that carry an
IPv4 address inside. A project may name exceptions by host or by CIDR.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from maestro_dagster.errors import StepError

Address = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

_PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")
_IPV4_INSIDE = (
    (ipaddress.ip_network("64:ff9b::/96"), 0),  # NAT64, RFC 6052
    (ipaddress.ip_network("::/96"), 0),  # IPv4-compatible, RFC 4291
    (ipaddress.ip_network("2002::/16"), 80),  # 6to4, RFC 3056
)
# Special by the registries of IANA, but unknown as such to older Pythons.
_SPECIAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "64:ff9b:1::/48",
        "2001::/23",
        "2001:db8::/32",
        "3fff::/20",
    )
)
# Public by the registry, yet a service of the cloud's host: it hands out credentials.
_METADATA = frozenset({ipaddress.ip_address("168.63.129.16")})


@dataclass(frozen=True, slots=True)
class AddressRule:
    """The rule of one step: `egress` narrows the hosts, `allow_private` widens the addresses."""

    egress: tuple[str, ...] = ()
    allow_private: tuple[str, ...] = ()
    networks: tuple[IpNetwork, ...] = field(init=False, default=())
    hosts: frozenset[str] = field(init=False, default=frozenset())

    def __post_init__(self) -> None:
        networks, hosts = [], []
        for entry in self.allow_private:
            try:
                networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                hosts.append(normal_host(entry))
        object.__setattr__(self, "networks", tuple(networks))
        object.__setattr__(self, "hosts", frozenset(hosts))

    def check_host(self, host: str, port: int) -> None:
        """Raises StepError `http-egress` when the step's egress list does not name the host."""
        if not self.egress or any(_matches(entry, normal_host(host), port) for entry in self.egress):
            return
        raise StepError(
            f"the step may not reach {host}:{port}",
            place="egress",
            remedy=f"add {host} to the step's egress, if it is meant; it names: {', '.join(self.egress)}",
            code="http-egress",
        )

    def check_address(self, text: str, host: str) -> None:
        """Raises StepError `http-address` for an address that is not public and not excepted."""
        address = ipaddress.ip_address(text.partition("%")[0])
        reason = why_not_public(address)
        if reason is None or normal_host(host) in self.hosts:
            return
        if any(_inside(address, network) for network in self.networks):
            return
        raise StepError(
            f"{host} is {reason}" if host == text else f"{host} is {text}, {reason}",
            place=host,
            remedy="steps reach public addresses only; except it by network_allow_private, if it is meant",
            code="http-address",
        )

    def excepts_host(self, host: str) -> bool:
        """Whether the project names this very host, or this very address, as private and allowed."""
        name = normal_host(host)
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self.hosts
        return any(_inside(address, network) for network in self.networks)


def normal_host(host: str) -> str:
    """Lower case, without brackets and without the dot of a full name."""
    return host.strip("[]").rstrip(".").lower()


def why_not_public(address: Address) -> str | None:
    """What an address is when it is not public, else None."""
    inner = _inner_ipv4(address)
    if inner is not None:
        reason = why_not_public(inner)
        return None if reason is None else f"which carries {inner}, {reason}"
    reasons = {
        "a loopback address": address.is_loopback,
        "the unspecified address": address.is_unspecified,
        "a metadata service": address in _METADATA,
        "a link-local address, where metadata services are": address.is_link_local,
        "a multicast address": address.is_multicast,
        "not a public address": isinstance(address, IPv6Address) and address not in _PUBLIC_IPV6,
        "a private address": not address.is_global
        or address.is_reserved
        or any(address in network for network in _SPECIAL),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _inner_ipv4(address: Address) -> IPv4Address | None:
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.teredo is not None:
        return address.teredo[1]
    if address.is_loopback or address.is_unspecified:
        return None
    for network, shift in _IPV4_INSIDE:
        if address in network:
            return IPv4Address((int(address) >> shift) & 0xFFFFFFFF)
    return None


def _inside(address: Address, network: IpNetwork) -> bool:
    inner = _inner_ipv4(address)
    return address in network or (inner is not None and inner in network)


def _matches(entry: str, host: str, port: int) -> bool:
    name, colon, wanted = entry.rpartition(":")
    if not colon or not wanted.isdigit() or (":" in name and not name.startswith("[")):
        name, wanted = entry, ""
    if wanted and int(wanted) != port:
        return False
    name = normal_host(name)
    return host.endswith(name[1:]) if name.startswith("*.") else host == name
