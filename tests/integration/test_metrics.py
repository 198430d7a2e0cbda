"""/metrics and /health: what they say, whom they serve, and that nobody who asks delays anything."""
import os
import re
import signal
import socket
import stat
import subprocess
import time
import unittest

from exposition import connect, get, samples, value
from harness import BUILD, RpcError, Scenario, clean_environment, conversation, eventually, scaled

STORED = {"wait": "stored"}
CONNECTIONS_MAX = 16   # of daemon/metrics_http.c
CONNECTION_SECONDS = 10


def address_of(daemon):
    return re.findall(r"metrics\.listen address=(\S+)", daemon.log())[-1]


def read_all(stream):
    data = b""
    try:
        while chunk := stream.recv(65536):
            data += chunk
    except OSError:
        pass
    return data


class Metrics(Scenario):

    def started(self, pg=None, listen="127.0.0.1:0", **settings):
        d = self.daemon(pg or self.shared_postgres(), metrics__listen=listen, **settings)
        return d, address_of(d)

    def scrape(self, address):
        status, headers, body = get(address, "/metrics")
        self.assertEqual(status, 200)
        self.assertEqual(headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
        return samples(body)

    def test_figures_equal_those_of_stats(self):
        """Goal of this test: every figure of /metrics is the one that stats gives, and convstorectl
        metrics prints the same names."""
        d, address = self.started()
        with d.client() as client:
            ids = client.request("store_many", [conversation(transcript=f"t{n % 40}")
                                                for n in range(50)], STORED)["ids"]
            client.request("store", conversation(transcript="t0", id=ids[0]), STORED)
            with self.assertRaises(RpcError):
                client.request("store", {"user_id": ""})
            for n in range(10):
                client.request("record", 'a/b', 3.0 + n, n % 3 != 0)
            stats, found = client.request("stats"), self.scrape(address)
        for name, key in (("conversations_completed_total", "completed"),
                          ("conversations_failed_total", "failed"),
                          ("conversations_duplicate_total", "duplicates"),
                          ("conversations_replayed_total", "replayed"),
                          ("conversations_rejected_total", "rejected"),
                          ("queue_conversations", "queued"), ("dead_letters", "dead_letters"),
                          ("processing_conversations", "processing"),
                          ("connections", "connections"),
                          ("embedding_backlog_conversations", "embedding_backlog")):
            self.assertEqual(value(found, f"convstore_{name}"), stats[key], name)
        self.assertEqual(stats["completed"], 51)
        self.assertEqual(stats["rejected"], 1)
        for section, names in (("journal", ("bytes", "segments", "damages")),
                               ("cache", ("entries",)), ("database", ("timeline",))):
            for name in names:
                self.assertEqual(value(found, f"convstore_{section}_{name}"), stats[section][name])
        for section, names in (("journal", ("syncs",)), ("cache", ("hits", "misses")),
                               ("embedding", ("requests", "inputs"))):
            for name in names:
                self.assertEqual(value(found, f"convstore_{section}_{name}_total"),
                                 stats[section][name])
        self.assertEqual((stats["database"]["pace"],
                          value(found, "convstore_database_pace_rows_per_second")), (0, 0))
        self.assertEqual(value(found, "convstore_build_info", version=stats["version"]), 1)
        self.assertEqual(value(found, "convstore_database_state", state="up"), 1)
        self.assertEqual(value(found, "convstore_health", state=stats["health"]), 1)
        raised = {(labels["name"], labels["severity"])
                  for labels, number in found["convstore_alert"] if number == 1}
        self.assertEqual(raised, {(a["name"], a["severity"]) for a in stats["alerts"]})
        self.check_operations(stats["operations"], found)
        printed = d.ctl("metrics", control=True)
        self.assertEqual((printed.returncode, printed.stderr), (0, ""))
        self.assertEqual(samples(printed.stdout).keys(), found.keys())

    def check_operations(self, operations, found):
        family = "convstore_operation_duration_seconds"
        self.assertIn("a/b", operations)
        for name, figures in operations.items():
            count = value(found, f"{family}_count", operation=name)
            self.assertEqual(count, figures["count"], name)
            self.assertAlmostEqual(value(found, f"{family}_sum", operation=name) * 1000,
                                   figures["mean_ms"] * count, 3)
            self.assertEqual(value(found, "convstore_operation_errors_total", operation=name),
                             figures["errors"])
            buckets = [(float(labels["le"]), number) for labels, number in
                       found[f"{family}_bucket"] if labels["operation"] == name]
            self.assertEqual(buckets, sorted(buckets), "both bounds and counts only grow")
            self.assertEqual(buckets[-1], (float("inf"), count))
            for bound, number in buckets[:-1]:
                if bound * 1000 > figures["max_ms"]:
                    self.assertEqual(number, count)
                if bound * 1000 < figures["p50_ms"] * 0.97:
                    self.assertLessEqual(number, count / 2, (name, bound))
        self.assertEqual([number for labels, number in found[f"{family}_bucket"]
                          if labels["operation"] == "a/b" and labels["le"] in ("0.0025", "0.005",
                                                                              "0.01", "0.025")],
                         [0, 3, 8, 10])

    def test_health(self):
        """Goal of this test: /health is 200 while the daemon can do its work and 503 with the reason
        when it cannot, and /metrics has the alert."""
        pg = self.postgres(durable=True)
        d, address = self.started(pg)
        with d.client() as client:
            client.request("store", conversation(), STORED)
            self.assertEqual(get(address, "/health")[::2], (200, "healthy\n"))
            pg.stop()
            client.request("store", conversation())
            status, _, body = eventually(lambda: (got := get(address, "/health"))[0] == 503 and got,
                                         20, "503")
        self.assertEqual(body, "critical: database_down\n")
        found = self.scrape(address)
        self.assertEqual(value(found, "convstore_alert", name="database_down",
                               severity="critical"), 1)
        self.assertEqual(value(found, "convstore_alert", name="database_down",
                               severity="warning"), 0)
        self.assertEqual(value(found, "convstore_database_state", state="down"), 1)
        self.assertEqual(value(found, "convstore_queue_conversations")
                         + value(found, "convstore_processing_conversations"), 1)
        pg.start()
        eventually(lambda: get(address, "/health")[0] == 200, 20, "200 again")

    def test_who_does_not_read_or_write(self):
        """Goal of this test: scrapers that send nothing, a byte now and then, or never read take
        every connection there is: stores are answered as ever meanwhile, and the next scraper is
        served when their ten seconds are over."""
        d, address = self.started()
        with d.client() as client:
            for n in range(64):
                client.request("record", f"operation-of-a-service-number-{n}", 1.0, True)
        d.signal(signal.SIGSTOP)  # so that all are accepted, and end, at the same moment
        silent = [connect(address) for _ in range(CONNECTIONS_MAX - 2)]
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = address.split(":")
        deaf.connect((host, int(port)))
        deaf.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        slow = connect(address)
        d.signal(signal.SIGCONT)
        started, longest, acks = time.monotonic(), 0, 0
        with d.client() as client:
            for letter in b"GET /metrics HTTP/1.1 and so on":
                if time.monotonic() - started > scaled(CONNECTION_SECONDS) / 2:
                    break  # a slow disk: the connections must still be there when the last one comes
                slow.send(bytes([letter]))
                for _ in range(20):
                    before = time.monotonic()
                    client.request("store", conversation())
                    longest = max(longest, time.monotonic() - before)
                    acks += 1
                time.sleep(0.05)
        # One sync of a busy disk may take a second; who waited for these would wait for ten.
        self.assertLess(longest, scaled(CONNECTION_SECONDS / 2), f"of {acks} acks")
        status, _, body = get(address, "/metrics", timeout=scaled(60))
        waited = time.monotonic() - started
        self.assertEqual(status, 200)
        self.assertGreater(len(body), 150000)
        self.assertGreater(waited, CONNECTION_SECONDS / 2, "all connections were taken")
        self.assertLess(waited, scaled(CONNECTION_SECONDS + 10))
        for stream in (*silent, slow):
            self.assertEqual(read_all(stream), b"")
            stream.close()
        eventually(lambda: d.open_files() < 40, 20, "the connections to close")
        got = read_all(deaf)
        deaf.close()
        announced = int(re.search(rb"Content-Length: (\d+)", got)[1])
        self.assertLess(len(got), announced, "it was cut off")
        self.said = f"longest of {acks} acks {longest * 1000:.1f} ms; served after {waited:.1f} s"

    def test_odd_requests(self):
        """Goal of this test: other methods, other paths, garbage, endless headers and bodies, two
        requests at once: an answer or a closed connection, and the daemon goes on."""
        d, address = self.started()
        status, headers, body = get(address, "/metrics", "HEAD")
        self.assertEqual((status, body), (200, ""))
        self.assertGreater(int(headers["Content-Length"]), 10000)
        self.assertEqual(get(address, "/health", "HEAD")[0], 200)
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "FROB"):
            status, headers, _ = get(address, "/metrics", method)
            self.assertEqual((status, headers["Allow"]), (405, "GET, HEAD"))
        for path, expected in (("/", 200), ("/metrics?x=1", 200), ("/metrics/", 404),
                               ("/..%2f..", 404), ("/nothing", 404)):
            self.assertEqual(get(address, path)[0], expected, path)
        for sent in (b"\x94\x00\x01\xa4ping\x90\r\n\r\n", b"\r\n\r\n\r\n", b"GET\r\n\r\n",
                     b"GET / HTTP/9.9\r\n\r\n", b"\0" * 5000, bytes(range(256)) * 20 + b"\r\n\r\n",
                     b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n",
                     b"GET / HTTP/1.1\r\nX: " + b"y" * 100000,
                     b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n" +
                     b"z" * 100000):
            started = time.monotonic()
            with connect(address) as stream:
                try:
                    stream.sendall(sent)
                    stream.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
                self.assertNotIn(b" 200 ", read_all(stream)[:15], sent[:30])
            # At the peer's end, not when its time is up.
            self.assertLess(time.monotonic() - started, scaled(CONNECTION_SECONDS / 2), sent[:30])
        with connect(address) as stream:
            stream.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
            self.assertEqual(read_all(stream).count(b"HTTP/1.1 200 OK"), 1)
        self.assertIn("convstore_build_info", self.scrape(address))

    def test_where_it_listens(self):
        """Goal of this test: a Unix socket with the mode of the services' one, IPv6, and nothing by
        default; what cannot be is refused at the start in one line."""
        path = str(self.directory / "metrics.sock")
        d, address = self.started(listen=path, listen__socket_mode="0640")
        self.assertEqual((address, stat.S_IMODE(os.stat(path).st_mode)), (path, 0o640))
        self.assertIn("convstore_build_info", self.scrape(path))
        other = self.daemon(self.shared_postgres(), start=False, name="e", metrics__listen=path)
        other.start(wait=False)
        self.assertEqual(other.wait_exit(), 1)
        self.assertIn("another daemon listens there", other.log())
        d.stop()
        self.assertFalse(os.path.exists(path))
        d.settings["metrics.listen"] = "[::1]:0"
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pass  # a machine without IPv6
        else:
            d.start()
            self.assertRegex(address_of(d), r"^\[::1\]:\d+$")
            self.assertIn("convstore_build_info", self.scrape(address_of(d)))
            d.stop()
        for wrong in ("9464", "localhost", "host:port", "::1:9464", "127.0.0.1:99999", ":"):
            done = subprocess.run([str(BUILD / "convstored"), "--check-config", "--set",
                                   f"metrics.listen={wrong}"], env=clean_environment(), text=True,
                                  capture_output=True, check=False)
            self.assertNotEqual(done.returncode, 0, wrong)
            self.assertIn("metrics.listen", done.stderr)
        del d.settings["metrics.listen"]
        before = d.log().count("metrics.listen address")
        d.start()
        self.assertEqual(d.log().count("metrics.listen address"), before)


if __name__ == "__main__":
    unittest.main()
