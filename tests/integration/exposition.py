"""Reads Prometheus's text exposition format, and HTTP from any kind of socket."""
import http.client
import re
import socket

SAMPLE = re.compile(r'([a-zA-Z_:][\w:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\.)*",?)+)\})? (\S+)')
LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
ESCAPED = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


def samples(text):
    """{name: [(labels, value)]} of a whole text; any line that is neither sample nor comment is an
    error, and so is the same series twice."""
    found, seen = {}, set()
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            continue
        match = SAMPLE.fullmatch(line)
        assert match, f"no sample: {line}"
        labels = {key: re.sub(r"\\.", lambda m: ESCAPED[m[0]], value)
                  for key, value in LABEL.findall(match[2] or "")}
        series = (match[1], tuple(sorted(labels.items())))
        assert series not in seen, f"twice: {line}"
        seen.add(series)
        found.setdefault(match[1], []).append((labels, float(match[3])))
    return found


def value(found, name, /, **labels):
    """The one sample of that name and these labels."""
    values = [number for has, number in found[name] if labels.items() <= has.items()]
    assert len(values) == 1, (name, labels, values)
    return values[0]


def connect(address, timeout=30):
    """A stream to host:port, [v6]:port or a Unix socket's path."""
    if "/" in address:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(timeout)
        stream.connect(address)
        return stream
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout)


def get(address, path, method="GET", timeout=30):
    """(status, headers, body) of one request."""
    connection = http.client.HTTPConnection("localhost", timeout=timeout)
    connection.sock = connect(address, timeout)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()
