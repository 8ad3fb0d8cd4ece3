"""A host on the other end of the network cable: it answers ARP and ping, and serves files by TFTP.

Specifications: RFC 826 (ARP), 791 (IP), 792 (ICMP), 768 (UDP), 1350 (TFTP). Without options, fragments and time-outs:
the cable loses nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address

__all__ = ["HOST_ADDRESS", "Host"]

HOST_ADDRESS = IPv4Address("10.0.2.2")
HOST_MAC = bytes.fromhex("525500000202")

ETHERNET = struct.Struct("!6s6sH")  # destination, source, type
ARP = struct.Struct("!HHBBH6s4s6s4s")
IP = struct.Struct("!BBHHHBBH4s4s")
ETHERNET_ARP, ETHERNET_IP, ARP_REQUEST, ARP_REPLY = 0x0806, 0x0800, 1, 2
ICMP, UDP, ICMP_ECHO = 1, 17, 8
TFTP_PORT, TFTP_DATA_PORT, BLOCK = 69, 1069, 512
READ_REQUEST, DATA, ACKNOWLEDGEMENT, ERROR = 1, 3, 4, 5
FILE_NOT_FOUND = 1


class Host:
    """The host, at 10.0.2.2.

    Parameters
    ----------
    files : mapping of str to bytes
        What TFTP serves, by name.

    Attributes
    ----------
    transmit : callable
        Called with each frame that the host sends: a network card's `receive`.
    """

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        self.files = dict(files or {})
        self.transmit: Callable[[bytes], object] = lambda frame: None
        self._transfer = b""

    def receive(self, frame: bytes) -> None:
        """Take a frame from the cable. What is damaged, or not for this host, is dropped."""
        try:
            _, source, kind = ETHERNET.unpack_from(frame)
            reply = self._answer(kind, frame[ETHERNET.size :])
        except (struct.error, UnicodeDecodeError):
            return
        if reply is not None:
            self.transmit(ETHERNET.pack(source, HOST_MAC, kind) + reply)

    def _answer(self, kind: int, packet: bytes) -> bytes | None:
        if kind == ETHERNET_ARP:
            hardware, protocol, _, _, operation, mac, address, _, wanted = ARP.unpack_from(packet)
            if operation == ARP_REQUEST and wanted == HOST_ADDRESS.packed:
                return ARP.pack(hardware, protocol, 6, 4, ARP_REPLY, HOST_MAC, wanted, mac, address)
        elif kind == ETHERNET_IP:
            version, _, length, identifier, _, _, protocol, _, source, target = IP.unpack_from(packet)
            payload = packet[4 * (version & 0xF) : length]
            if target == HOST_ADDRESS.packed:
                answer = {ICMP: self._answer_icmp, UDP: self._answer_udp}.get(protocol, lambda payload: None)(payload)
                if answer is not None:
                    return _ip(protocol, identifier, source, answer)
        return None

    def _answer_icmp(self, payload: bytes) -> bytes | None:
        if payload[0] != ICMP_ECHO:
            return None
        reply = b"\0\0\0\0" + payload[4:]
        return reply[:2] + _checksum(reply) + reply[4:]

    def _answer_udp(self, payload: bytes) -> bytes | None:
        source, target = struct.unpack_from("!HH", payload)
        if target not in (TFTP_PORT, TFTP_DATA_PORT):
            return None
        answer = self._answer_tftp(payload[8:])
        if answer is None:
            return None
        return struct.pack("!HHHH", TFTP_DATA_PORT, source, 8 + len(answer), 0) + answer  # without a checksum

    def _answer_tftp(self, request: bytes) -> bytes | None:
        operation, number = struct.unpack_from("!HH", request)
        if operation == READ_REQUEST:
            name = request[2:].partition(b"\0")[0].decode("ascii")
            if name not in self.files:
                return struct.pack("!HH", ERROR, FILE_NOT_FOUND) + b"no such file\0"
            self._transfer, number = self.files[name], 0
        elif operation != ACKNOWLEDGEMENT or number * BLOCK > len(self._transfer):
            return None
        return struct.pack("!HH", DATA, number + 1) + self._transfer[number * BLOCK : (number + 1) * BLOCK]


def _ip(protocol: int, identifier: int, target: bytes, payload: bytes) -> bytes:
    fields = (0x45, 0, IP.size + len(payload), identifier, 0, 64, protocol)
    addresses = (HOST_ADDRESS.packed, target)
    checksum = int.from_bytes(_checksum(IP.pack(*fields, 0, *addresses)), "big")
    return IP.pack(*fields, checksum, *addresses) + payload


def _checksum(data: bytes) -> bytes:
    """Return the Internet checksum (RFC 1071) of some data."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")
