"""A name server that answers nothing, or gives every name the same address; and a resolv.conf that only
the daemon sees. Port 53 and a mount of its own take root."""
import socket
import struct
import threading

# One of them is free.
ADDRESSES = ("127.0.0.53", "127.0.0.9", "127.0.0.99")
WRAPPER = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"')
HEADER_BYTES = 12
TYPE_A = 1


class NameServer:
    """Silent until `address` is an IPv4 address. `asked` counts the questions."""

    def __init__(self, test):
        self.address, self.asked = None, 0
        self.socket = self.bind(test)
        self.socket.settimeout(0.1)
        self.ending = threading.Event()
        thread = threading.Thread(target=self.serve)
        thread.start()
        test.addCleanup(thread.join)
        test.addCleanup(self.ending.set)
        self.resolv = test.directory / "resolv.conf"
        self.resolv.write_text(f"nameserver {self.socket.getsockname()[0]}\n")
        self.wrapper = (*WRAPPER, str(self.resolv))  # for Scenario.daemon()

    @staticmethod
    def bind(test):
        for address in ADDRESSES:
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            test.addCleanup(server.close)
            try:
                server.bind((address, 53))
                return server
            except OSError:
                pass
        return test.skipTest("each of the addresses has a name server")

    def serve(self):
        while not self.ending.is_set():
            try:
                question, sender = self.socket.recvfrom(512)
            except socket.timeout:
                continue
            self.asked += 1
            if self.address is not None:
                self.socket.sendto(self.answer(question), sender)

    def answer(self, question):
        """With no record where something else than an IPv4 address is asked for."""
        end = question.index(b"\0", HEADER_BYTES) + 5  # behind the name, its type and its class
        name_type = question[end - 4:end]
        records = b""
        if name_type == struct.pack("!HH", TYPE_A, 1):
            # The name as a pointer to the question's, no time to live, four bytes of address.
            records = b"\xc0\x0c" + name_type + struct.pack("!IH", 0, 4) + socket.inet_aton(self.address)
        header = question[:2] + struct.pack("!HHHHH", 0x8180, 1, 1 if records else 0, 0, 0)
        return header + question[HEADER_BYTES:end] + records
