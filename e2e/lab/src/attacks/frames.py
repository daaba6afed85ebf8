"""Packets by hand: Ethernet, IPv4, IPv6 and TCP headers with right checksums, so that nothing but the guard stops them."""

import socket
import struct

SYN, PSH, ACK = 0x02, 0x08, 0x10
TCP, UDP, SCTP, IPIP, FRAGMENT, DESTINATION = 6, 17, 132, 4, 44, 60


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(ip):
    return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)


def tcp(src, dst, sport, dport, flags, payload, options=b""):
    options += b"\0" * (-len(options) % 4)
    offset = (20 + len(options)) // 4 << 4
    head = struct.pack("!HHIIBBHHH", sport, dport, 1000, 1 if flags & ACK else 0, offset, flags, 65000, 0, 0) + options
    size = len(head) + len(payload)
    pseudo = packed(src) + packed(dst)
    pseudo += struct.pack("!IHBB", size, 0, 0, TCP) if ":" in src else struct.pack("!BBH", 0, TCP, size)
    return head[:16] + struct.pack("!H", checksum(pseudo + head + payload)) + head[18:] + payload


def ipv4(src, dst, protocol, payload, ident=7, fragment=0):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), ident, fragment, 64, protocol, 0, packed(src), packed(dst))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(src, dst, protocol, payload):
    return struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, 64, packed(src), packed(dst)) + payload


def ether(dst, src, kind, payload, vlan=None):
    tag = b"" if vlan is None else struct.pack("!HH", 0x8100, vlan)
    return dst + src + tag + struct.pack("!H", kind) + payload
