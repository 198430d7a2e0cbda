"""A msgpack-RPC client of the tests' own, on Debian's python3-msgpack.

It shares no code with libconvstore and is written from proto/PROTOCOL.md, so what both understand is
the protocol and not a habit. It also does what a good client never would: raw bytes, half messages,
a half-closed socket. Text is packed with surrogateescape: "\\udcff" goes out as the byte 0xff, which
is how a test sends a str that is no UTF-8.
"""
import select
import socket
import time

import msgpack

from limits import LEAST_SECONDS, scaled

RECEIVE_BYTES = 256 * 1024


class RpcError(Exception):
    """The daemon's error: [code, name, text, retry_after_ms or nil]."""

    def __init__(self, error):
        if not isinstance(error, (list, tuple)) or len(error) != 4:
            raise AssertionError(f"an error is [code, name, text, retry_after_ms], got {error!r}")
        self.code, self.name, self.text, self.retry_after_ms = error
        super().__init__(f"{self.name} ({self.code}): {self.text}")


def pack(value):
    """The bytes of one msgpack value; datetimes and msgpack.Timestamp become ext -1."""
    return msgpack.packb(value, use_bin_type=True, unicode_errors="surrogateescape", datetime=True)


def conversation(user_id="user-1", transcript="User: Hello\nAI: Hello, how can I help?", **more):
    """A valid conversation; keyword arguments add keys or replace them."""
    fields = {"user_id": user_id, "platform": "web", "transcript": transcript}
    fields.update(more)
    return fields


class Client:
    """One connection. Replies may come in any order; those not asked for yet are kept."""

    def __init__(self, path, timeout=LEAST_SECONDS):
        self.timeout = scaled(max(timeout, LEAST_SECONDS))
        self.next_msgid = 1
        self.kept = {}  # msgid -> (error, result)
        self.ended = False
        self.unpacker = msgpack.Unpacker(raw=False, strict_map_key=False, max_buffer_size=1 << 28)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(self.timeout)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def fileno(self):
        return self.socket.fileno()

    def close(self):
        self.socket.close()

    def send_raw(self, data):
        self.socket.sendall(data)

    def half_close(self):
        """No more requests from here; replies can still be read."""
        self.socket.shutdown(socket.SHUT_WR)

    def send(self, method, *params, msgid=None):
        """Sends a request and does not wait: its msgid, for reply()."""
        if msgid is None:
            msgid = self.next_msgid
            self.next_msgid = (self.next_msgid + 1) % 2**32
        self.send_raw(pack([0, msgid, method, list(params)]))
        return msgid

    def notify(self, method, *params):
        self.send_raw(pack([2, method, list(params)]))

    def request(self, method, *params, timeout=None):
        """Sends, waits, and returns the result; raises RpcError."""
        error, result = self.reply(self.send(method, *params), timeout)
        if error is not None:
            raise RpcError(error)
        return result

    def reply(self, msgid, timeout=None):
        """(error or None, result) of one request, whatever comes before it."""
        deadline = self._deadline(timeout)
        while msgid not in self.kept:
            message = self._message_until(deadline)
            if message is None:
                raise ConnectionError(f"the daemon closed before it answered msgid {msgid}")
            self._keep(message)
        return self.kept.pop(msgid)

    def receive(self, timeout=None):
        """The next message as it came, [1, msgid, error, result], or None at the stream's end."""
        return self._message_until(self._deadline(timeout))

    def receive_nothing(self, seconds):
        """Fails when a message or the end comes within the time."""
        try:
            message = self._message_until(time.monotonic() + seconds)
        except TimeoutError:
            return
        raise AssertionError(f"expected silence, got {message!r}")

    def wait_closed(self, timeout=None):
        """Reads to the end of the stream; the messages that came before it."""
        messages = []
        deadline = self._deadline(timeout)
        while True:
            message = self._message_until(deadline)
            if message is None:
                return messages
            messages.append(message)

    def _deadline(self, timeout):
        return time.monotonic() + (self.timeout if timeout is None else scaled(timeout))

    def _keep(self, message):
        if not (isinstance(message, list) and len(message) == 4 and message[0] == 1):
            raise AssertionError(f"not a response: {message!r}")
        if message[1] in self.kept:
            raise AssertionError(f"msgid {message[1]} answered twice")
        self.kept[message[1]] = (message[2], message[3])

    def _message_until(self, deadline):
        while True:
            for message in self.unpacker:
                return message
            if self.ended:
                return None
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                raise TimeoutError("no message from the daemon in time")
            try:
                data = self.socket.recv(RECEIVE_BYTES)
            except ConnectionResetError:
                data = b""
            self.ended = not data
            self.unpacker.feed(data)
