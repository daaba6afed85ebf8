"""io_uring by raw system calls: operations that never pass through connect(2), send(2) or setsockopt(2)."""

import ctypes
import errno
import mmap
import os
import socket
import struct

LIBC = ctypes.CDLL(None, use_errno=True)
SETUP, ENTER = 425, 426
SQPOLL = 1 << 1
GETEVENTS, SQ_WAKEUP = 1, 2
OP_CONNECT, OP_SEND, OP_URING_CMD = 16, 26, 46
CMD_SETSOCKOPT = 3
SQ_RING, SQES = 0, 0x10000000


class Ring:
    """One request at a time."""

    def __init__(self, flags=0):
        self.flags = flags
        params = ctypes.create_string_buffer(120)
        # sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle (ms)
        struct.pack_into("<5I", params, 0, 0, 0, flags, 0, 2000)
        self.fd = LIBC.syscall(SETUP, 4, params)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "io_uring_setup")
        entries, cq_entries = struct.unpack_from("<2I", params, 0)
        # io_sqring_offsets at 40: head, tail, ring_mask, ring_entries, flags, dropped, array; io_cqring_offsets at 80.
        self.sq_tail, self.sq_mask, self.sq_array = (struct.unpack_from("<I", params, 40 + at)[0] for at in (4, 8, 24))
        self.cq_head, self.cq_tail, self.cq_mask, self.cqes = (struct.unpack_from("<I", params, 80 + at)[0] for at in (0, 4, 8, 20))
        size = max(self.sq_array + entries * 4, self.cqes + cq_entries * 16)
        self.ring = mmap.mmap(self.fd, size, offset=SQ_RING)
        self.sqes = mmap.mmap(self.fd, entries * 64, offset=SQES)

    def word(self, at):
        return struct.unpack_from("<I", self.ring, at)[0]

    def run(self, sqe):
        tail = self.word(self.sq_tail)
        slot = tail & self.word(self.sq_mask)
        self.sqes[slot * 64:slot * 64 + 64] = sqe.ljust(64, b"\0")
        struct.pack_into("<I", self.ring, self.sq_array + 4 * slot, slot)
        struct.pack_into("<I", self.ring, self.sq_tail, tail + 1)
        flags = GETEVENTS | (SQ_WAKEUP if self.flags & SQPOLL else 0)
        if LIBC.syscall(ENTER, self.fd, 1, 1, flags, None, 0) < 0:
            raise OSError(ctypes.get_errno(), "io_uring_enter")
        head = self.word(self.cq_head)
        if head == self.word(self.cq_tail):
            raise OSError(errno.EAGAIN, "no completion")
        result = struct.unpack_from("<i", self.ring, self.cqes + (head & self.word(self.cq_mask)) * 16 + 8)[0]
        struct.pack_into("<I", self.ring, self.cq_head, head + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result

    def connect(self, fd, ip, port):
        address = ctypes.create_string_buffer(struct.pack("=HH", socket.AF_INET, socket.htons(port)) + socket.inet_aton(ip) + b"\0" * 8, 16)
        # opcode, flags, ioprio, fd, off (the length), addr
        self.run(struct.pack("<BBHiQQ", OP_CONNECT, 0, 0, fd, 16, ctypes.addressof(address)))

    def send(self, fd, data):
        buffer = ctypes.create_string_buffer(data, len(data))
        return self.run(struct.pack("<BBHiQQI", OP_SEND, 0, 0, fd, 0, ctypes.addressof(buffer), len(data)))

    def setsockopt(self, fd, level, name, value):
        number = ctypes.c_uint32(value)
        # cmd_op at 8, level and optname at 16, optlen at 44, optval at 48.
        sqe = bytearray(64)
        struct.pack_into("<BBHiIIII", sqe, 0, OP_URING_CMD, 0, 0, fd, CMD_SETSOCKOPT, 0, level, name)
        struct.pack_into("<I", sqe, 44, 4)
        struct.pack_into("<Q", sqe, 48, ctypes.addressof(number))
        self.run(bytes(sqe))
