"""Ways around the capture, tried from inside a pod.

    attack.py <vector> <marker> <own ip4> <own ip6> <next hop ip4> <name>=<ip4>,<ip6> ...

Each vector tries to bring its marker to every target and prints one JSON line: per target the steps that were taken and how
each ended ("ok" or the name of the errno), and the source port that was used. It judges nothing: what the wire and the servers
saw is judged outside.
"""

import array
import contextlib
import ctypes
import errno
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time

import frames
import uring
import xdp
from frames import ACK, PSH, SYN

PORT = 7000
SO_MARK, SO_BINDTODEVICE, SO_BINDTOIFINDEX = 36, 25, 62
IP_UNICAST_IF, IP_TRANSPARENT, IP_HDRINCL, IPV6_HDRINCL = 50, 19, 3, 36
TCP_REPAIR, TCP_FASTOPEN_CONNECT, MSG_FASTOPEN = 19, 30, 0x20000000
MPTCP, ETH_P_ALL = 262, 3
CLONE_NEWNET = 0x40000000
# ZdsHello { version: V1 } (cni-zds.md 1).
ZDS_HELLO = b"\x08\x01"
# Longer than any answer here takes, shorter than a retransmitted SYN.
PATIENCE = 0.9


class Try:
    """One attempt at one target."""

    def __init__(self, me, name, ips):
        self.me, self.name = me, name
        self.ip4, self.ip6 = ips
        self.steps, self.port = [], None
        # The marker is repeated, so that a cut at the end of a packet never hides all of it.
        self.payload = ("%s-%s." % (me.marker, name)).encode() * 6

    def step(self, name, run):
        try:
            result = run()
            self.steps.append([name, "ok"])
            return result if result is not None else True
        except OSError as error:
            self.steps.append([name, errno.errorcode.get(error.errno, "timeout" if error.errno is None else str(error.errno))])
            return None

    def option(self, sock, level, name, value, said):
        return self.step(said, lambda: sock.setsockopt(level, name, value))

    def socket(self, family=socket.AF_INET, kind=socket.SOCK_STREAM, protocol=0, said="socket"):
        sock = self.step(said, lambda: socket.socket(family, kind, protocol))
        if sock:
            sock.settimeout(PATIENCE)
        return sock

    def connect(self, sock, to=None, said="connect"):
        done = self.step(said, lambda: sock.connect(to or (self.ip4, PORT)))
        with contextlib.suppress(OSError):
            self.port = sock.getsockname()[1]
        return done

    def send(self, sock):
        return self.step("send", lambda: sock.sendall(self.payload))

    def answer(self, sock):
        """The server says its name to who has sent something; a word is what proves that the bytes arrived."""
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        said = self.step("answer", lambda: sock.recv(200) or None)
        if isinstance(said, bytes):
            self.steps.append(["said", said.decode(errors="replace").strip()])
        sock.close()

    def raw(self, family, protocol, packet, flag=None):
        sock = self.socket(family, socket.SOCK_RAW, protocol, "raw socket")
        if not sock:
            return
        if flag:
            self.option(sock, *flag, 1, "header included")
        to = (self.ip6, 0) if family == socket.AF_INET6 else (self.ip4, 0)
        self.step("send", lambda: sock.sendto(packet, to))
        sock.close()


class Me:
    """Where we are."""

    def __init__(self, vector, marker, ip4, ip6, hop):
        self.vector, self.marker, self.ip4, self.ip6, self.hop = vector, marker, ip4, ip6, hop
        self.device = "eth0"

    def neighbour(self):
        """The node's hardware address: what a frame to anywhere is sent to."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"x", (self.hop, 9))
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with open("/proc/net/arp") as table:
                for line in table:
                    words = line.split()
                    if words[0] == self.hop and words[3] != "00:00:00:00:00:00":
                        return bytes.fromhex(words[3].replace(":", ""))
            time.sleep(0.01)
        raise OSError(errno.EHOSTUNREACH, "no neighbour")


def run(*argv, text=None):
    return subprocess.run(argv, input=text, text=True, check=True, stdout=subprocess.PIPE).stdout


VECTORS = {}


def vector(run):
    VECTORS[run.__name__.replace("_", "-")] = run
    return run


def dial(t, before=None, after=None, family=socket.AF_INET, to=None):
    sock = t.socket(family)
    if before:
        before(sock)
    if t.connect(sock, to):
        if after:
            after(sock)
        if t.send(sock):
            t.answer(sock)
    sock.close()


# Sockets whose route is changed by an option.


@vector
def plain_connect(t):
    dial(t)


def bind_device(t):
    return lambda s: t.option(s, socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0\0", "bind")


def bind_index(t):
    return lambda s: t.option(s, socket.SOL_SOCKET, SO_BINDTOIFINDEX, socket.if_nametoindex("eth0"), "bind")


@vector
def device_before(t):
    dial(t, before=bind_device(t))


@vector
def device_after(t):
    dial(t, after=bind_device(t))


@vector
def ifindex_before(t):
    dial(t, before=bind_index(t))


@vector
def ifindex_after(t):
    dial(t, after=bind_index(t))


@vector
def unicast_if(t):
    index = socket.htonl(socket.if_nametoindex("eth0"))
    dial(t, before=lambda s: t.option(s, socket.IPPROTO_IP, IP_UNICAST_IF, struct.pack("=I", index), "option"))


def mark(value, when):
    def attack(t):
        dial(t, **{when: lambda s: t.option(s, socket.SOL_SOCKET, SO_MARK, value, "mark")})
    return attack


for value in (0, 0x539, 0x1000, 0x2000):
    VECTORS["mark-%#x-before" % value] = mark(value, "before")
    VECTORS["mark-%#x-after" % value] = mark(value, "after")


@vector
def mark_by_message(t):
    sock = t.socket()
    if t.connect(sock):
        control = [(socket.SOL_SOCKET, SO_MARK, array.array("I", [0]).tobytes())]
        if t.step("mark", lambda: sock.sendmsg([t.payload], control)):
            t.answer(sock)


@vector
def reconnect(t):
    """A socket that was captured, is disconnected, bound to the device, and connects again."""
    sock = t.socket()
    if not t.connect(sock):
        return
    libc = uring.LIBC
    t.step("disconnect", lambda: None if libc.connect(sock.fileno(), struct.pack("=H14x", 0), 16) == 0 else fail())
    bind_device(t)(sock)
    if t.connect(sock, said="connect again") and t.send(sock):
        t.answer(sock)


def fail():
    import ctypes
    raise OSError(ctypes.get_errno(), "")


@vector
def foreign_source(t):
    def before(sock):
        t.option(sock, socket.IPPROTO_IP, IP_TRANSPARENT, 1, "transparent")
        t.step("bind", lambda: sock.bind(("192.0.2.77", 0)))
    dial(t, before=before)


@vector
def repair(t):
    """TCP_REPAIR makes an established socket without any handshake."""
    sock = t.socket()
    t.option(sock, socket.IPPROTO_TCP, TCP_REPAIR, 1, "repair")
    if t.connect(sock):
        t.option(sock, socket.IPPROTO_TCP, TCP_REPAIR, 0, "no repair")
        t.option(sock, socket.SOL_SOCKET, SO_MARK, 0, "mark")
        if t.send(sock):
            t.answer(sock)


# Other ways to a connection.


@vector
def v4_mapped(t):
    dial(t, family=socket.AF_INET6, to=("::ffff:" + t.ip4, PORT))


@vector
def ipv6(t):
    dial(t, family=socket.AF_INET6, to=(t.ip6, PORT))


@vector
def fast_open(t):
    sock = t.socket()
    sock.settimeout(None)
    if t.step("send", lambda: sock.sendto(t.payload, MSG_FASTOPEN, (t.ip4, PORT))):
        sock.settimeout(PATIENCE)
        t.port = sock.getsockname()[1]
        t.answer(sock)


@vector
def fast_open_connect(t):
    dial(t, before=lambda s: t.option(s, socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1, "fast open"))


@vector
def mptcp(t):
    sock = t.socket(protocol=MPTCP)
    if sock and t.connect(sock) and t.send(sock):
        t.answer(sock)


def by_ring(flags, after=None):
    def attack(t):
        sock = t.socket()
        sock.settimeout(None)
        ring = t.step("ring", lambda: uring.Ring(flags))
        if ring and t.step("connect", lambda: ring.connect(sock.fileno(), t.ip4, PORT)):
            t.port = sock.getsockname()[1]
            if after:
                after(t, ring, sock)
            if t.step("send", lambda: ring.send(sock.fileno(), t.payload)):
                sock.settimeout(PATIENCE)
                t.answer(sock)
    return attack


VECTORS["uring"] = by_ring(0)
VECTORS["uring-kernel-thread"] = by_ring(uring.SQPOLL)
VECTORS["uring-mark-after"] = by_ring(
    0, lambda t, ring, sock: t.step("mark", lambda: ring.setsockopt(sock.fileno(), socket.SOL_SOCKET, SO_MARK, 0)))


# Packets by hand.


def segments(t, src=None):
    """A SYN with payload, then data without one: one of them is what a careless guard lets through."""
    src = src or t.me.ip4
    t.port = 40000
    return [frames.tcp(src, t.ip4, 40000, PORT, flags, t.payload) for flags in (SYN, PSH | ACK)]


@vector
def raw_ipv4(t):
    for segment in segments(t):
        t.raw(socket.AF_INET, socket.IPPROTO_RAW, frames.ipv4(t.me.ip4, t.ip4, frames.TCP, segment))


@vector
def raw_ipv4_marked(t):
    """The mark of a proxy on a raw socket."""
    for value in (0x2000, 0x539):
        sock = t.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW, "raw socket")
        if sock:
            t.option(sock, socket.SOL_SOCKET, SO_MARK, value, "mark")
            for segment in segments(t):
                t.step("send", lambda: sock.sendto(frames.ipv4(t.me.ip4, t.ip4, frames.TCP, segment), (t.ip4, 0)))


@vector
def raw_tcp(t):
    """The kernel writes the IP header."""
    for segment in segments(t):
        t.raw(socket.AF_INET, socket.IPPROTO_TCP, segment)


@vector
def raw_ipv6(t):
    for flags in (SYN, PSH | ACK):
        t.raw(socket.AF_INET6, socket.IPPROTO_TCP, frames.tcp(t.me.ip6, t.ip6, 40000, PORT, flags, t.payload))
    t.port = 40000


@vector
def sctp(t):
    chunk = struct.pack("!HHII", 40000, PORT, 0, 0) + t.payload
    t.raw(socket.AF_INET, socket.IPPROTO_RAW, frames.ipv4(t.me.ip4, t.ip4, frames.SCTP, chunk))


@vector
def ip_in_ip(t):
    inner = frames.ipv4(t.me.ip4, t.ip4, frames.TCP, segments(t)[1])
    t.raw(socket.AF_INET, socket.IPPROTO_RAW, frames.ipv4(t.me.ip4, t.ip4, frames.IPIP, inner))


@vector
def udp(t):
    """The stated rule: datagrams are not in the mesh yet."""
    sock = t.socket(kind=socket.SOCK_DGRAM)
    t.step("send", lambda: sock.sendto(t.payload, (t.ip4, PORT)))


def on_the_device(t, kind, packets, vlan=None):
    sock = t.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL), "packet socket")
    if not sock:
        return
    sock.bind((t.me.device, 0))
    own = sock.getsockname()[4]
    node = t.step("neighbour", t.me.neighbour)
    for packet in packets if node else []:
        t.step("send", lambda: sock.send(frames.ether(node, own, kind, packet, vlan)))
    sock.close()


@vector
def packet_syn(t):
    on_the_device(t, 0x0800, [frames.ipv4(t.me.ip4, t.ip4, frames.TCP, segments(t)[0])])


@vector
def packet_data(t):
    on_the_device(t, 0x0800, [frames.ipv4(t.me.ip4, t.ip4, frames.TCP, segments(t)[1])])


@vector
def packet_odd_flags(t):
    """Data on segments with any odd combination of flags, none at all among them."""
    t.port = 40000
    odd = [frames.tcp(t.me.ip4, t.ip4, 40000, PORT, flags, t.payload) for flags in (0, 0x01, 0x04, 0x14, 0x20, 0x3F, 0xC2)]
    on_the_device(t, 0x0800, [frames.ipv4(t.me.ip4, t.ip4, frames.TCP, segment) for segment in odd])


@vector
def packet_options(t):
    """The bytes are in TCP options of a bare ACK: no payload at all."""
    t.port = 40000
    option = bytes([253, 40]) + t.payload[:38]
    bare = frames.tcp(t.me.ip4, t.ip4, 40000, PORT, ACK, b"", option)
    on_the_device(t, 0x0800, [frames.ipv4(t.me.ip4, t.ip4, frames.TCP, bare)])


@vector
def packet_trailer(t):
    """The bytes lie behind the end that the IP header admits to."""
    t.port = 40000
    bare = frames.ipv4(t.me.ip4, t.ip4, frames.TCP, frames.tcp(t.me.ip4, t.ip4, 40000, PORT, ACK, b""))
    on_the_device(t, 0x0800, [bare + t.payload])


@vector
def packet_vlan(t):
    on_the_device(t, 0x0800, [frames.ipv4(t.me.ip4, t.ip4, frames.TCP, segments(t)[0])], vlan=5)


@vector
def packet_fragments(t):
    segment = segments(t)[1]
    first, rest = segment[:24], segment[24:]
    more = 0x2000
    parts = [frames.ipv4(t.me.ip4, t.ip4, frames.TCP, first, 99, more), frames.ipv4(t.me.ip4, t.ip4, frames.TCP, rest, 99, 3)]
    on_the_device(t, 0x0800, parts)


@vector
def packet_ipv6_extensions(t):
    t.port = 40000
    segment = frames.tcp(t.me.ip6, t.ip6, 40000, PORT, PSH | ACK, t.payload)
    # Destination options of 8 bytes, all padding (RFC 8200 4.6): next header, length 0, PadN of 6.
    once = bytes([frames.TCP, 0, 1, 4, 0, 0, 0, 0]) + segment
    twice = bytes([frames.DESTINATION, 0, 1, 4, 0, 0, 0, 0]) + once
    fragment = struct.pack("!BBHI", frames.TCP, 0, 0, 5) + segment
    packets = [(frames.DESTINATION, once), (frames.DESTINATION, twice), (frames.FRAGMENT, fragment)]
    on_the_device(t, 0x86DD, [frames.ipv6(t.me.ip6, t.ip6, kind, body) for kind, body in packets])


XDP = threading.Lock()


@vector
def af_xdp(t):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((t.me.device, 0))
        own = sock.getsockname()[4]
    node = t.step("neighbour", t.me.neighbour)
    packets = [frames.ether(node, own, 0x0800, frames.ipv4(t.me.ip4, t.ip4, frames.TCP, s)) for s in segments(t)]
    # One socket at a time can have the queue.
    with XDP:
        t.step("send", lambda: xdp.send(t.me.device, packets))


# What root can do to the pod's own network.


@contextlib.contextmanager
def nothing(me):
    yield


@contextlib.contextmanager
def rules_flushed(me):
    for family in ("-4", "-6"):
        run("ip", family, "rule", "flush")
        for rule in ("from all lookup local pref 1", "from all lookup main pref 32766"):
            run("ip", family, "rule", "add", *rule.split())
        # A flush spares preference 0.
        subprocess.run(["ip", family, "rule", "del", "pref", "0"], capture_output=True)
    yield


@contextlib.contextmanager
def routes_flushed(me):
    for family in ("-4", "-6"):
        for table in ("100", "101"):
            run("ip", family, "route", "flush", "table", table)
    yield


@contextlib.contextmanager
def rule_in_front(me):
    rule = ("pref", "1", "fwmark", "0x1000/0x1000", "lookup", "main")
    run("ip", "rule", "add", *rule)
    try:
        yield
    finally:
        # Nobody else would take it away: it is not one of the agent's.
        run("ip", "rule", "del", *rule)


@contextlib.contextmanager
def second_interface(me):
    """A macvlan on the pod's own interface, which every new packet is routed to."""
    run("ip", "link", "add", "mv0", "link", "eth0", "type", "macvlan", "mode", "bridge")
    try:
        run("ip", "link", "set", "mv0", "up")
        run("ip", "addr", "add", me.ip4.rsplit(".", 1)[0] + ".250/32", "dev", "mv0")
        run("ip", "route", "add", "default", "via", me.hop, "dev", "mv0", "onlink", "table", "77")
        run("ip", "rule", "add", "pref", "1", "from", "all", "lookup", "77")
        # The local table first, as before: only what leaves is led elsewhere.
        subprocess.run(["ip", "rule", "add", "pref", "0", "from", "all", "lookup", "local"], capture_output=True)
        me.device = "mv0"
        yield
    finally:
        subprocess.run(["ip", "rule", "del", "pref", "1", "from", "all", "lookup", "77"])
        subprocess.run(["ip", "rule", "del", "pref", "0", "from", "all", "lookup", "local"])
        run("ip", "link", "del", "mv0")


def led_out(statement):
    """Everything on lo, where captured connections are in clear, is led out of the pod's interface as well, or instead."""
    @contextlib.contextmanager
    def setting(me):
        chain = "chain out { type filter hook egress device lo priority 0; tcp flags & psh == psh %s to eth0; }" % statement
        run("nft", "-f", "-", text="table netdev led_out {\n%s\n}\n" % chain)
        try:
            yield
        finally:
            run("nft", "delete", "table", "netdev", "led_out")
    return setting


SETTINGS = {"copied": led_out("dup"), "moved": led_out("fwd"), "rules-flushed": rules_flushed, "routes-flushed": routes_flushed, "rule-in-front": rule_in_front,
            "second-interface": second_interface}
for name in ("copied", "moved", "rules-flushed", "routes-flushed", "rule-in-front"):
    VECTORS[name] = plain_connect


@vector
def second_interface(t):
    dial(t)
    on_the_device(t, 0x0800, [frames.ipv4(t.me.ip4, t.ip4, frames.TCP, segment) for segment in segments(t)])


def ready(**said):
    print(json.dumps({"ready": True, **said}), flush=True)


def sysctl(name, value):
    with open("/proc/sys/net/ipv4/" + name, "w") as file:
        file.write(value)


def serve(t, spoil_before=None, spoil_after=None):
    """An application that is called, and whose answers shall leave in clear."""
    if spoil_before:
        spoil_before()
    listener = socket.create_server(("0.0.0.0", 7100))
    listener.settimeout(4)
    ready()
    sock = t.step("accept", lambda: listener.accept()[0])
    if sock:
        sock.settimeout(PATIENCE)
        if spoil_after:
            spoil_after()
        t.option(sock, socket.SOL_SOCKET, SO_MARK, 0, "mark")
        t.send(sock)
        t.port = 7100
        time.sleep(PATIENCE)


@vector
def server_without_mark(t):
    """tcp_fwmark_accept off: the accepted socket has no mark that leads its answers to the proxy."""
    serve(t, spoil_before=lambda: sysctl("tcp_fwmark_accept", "0"))


@vector
def server_rules_flushed(t):
    def flush():
        with rules_flushed(t.me):
            pass
    serve(t, spoil_after=flush)


# A namespace in the pod, behind it as behind a router.

CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def nested(me):
    """A child in a network namespace of its own, whose packets the pod forwards."""
    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    child = os.fork()
    if child == 0:
        if uring.LIBC.unshare(CLONE_NEWNET):
            os._exit(1)
        os.write(ready_w, b"1")
        os.read(go_r, 1)
        me.ip4 = me.ip4.rsplit(".", 1)[0] + ".251"
        me.hop, me.device = "169.254.7.1", "inner"
        try:
            yield True
        finally:
            os._exit(0)
    os.close(ready_w)
    if not os.read(ready_r, 1):
        raise OSError(errno.EPERM, "unshare")
    try:
        run("ip", "link", "add", "outer", "type", "veth", "peer", "name", "inner", "netns", str(child))
        run("ip", "link", "set", "outer", "up")
        run("ip", "addr", "add", "169.254.7.1/32", "dev", "outer")
        run("ip", "route", "add", me.ip4.rsplit(".", 1)[0] + ".251/32", "dev", "outer")
        sysctl("ip_forward", "1")
        inside = ("nsenter", "--net=/proc/%d/ns/net" % child, "ip", "-batch", "-")
        run(*inside, text="link set lo up\nlink set inner up\naddr add %s.251/32 dev inner\n"
            "route add default via 169.254.7.1 dev inner onlink\n" % me.ip4.rsplit(".", 1)[0])
        nat = "add table ip nested; add chain ip nested out { type nat hook postrouting priority 100; }; "
        run("nft", "-f", "-", text=nat.replace("; ", "\n", 1) + "add rule ip nested out oifname eth0 masquerade\n")
        os.write(go_w, b"1")
        yield False
        os.waitpid(child, 0)
    finally:
        subprocess.run(["nft", "delete", "table", "ip", "nested"], capture_output=True)
        subprocess.run(["ip", "link", "del", "outer"], capture_output=True)
        sysctl("ip_forward", "0")


@vector
def forwarded(t):
    """A whole connection with masquerading, then single segments: the pod as a router."""
    dial(t)
    on_the_device(t, 0x0800, [frames.ipv4(t.me.ip4, t.ip4, frames.TCP, segment) for segment in segments(t)])


@vector
def forwarded_options(t):
    """A bare ACK that the pod forwards has no socket; what can its options carry?"""
    packet_options(t)


# Attempts to take what belongs to others.


def thief(me, tries):
    """Listens where the proxy listens, and takes whatever comes."""
    taken, opened = [], []
    listeners = []
    for port in (15001, 15006, 15008):
        for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET, me.ip4), (socket.AF_INET6, "::")):
            sock = socket.socket(family)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind((host, port))
                sock.listen(100)
                opened.append("%s:%d" % (host, port))
                listeners.append(sock)
            except OSError as error:
                opened.append("%s:%d %s" % (host, port, errno.errorcode[error.errno]))

    def take(sock):
        while True:
            conn, peer = sock.accept()
            taken.append("%s %s" % (sock.getsockname(), peer))
            conn.sendall(b"thief\n")
            conn.close()

    for sock in listeners:
        threading.Thread(target=take, args=(sock,), daemon=True).start()
    ready(opened=opened)
    # Until the one who started us closes our input.
    sys.stdin.read()
    print(json.dumps({"taken": taken}), flush=True)


def hijack(me, tries):
    """Turns the proxy's own connection to the application, which is in clear, towards a server on the network.

    The proxy connects from the caller's address to ours; that is translated on its way out and back, and the rules that
    keep it in the pod are flushed."""
    caller, away = tries
    # A socket's mark decides routes before and after translation; so only flushed rules let it out.
    text = """
    table ip hijack {
      chain out { type nat hook output priority -100; ip daddr %s tcp dport 7100 dnat to %s:%d; }
      chain post { type nat hook postrouting priority 100; oifname "eth0" ip saddr %s masquerade; }
      chain pre { type nat hook prerouting priority -100; }
    }""" % (me.ip4, away.ip4, PORT, caller.ip4)
    run("nft", "-f", "-", text=text)
    run("ip", "route", "add", "local", caller.ip4, "dev", "lo", "table", "88")
    try:
        with rules_flushed(me):
            # Answers are for the proxy's socket, which has the caller's address; the tunnel's own packets go as before.
            run("ip", "rule", "add", "pref", "1", "iif", "eth0", "to", caller.ip4, "lookup", "88")
            ready()
            sys.stdin.read()
    finally:
        run("nft", "delete", "table", "ip", "hijack")
        subprocess.run(["ip", "rule", "del", "pref", "1", "iif", "eth0", "to", caller.ip4, "lookup", "88"])
        run("ip", "route", "flush", "table", "88")


def walk(me, tries, first, count):
    """One connection from each source port: a door that opens for one of them lets somebody else's permit be used."""
    ends = {}
    t = tries[0]
    for port in range(first, first + count):
        with socket.socket() as sock:
            sock.settimeout(PATIENCE)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((me.ip4, port))
                sock.connect((t.ip4, PORT))
                sock.sendall(t.payload)
                said = sock.recv(200)
                end = "served" if said else "closed"
            except OSError as error:
                end = errno.errorcode.get(error.errno, "timeout") if error.errno else "timeout"
        ends[end] = ends.get(end, 0) + 1
    print(json.dumps({"ends": ends}), flush=True)


def keep(me, tries):
    """A connection that talks on and on: one line every 20 ms, until our input is closed or the connection ends."""
    t = tries[0]
    sock = socket.create_connection((t.ip4, PORT), 5)
    ready(port=sock.getsockname()[1])
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    sent, end = 0, "closed by us"
    while not over.wait(0.02):
        try:
            sock.sendall(t.payload + b"\n")
            sent += 1
        except OSError as error:
            end = errno.errorcode.get(error.errno, str(error))
            break
    print(json.dumps({"sent": sent, "end": end}), flush=True)


def hand_over(me, path, *hidden):
    """Says hello at the node agent's socket as a node proxy does, and waits for what a node proxy gets.

    With a cgroup that is made for it, below the pod's, it goes there first and into a network of its own: then nothing about
    the process itself says pod any more, only where its cgroup lies.
    """
    for folder in hidden:
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "cgroup.procs"), "w") as procs:
            procs.write(str(os.getpid()))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
    said = {}
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(5)
    try:
        sock.connect(path)
        sock.send(ZDS_HELLO)
        data, descriptors, _, _ = socket.recv_fds(sock, 1024, 4)
        said = {"bytes": len(data), "descriptors": len(descriptors)}
    except OSError as error:
        said = {"error": errno.errorcode.get(error.errno, "timeout") if error.errno else "timeout"}
    print(json.dumps(said), flush=True)


def main():
    name, marker, ip4, ip6, hop, *rest = sys.argv[1:]
    me = Me(name, marker, ip4, ip6, hop)
    tries = [Try(me, *(t.split("=")[0], t.split("=")[1].split(","))) for t in rest if "=" in t]
    if name == "thief":
        return thief(me, tries)
    if name == "hijack":
        return hijack(me, tries)
    if name == "walk":
        return walk(me, tries, *(int(n) for n in rest if "=" not in n))
    if name == "keep":
        return keep(me, tries)
    if name == "hand-over":
        return hand_over(me, *rest)
    if name.startswith("forwarded"):
        with nested(me) as child:
            if child:
                attack(VECTORS[name], tries)
        return None
    with SETTINGS.get(name, nothing)(me):
        attack(VECTORS[name], tries)
    return None


def attack(run, tries):
    threads = [threading.Thread(target=run, args=(t,), daemon=True) for t in tries]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 5
    for thread in threads:
        thread.join(max(0, until - time.monotonic()))
    said = {t.name: {"steps": t.steps, "port": t.port, "over": not thread.is_alive()} for t, thread in zip(tries, threads)}
    print(json.dumps(said), flush=True)


main()
sys.stdout.flush()
# A thread that hangs in a system call is not waited for.
os._exit(0)
