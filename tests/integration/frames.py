"""Messages that no msgpack library would write: values given as bytes, headers that lie."""
import struct

from rpc import conversation, pack

TIMESTAMP = 0xff  # extension type -1


class Raw:
    """A value that goes out as these bytes."""

    def __init__(self, data):
        self.data = data


def encode(value):
    """pack() for values that may be Raw, at the top or directly in a list or dict."""
    if isinstance(value, Raw):
        return value.data
    if isinstance(value, dict):
        return map_header(len(value)) + b"".join(encode(k) + encode(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return array_header(len(value)) + b"".join(map(encode, value))
    return pack(value)


def array_header(count):
    return bytes([0x90 | count]) if count < 16 else b"\xdd" + struct.pack(">I", count)


def map_header(count):
    return bytes([0x80 | count]) if count < 16 else b"\xdf" + struct.pack(">I", count)


def request(msgid, method, *params):
    return encode([0, msgid, method, list(params)])


def store(msgid, **fields):
    """A store request; each keyword adds or replaces a field, bytes by means of Raw."""
    return request(msgid, "store", conversation(**fields))


def extension(kind, data):
    """An ext value of any type (0 to 255) in the shortest form for its length."""
    heads = {1: b"\xd4", 2: b"\xd5", 4: b"\xd6", 8: b"\xd7", 16: b"\xd8"}
    head = heads.get(len(data)) or b"\xc7" + bytes([len(data)])
    return Raw(head + bytes([kind]) + data)


def timestamp32(seconds):
    return extension(TIMESTAMP, struct.pack(">I", seconds))


def timestamp64(seconds, nanoseconds):
    return extension(TIMESTAMP, struct.pack(">Q", nanoseconds << 34 | seconds))


def timestamp96(seconds, nanoseconds):
    return extension(TIMESTAMP, struct.pack(">Iq", nanoseconds, seconds))
