"""A switch with a port for each host: rates of links, and slow or cut ways between two hosts."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network

from tests.support.hosts.namespaces import entering, run

# No virtual link comes near.
_UNLIMITED_MBIT = 100_000.0
# What may leave at once: two milliseconds' worth, and room for the largest packet (64 KiB).
_BURST_SECONDS, _LEAST_BURST_BYTES = 0.002, 70_000
# What waits for a link; more is dropped, as by a switch. Two hosts that send to one fill it, and
# TCP then sends less: were it much longer, everything would wait for all that is in it.
_QUEUE_SECONDS, _LEAST_QUEUE_BYTES = 0.05, 260_000
_ALL = "1:1"
# Of TCP's connections over the links, whatever the machine's own setting is, so that figures do not
# depend on it. Reno is in every kernel.
_CONGESTION_CONTROL = "reno"


@dataclass(frozen=True)
class _Device:
    """One end of a link: where traffic is shaped as it leaves."""

    process: int
    name: str

    def tc(self, kind: str, action: str, settings: str) -> None:
        """`tc KIND ACTION dev NAME SETTINGS`, in its namespace."""
        words = f"tc {kind} {action} dev {self.name} {settings}".split()
        run([*entering(self.process, "-n"), *words])

    def set_class(self, class_id: str, mbit: float) -> None:
        """Let a class of the traffic leave at this rate."""
        bits = mbit * 1e6
        burst = max(_LEAST_BURST_BYTES, int(bits / 8 * _BURST_SECONDS))
        queue = max(_LEAST_QUEUE_BYTES, int(bits / 8 * _QUEUE_SECONDS))
        self.tc(
            "class",
            "replace",
            f"parent 1: classid {class_id} htb rate {bits:.0f}bit burst {burst} cburst {burst}",
        )
        self.tc("qdisc", "replace", f"parent {class_id} bfifo limit {queue}")


@dataclass(frozen=True)
class _Port:
    number: int
    address: str
    inside: _Device  # the host's eth0
    outside: _Device  # the switch's end of the link


class Network:
    """A switch in a namespace of its own, and a virtual link from it to each host.

    Traffic is shaped where it leaves a host and where it leaves the switch towards a host: a link
    has its rate in both directions, whoever else sends at the same time. Connections over the links
    have one congestion control, Reno.

    Args:
        switch: the process that holds the switch's namespace.
        is_bridged: whether the kernel forwards between the ports; another process does otherwise.
    """

    def __init__(self, switch: int, is_bridged: bool) -> None:
        self._switch = switch
        self._is_bridged = is_bridged
        self._ports: dict[str, _Port] = {}
        if is_bridged:
            self._ip(switch, "link add bridge type bridge")
            self._ip(switch, "link set bridge up")

    @property
    def ports(self) -> list[str]:
        """The names that the switch's ends of the links have there."""
        return [port.outside.name for port in self._ports.values()]

    def plug_in(self, name: str, process: int, address: str, prefix_bits: int) -> None:
        """Connect a host.

        Args:
            name: of the host.
            process: that holds it.
            address: for its `eth0`.
            prefix_bits: of the address, those that all hosts share.
        """
        number = len(self._ports) + 1
        port = f"port{number}"
        self._ip(self._switch, f"link add {port} type veth peer name eth0 netns {process}")
        if self._is_bridged:
            self._ip(self._switch, f"link set {port} master bridge")
        self._ip(self._switch, f"link set {port} up")
        self._ip(process, f"addr add {address}/{prefix_bits} dev eth0")
        self._ip(process, "link set eth0 up")
        network = ip_network(f"{address}/{prefix_bits}", strict=False)
        self._ip(
            process,
            f"route replace {network} dev eth0 scope link src {address} "
            f"congctl {_CONGESTION_CONTROL}",
        )
        inside, outside = _Device(process, "eth0"), _Device(self._switch, port)
        self._ports[name] = _Port(number, address, inside, outside)
        for device in (inside, outside):
            device.tc("qdisc", "add", "root handle 1: htb default 1")
        self.set_rate(name, None)

    def set_rate(self, name: str, mbit: float | None) -> None:
        """Give the link of a host a rate in Mbit/s, in each direction; None: as fast as it can."""
        port = self._ports[name]
        for device in (port.inside, port.outside):
            device.set_class(_ALL, _UNLIMITED_MBIT if mbit is None else mbit)

    def set_way(self, one: str, other: str, mbit: float) -> None:
        """Let what two hosts send to each other pass at this rate only; 0: not at all.

        Until `clear_way`. It is apart from the rates of their links.
        """
        for sender, receiver in self._directions(one, other):
            device, class_id = receiver.outside, f"1:{sender.number + 1:x}"
            device.set_class(class_id, mbit or 1)
            if not mbit:
                device.tc("qdisc", "replace", f"parent {class_id} bfifo limit 0")
            device.tc(
                "filter",
                "replace",
                f"parent 1: protocol ip prio {sender.number} "
                f"u32 match ip src {sender.address} flowid {class_id}",
            )

    def clear_way(self, one: str, other: str) -> None:
        """Undo `set_way`."""
        for sender, receiver in self._directions(one, other):
            receiver.outside.tc("filter", "del", f"parent 1: prio {sender.number}")

    def _directions(self, one: str, other: str) -> list[tuple[_Port, _Port]]:
        ports = self._ports[one], self._ports[other]
        return [ports, ports[::-1]]

    @staticmethod
    def _ip(process: int, words: str) -> None:
        run([*entering(process, "-n"), "ip", *words.split()])
