"""Proxies before PostgreSQL's Unix socket: one cuts a connection at one exact moment, when COMMIT has
reached the server, which has committed, and its answer never comes back; one gives the server another
statement than was asked; one makes the server older than it is."""
import pathlib
import re
import socket
import threading

COMMITTED = b"C\x00\x00\x00\x0bCOMMIT\x00"  # CommandComplete with the tag COMMIT
SOCKET = ".s.PGSQL.5432"


class Proxy:
    """Listens in `directory`. edit() may change what the server says."""

    def __init__(self, directory, postgres):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir()
        self.server_path = re.search(r"host=(\S+)", postgres.conninfo)[1] + "/" + SOCKET
        self.conninfo = f"host={self.directory} dbname=postgres user=postgres"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.directory / SOCKET))
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        # shutdown() wakes accept() up, close() alone would not.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(self.server_path)
            except OSError:
                client.close()
                continue
            for pump in (self._requests, self._answers):
                threading.Thread(target=pump, args=(client, server), daemon=True).start()

    @staticmethod
    def _end(*sockets):
        for one in sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _requests(self, client, server):
        try:
            while data := client.recv(1 << 16):
                server.sendall(self.edit_request(data))
        except OSError:
            pass
        self._end(client, server)

    def edit_request(self, data):
        """What the server gets of one read."""
        return data

    def edit(self, data):
        """What the client gets of one read, and whether the connection ends with it."""
        return data, False

    def _answers(self, client, server):
        end = False
        try:
            while not end and (data := server.recv(1 << 16)):
                data, end = self.edit(data)
                client.sendall(data)
        except OSError:
            pass
        self._end(client, server)
        client.close()
        server.close()


class CommitCutter(Proxy):
    """While `cutting` it withholds every second answer to a COMMIT on, and closes that connection on
    both sides; `cuts` counts them."""

    def __init__(self, directory, postgres):
        self.cutting = False
        self.cuts = self.commits = 0
        self.lock = threading.Lock()
        super().__init__(directory, postgres)

    def _wants_cut(self):
        with self.lock:
            self.commits += 1
            if not self.cutting or self.commits % 2:
                return False
            self.cuts += 1
            return True

    def edit(self, data):
        """An answer that is torn over two reads would slip through uncut: that costs a cut only."""
        at = data.find(COMMITTED)
        cut = at >= 0 and self._wants_cut()
        return (data[:at] if cut else data), cut


class OtherStatement(Proxy):
    """The server gets another statement, where that is no longer than what the client asked."""

    def __init__(self, directory, postgres, asked, instead):
        self.asked, self.instead, self.edits = asked.encode(), instead.ljust(len(asked)).encode(), 0
        super().__init__(directory, postgres)

    def edit_request(self, data):
        self.edits += data.count(self.asked)
        return data.replace(self.asked, self.instead)


class OldServer(Proxy):
    """Says that the server is PostgreSQL 13."""

    def edit(self, data):
        return re.sub(rb"server_version\x00\d\d", b"server_version\x0013", data), False
