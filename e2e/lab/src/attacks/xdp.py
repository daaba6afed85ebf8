"""AF_XDP by raw system calls: frames that pass neither the network stack nor any queue of the device."""

import ctypes
import mmap
import socket
import struct

from uring import LIBC

AF_XDP, SOL_XDP = 44, 283
MMAP_OFFSETS, TX_RING, UMEM_REG, FILL_RING, COMPLETION_RING = 1, 3, 4, 5, 6
COPY = 1 << 1
PGOFF_TX = 0x80000000
FRAME, FRAMES = 2048, 8


def send(device, frames):
    """Sends frames by a transmit ring in copy mode; gives back how many the kernel took."""
    umem = mmap.mmap(-1, FRAME * FRAMES)
    sock = socket.socket(AF_XDP, socket.SOCK_RAW, 0)
    start = ctypes.addressof(ctypes.c_char.from_buffer(umem))
    sock.setsockopt(SOL_XDP, UMEM_REG, struct.pack("<QQIIII", start, FRAME * FRAMES, FRAME, 0, 0, 0))
    for ring in (FILL_RING, COMPLETION_RING, TX_RING):
        sock.setsockopt(SOL_XDP, ring, struct.pack("<I", FRAMES))
    # struct xdp_mmap_offsets: producer, consumer, desc, flags for rx, tx, fill, completion.
    offsets = struct.unpack("<16Q", sock.getsockopt(SOL_XDP, MMAP_OFFSETS, 128))
    producer, consumer, descriptors, _flags = offsets[4:8]
    ring = mmap.mmap(sock.fileno(), descriptors + FRAMES * 16, offset=PGOFF_TX)
    address = struct.pack("<HHIII", AF_XDP, COPY, socket.if_nametoindex(device), 0, 0)
    if LIBC.bind(sock.fileno(), address, len(address)):
        raise OSError(ctypes.get_errno(), "bind")
    for at, frame in enumerate(frames):
        umem[at * FRAME:at * FRAME + len(frame)] = frame
        struct.pack_into("<QII", ring, descriptors + at * 16, at * FRAME, len(frame), 0)
    struct.pack_into("<I", ring, producer, len(frames))
    if LIBC.sendto(sock.fileno(), None, 0, socket.MSG_DONTWAIT, None, 0) < 0:
        raise OSError(ctypes.get_errno(), "sendto")
    return struct.unpack_from("<I", ring, consumer)[0]
