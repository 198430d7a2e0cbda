"""A service manager's ear: the socket that NOTIFY_SOCKET names, read all the time, as systemd does. Where
nobody reads, the sender stands still after ten messages."""
import os
import socket
import threading


class Notified:
    """Listens at `path` until the test ends."""

    def __init__(self, path, test):
        self.path = str(path)
        self.heard = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        test.addCleanup(self._close)

    def _read(self):
        while message := self.socket.recv(4096):
            self.heard.append(message.decode())

    def _close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.path)
        self.thread.join()
        self.socket.close()
        os.unlink(self.path)

    def take(self):
        """What was told since the last time, one string a message."""
        count = len(self.heard)
        taken, self.heard[:count] = self.heard[:count], []
        return taken

    def take_until(self, text):
        """Up to the first message that has this in it; None where there is none yet."""
        for at, message in enumerate(self.heard):
            if text in message:
                taken, self.heard[:at + 1] = self.heard[:at + 1], []
                return taken
        return None
