"""A stand-in for Ollama's POST /api/embed, on a TCP port of 127.0.0.1 or on a Unix socket; and for
the POST /v1/embeddings of OpenAI and its likes, whose entries it gives in another order than asked.

Vectors are made from a hash of the text, so a test can tell which text a stored vector belongs to.
`mode` says how it answers, `script` how it answers the next requests one by one before that. It
counts requests, inputs and the requests in flight at once.

Modes: ok, hang (until close), missing (404), denied (401), failed (500), busy (503), limited,
limited_date, limited_ms (429 with each form of Retry-After), eof (400 with the text of a crashed
runner), cut (the body breaks off), drip (a byte at a time), huge (up to 1 GiB of body), closing
(answers well and closes the connection without saying so), count (one vector too few), dimension
(one number too few), nan, null, garbage (no JSON).
With `degrade` the vectors of batches of 16 and more are wrong, as Ollama's once were.
`delay` seconds pass before any answer, `text_delay` more for each text in the request; while `gate` is
clear there is none. A request with a text that contains one of `hangers` is never answered. A text that
contains one of `poison` fails its whole request the way a model's NaN does, one of `killers` the way a
crashed runner does, one of `spoilers` as the mode failed; one of more than `longest` bytes (0: none) the way Ollama refuses it.
"""
import base64
import email.utils
import hashlib
import http.server
import json
import math
import os
import random
import socketserver
import struct
import threading
import time

DIMENSION = 768


def vector(text, dimension=DIMENSION):
    """The unit vector that the stand-in gives this text, as a list of floats of single precision."""
    source = random.Random(hashlib.sha256(text.encode()).digest())
    numbers = [source.uniform(-1, 1) for _ in range(dimension)]
    norm = math.sqrt(sum(n * n for n in numbers))
    return [struct.unpack("f", struct.pack("f", n / norm))[0] for n in numbers]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body in one segment: apart, each reply would wait for a delayed ACK.
    wbufsize = -1

    def address_string(self):
        return "local"

    def log_message(self, *unused):
        pass

    def do_GET(self):
        self._answer(200, {"version": "0.33.0"} if self.path == "/api/version" else {})

    def do_POST(self):
        server = self.server.stand_in
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.path not in ("/api/embed", "/v1/embeddings"):
            self._answer(404, {"error": f"no such path {self.path}"})
            return
        server.authorization = self.headers.get("Authorization")
        request = json.loads(body)
        texts = request["input"] if isinstance(request["input"], list) else [request["input"]]
        mode = server.begin(request, texts)
        try:
            server.stopping.wait(server.delay + server.text_delay * len(texts))
            server.gate.wait()
            getattr(self, "_mode_" + mode, self._mode_unknown)(request, texts)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            server.end()

    def _answer(self, status, body, headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def _body(self, request, vectors):
        if self.path == "/v1/embeddings":
            if request.get("encoding_format") == "base64":
                vectors = [v and base64.b64encode(struct.pack(f"<{len(v)}f", *(
                    math.nan if n is None else n for n in v))).decode() for v in vectors]
            data = [{"object": "embedding", "index": n, "embedding": v} for n, v in enumerate(vectors)]
            random.shuffle(data)
            return {"object": "list", "data": data, "model": request.get("model"),
                    "usage": {"prompt_tokens": 8, "total_tokens": 8}}
        return {"model": request.get("model"), "embeddings": vectors, "total_duration": 14143917,
                "load_duration": 1019500, "prompt_eval_count": 8}

    def _vectors(self, texts):
        server = self.server.stand_in
        spoiled = " " if server.degrade and len(texts) >= 16 else ""
        return [vector(text + spoiled, server.dimension) for text in texts]

    def _mode_unknown(self, request, texts):
        self._answer(500, {"error": "the test named a mode that the stand-in does not have"})

    def _mode_ok(self, request, texts):
        if any(word in text for word in self.server.stand_in.hangers for text in texts):
            self._mode_hang(request, texts)
            return
        if any(word in text for word in self.server.stand_in.poison for text in texts):
            self._answer(400, {"error": "embedding contains NaN or Inf values"})
            return
        if any(word in text for word in self.server.stand_in.killers for text in texts):
            self._mode_eof(request, texts)
            return
        if any(word in text for word in self.server.stand_in.spoilers for text in texts):
            self._mode_failed(request, texts)
            return
        longest = self.server.stand_in.longest
        if longest and any(len(text.encode()) > longest for text in texts):
            self._answer(400, {"error": "the input length exceeds the context length"})
            return
        self._answer(200, self._body(request, self._vectors(texts)))

    def _mode_hang(self, request, texts):
        self.server.stand_in.stopping.wait()
        self.close_connection = True

    def _mode_missing(self, request, texts):
        name = request.get("model")
        self._answer(404, {"error": f'model "{name}" not found, try pulling it first'})

    def _mode_denied(self, request, texts):
        self._answer(401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})

    def _mode_failed(self, request, texts):
        self._answer(500, {"error": "llama runner process has terminated: exit status 2"})

    def _mode_busy(self, request, texts):
        self._answer(503, {"error": "server busy, please try again. maximum pending requests exceeded"})

    def _mode_limited(self, request, texts):
        self._answer(429, {"error": "too many requests"}, [("Retry-After", "1")])

    def _mode_limited_date(self, request, texts):
        when = email.utils.formatdate(time.time() + 1.5, usegmt=True)
        self._answer(429, {"error": "too many requests"}, [("Retry-After", when)])

    def _mode_limited_ms(self, request, texts):
        self._answer(429, {"error": "too many requests"},
                     [("retry-after-ms", "300"), ("Retry-After", "60")])

    def _mode_closing(self, request, texts):
        self._mode_ok(request, texts)
        self.close_connection = True

    def _mode_huge(self, request, texts):
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 30))
        self.end_headers()
        for _ in range(1 << 14):
            self.wfile.write(b" " * (1 << 16))
        self.close_connection = True

    def _mode_eof(self, request, texts):
        self._answer(400, {"error": 'do embedding request: Post "http://127.0.0.1:1/embedding": EOF'})

    def _mode_cut(self, request, texts):
        data = json.dumps(self._body(request, self._vectors(texts))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:len(data) // 2])
        self.wfile.flush()
        self.close_connection = True

    def _mode_drip(self, request, texts):
        data = json.dumps(self._body(request, self._vectors(texts))).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for byte in data:
            if self.server.stand_in.stopping.wait(0.02):
                break
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
        self.close_connection = True

    def _mode_count(self, request, texts):
        self._answer(200, self._body(request, self._vectors(texts)[:-1]))

    def _mode_dimension(self, request, texts):
        self._answer(200, self._body(request, [v[:-1] for v in self._vectors(texts)]))

    def _mode_nan(self, request, texts):
        vectors = self._vectors(texts)
        vectors[0][1] = math.nan
        self._answer(200, self._body(request, vectors))

    def _mode_null(self, request, texts):
        vectors = self._vectors(texts)
        vectors[0][1] = None
        self._answer(200, self._body(request, vectors))

    def _mode_garbage(self, request, texts):
        self._answer(200, b"<html>It works!</html>")


class _TcpServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 128


class FakeOllama:
    """Starts at once. `url` is what embedding.url takes; with a Unix socket, `path` is its name."""

    def __init__(self, unix_path=None, dimension=DIMENSION):
        self.mode = "ok"
        self.script = []
        self.poison = []
        self.killers = []
        self.spoilers = []
        self.degrade = False
        self.longest = 0
        self.authorization = None  # of the latest request
        self.hangers = []
        self.delay = self.text_delay = 0.0
        self.encoding_format = None  # as authorization
        self.dimension = dimension
        self.gate = threading.Event()
        self.gate.set()
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.reset_counters()
        self.in_flight = 0
        self.path = unix_path
        self.port = None
        self._listen()

    def _listen(self):
        if self.path is not None:
            if os.path.exists(self.path):
                os.unlink(self.path)
            self.server = _UnixServer(str(self.path), _Handler)
            self.url = f"unix:{self.path}"
        else:
            _TcpServer.allow_reuse_address = True
            self.server = _TcpServer(("127.0.0.1", self.port or 0), _Handler)
            self.port = self.server.server_address[1]
            self.url = f"http://127.0.0.1:{self.port}"
        self.server.stand_in = self
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def reset_counters(self):
        with self.lock:
            self.requests = 0
            self.inputs = 0
            self.texts = []
            self.models = set()
            self.most_in_flight = 0
            self.last_at = None  # time.monotonic() of the latest request

    def begin(self, request, texts):
        with self.lock:
            self.requests += 1
            self.inputs += len(texts)
            self.texts += texts
            self.models.add(request.get("model"))
            self.encoding_format = request.get("encoding_format")
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.last_at = time.monotonic()
            return self.script.pop(0) if self.script else self.mode

    def end(self):
        with self.lock:
            self.in_flight -= 1

    def close(self):
        """Down: connections are refused. open() brings it back on the same port."""
        self.stopping.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def open(self):
        self.stopping = threading.Event()
        self._listen()
