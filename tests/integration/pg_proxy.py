"""A proxy before PostgreSQL's Unix socket that can cut a connection at one exact moment: COMMIT has
reached the server, which has committed, and its answer never comes back."""
import pathlib
import re
import socket
import threading

COMMITTED = b"C\x00\x00\x00\x0bCOMMIT\x00"  # CommandComplete with the tag COMMIT
SOCKET = ".s.PGSQL.5432"


class CommitCutter:
    """Listens in `directory`. While `cutting` it withholds every second answer to a COMMIT on, and
    closes that connection on both sides; `cuts` counts them."""

    def __init__(self, directory, postgres):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir()
        self.server_path = re.search(r"host=(\S+)", postgres.conninfo)[1] + "/" + SOCKET
        self.conninfo = f"host={self.directory} dbname=postgres user=postgres"
        self.cutting = False
        self.cuts = self.commits = 0
        self.lock = threading.Lock()
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
                server.sendall(data)
        except OSError:
            pass
        self._end(client, server)

    def _wants_cut(self):
        with self.lock:
            self.commits += 1
            if not self.cutting or self.commits % 2:
                return False
            self.cuts += 1
            return True

    def _answers(self, client, server):
        """An answer that is torn over two reads would slip through uncut: that costs a cut only."""
        try:
            while data := server.recv(1 << 16):
                at = data.find(COMMITTED)
                if at >= 0 and self._wants_cut():
                    client.sendall(data[:at])
                    break
                client.sendall(data)
        except OSError:
            pass
        self._end(client, server)
        client.close()
        server.close()
