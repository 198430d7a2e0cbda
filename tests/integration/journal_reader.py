"""Reads a journal's directory, written from proto/JOURNAL.md alone: the second implementation, which
shows whether that document is exact."""
import pathlib
import re
import struct

PAGE, DATA, ALIGN = 4096, 8192, 16
END, CONVERSATION, DONE, TRIM, REPLAY = range(5)
MOVED = 1


def _table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = _table()


def crc32c(data):
    state = 0xFFFFFFFF
    for byte in data:
        state = (state >> 8) ^ TABLE[(state ^ byte) & 0xFF]
    return state ^ 0xFFFFFFFF


class Segment:
    def __init__(self, path):
        self.index = int(path.name[:16], 16)
        self.bytes = path.read_bytes()
        self.gaps, self.records, self.closed = [], [], False
        self.header = self._header(0) or self._header(PAGE)
        if self.header and self.header["index"] == self.index:
            self._scan()
        else:
            self.header = None

    def _header(self, at):
        raw = self.bytes[at:at + 80]
        if len(raw) < 80 or raw[:8] != b"CSJRNL\r\n":
            return None
        names = ("version", "header_bytes", "salt", "index", "segment_bytes", "next_seq", "trim_point",
                 "created_us", "reserved", "crc")
        header = dict(zip(names, struct.unpack("<II16sQQQQqII", raw[8:])))
        return header if header["version"] == 1 and header["crc"] == crc32c(raw[:76]) else None

    def _record(self, at):
        """The record at that place: (type, flags, seq, arrived_us, payload, size), or None."""
        raw = self.bytes[at:at + 32]
        if len(raw) < 32:
            return None
        header_crc, payload_crc, length, kind, flags, reserved, seq, arrived = \
            struct.unpack("<IIIBBHQq", raw)
        size = (32 + length + ALIGN - 1) // ALIGN * ALIGN
        if reserved != 0 or at + size > len(self.bytes):
            return None
        salt = self.header["salt"]
        if header_crc != crc32c(salt[:8] + struct.pack("<Q", at) + raw[4:]):
            return None
        payload = self.bytes[at + 32:at + 32 + length]
        if payload_crc != crc32c(salt[8:] + payload):
            return None
        return kind, flags, seq, arrived, payload, size

    def _scan(self):
        at, written = DATA, len(self.bytes.rstrip(b"\0"))  # no record is all zeros
        while True:
            record = self._record(at)
            if record and record[0] != END:
                self.closed = False
                self.records.append(record[:5])
                at += record[5]
                continue
            self.closed = record is not None
            if record:
                self.end_seq = record[2]
            rest = range(at + ALIGN, written, ALIGN)
            found = next((place for place in rest if self._record(place)), None)
            if found is None:
                self.end = at
                return
            self.gaps.append((at, found))
            at = found


class Journal:
    def __init__(self, directory):
        paths = [p for p in pathlib.Path(directory).iterdir()
                 if re.fullmatch(r"[0-9a-f]{16}\.segment", p.name)]
        self.segments = [Segment(p) for p in sorted(paths)]
        sound = [s for s in self.segments if s.header]
        self.trim_point = max([1] + [s.header["trim_point"] for s in sound])
        found, done, home = {}, set(), {}
        for segment in sound:
            for kind, flags, seq, _arrived, payload in segment.records:
                if kind == CONVERSATION:
                    found[seq], home[seq] = payload, segment.index
                    done.discard(seq)
                elif kind == DONE:
                    for at in range(0, len(payload), 16):
                        first, count, _zero = struct.unpack_from("<QII", payload, at)
                        done.update(range(first, first + count))
                elif kind == TRIM:
                    self.trim_point = max(self.trim_point, struct.unpack("<Q", payload)[0])
                elif kind == REPLAY:
                    done.clear()
        self.stored = {seq for seq in found if home[seq] >= self.trim_point}
        self.waiting = {seq: unpack(found[seq]) for seq in self.stored - done}


def unpack(payload):
    names = ("id", "content_hash", "created_at_us", "arrived_at_us", "flags")
    conversation = dict(zip(names, struct.unpack_from("<16s16sqqI", payload)))
    lengths, at = struct.unpack_from("<5I", payload, 52), 72
    for name, length in zip(("user_id", "platform", "transcript", "summary", "metadata"), lengths):
        conversation[name] = payload[at:at + length].decode("utf-8")
        at += length
    assert at == len(payload)
    if not conversation["flags"] & 1:
        conversation["summary"] = None
    if not conversation["flags"] & 2:
        conversation["metadata"] = None
    return conversation
