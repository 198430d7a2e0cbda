"""The metrics in Prometheus's own hands: promtool, a real server that scrapes, the alert rules and the
dashboard. The binaries are Debian's, unpacked by tests/setup/unpacked."""
import json
import re
import socket
import subprocess
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

from exposition import get, samples, value
from harness import ROOT, Scenario, clean_environment, conversation, eventually, scaled, unpacked
from test_metrics import address_of

RULES = ROOT / "config" / "prometheus-alerts.yml"
DASHBOARD = ROOT / "config" / "grafana-dashboard.json"
METRIC = re.compile(r"\b(?:convstore_\w+|process_\w+|up)\b")
SELECTOR = re.compile(r"\b(convstore_\w+|process_\w+|up)\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on|ignoring|without)\s*\(([^)]*)\)")
FROM_PROMETHEUS = {"instance", "job"}
# What Grafana puts in for its variables.
VARIABLES = {"$__rate_interval": "1m", "$__interval": "1m", "$instance": ".*", "$job": "convstore"}


def rule_queries():
    """[(name, query)]: the file's plain YAML needs no parser to find them."""
    text = RULES.read_text()
    found = re.findall(r"- alert: (\w+)\n +expr: (?:\|\n((?: {10}.*\n)+)|(.*)\n)", text)
    return [(name, " ".join((block or line).split())) for name, block, line in found]


def dashboard_queries():
    """[(panel, query, legend)], and those of the variables and annotations."""
    board = json.loads(DASHBOARD.read_text())
    found = [(panel["title"], target["expr"], target.get("legendFormat", ""))
             for panel in board["panels"] for target in panel.get("targets", [])]
    found += [(a["name"], a["expr"], "") for a in board["annotations"]["list"]]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            query = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"])
            found.append((variable["name"], query[1], "{{%s}}" % query[2]))
    return board, found


def filled_in(query):
    for name, text in VARIABLES.items():
        query = query.replace(name, text)
    return query


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Dashboard(unittest.TestCase):
    """What Grafana's classic dashboard schema (the npm package @grafana/schema) asks for."""
    COLUMNS = 24
    PANELS = {"row", "stat", "timeseries", "state-timeline", "table"}
    UNITS = {"none", "short", "s", "bytes", "percentunit", "cps"}  # of its list of units
    COLORS = {"green", "orange", "red", "blue"}

    def setUp(self):
        self.board = json.loads(DASHBOARD.read_text())
        self.source = {"type": "prometheus", "uid": "${datasource}"}

    def test_the_frame(self):
        """Goal of this test: Grafana finds all that a dashboard needs to be imported, and each variable
        that a query names."""
        board = self.board
        self.assertRegex(board["uid"], r"^[\w-]{1,40}$")
        self.assertGreaterEqual(board["schemaVersion"], 36)  # older ones are migrated panel by panel
        self.assertIsNone(board.get("id"))  # Grafana gives it
        self.assertEqual(board["time"].keys(), {"from", "to"})
        self.assertRegex(board["refresh"], r"^\d+[smh]$")
        variables = board["templating"]["list"]
        self.assertEqual((variables[0]["name"], variables[0]["type"], variables[0]["query"]),
                         ("datasource", "datasource", "prometheus"))  # before those that use it
        for variable in variables[1:]:
            self.assertEqual((variable["type"], variable["datasource"]), ("query", self.source))
            self.assertEqual(variable["query"]["query"], variable["definition"])
            self.assertIn(variable["refresh"], (1, 2), variable["name"])
        for annotation in board["annotations"]["list"]:
            self.assertEqual(annotation["datasource"], self.source)
            self.assertLessEqual({"name", "enable", "iconColor", "expr"}, annotation.keys())
        known = {variable["name"] for variable in variables} | {name[1:] for name in VARIABLES} | {"__all"}
        self.assertLessEqual(set(re.findall(r"\$\{?(\w+)", json.dumps(board))), known)

    def test_the_panels(self):
        """Goal of this test: panels lie side by side in 24 columns, and each has what its kind needs."""
        taken = {}
        for panel in self.board["panels"]:
            title, at = panel["title"], panel["gridPos"]
            self.assertIn(panel["type"], self.PANELS, title)
            self.assertTrue(at["x"] >= 0 and at["w"] > 0 and at["h"] > 0, title)
            self.assertLessEqual(at["x"] + at["w"], self.COLUMNS, title)
            for x in range(at["x"], at["x"] + at["w"]):
                for y in range(at["y"], at["y"] + at["h"]):
                    self.assertEqual(taken.setdefault((x, y), title), title, "on top of one another")
            if panel["type"] == "row":
                self.assertEqual((panel["collapsed"], panel["panels"], at["w"]), (False, [], self.COLUMNS))
                continue
            self.check_targets(panel)
            self.check_fields(panel["fieldConfig"]["defaults"], title)
            self.assertEqual(panel["fieldConfig"]["overrides"], [])
            self.assertIsInstance(panel["options"], dict)
        ids = [panel["id"] for panel in self.board["panels"]]
        self.assertEqual(len(set(ids)), len(ids))

    def check_targets(self, panel):
        names = [target["refId"] for target in panel["targets"]]
        self.assertEqual(names, [chr(ord("A") + n) for n in range(len(names))], panel["title"])
        for target in panel["targets"]:
            self.assertEqual(target["datasource"], self.source, panel["title"])
            self.assertTrue(target["expr"], panel["title"])
            self.assertEqual(target.get("format", "table" if panel["type"] == "table" else None),
                             "table" if panel["type"] == "table" else None)

    def check_fields(self, fields, title):
        self.assertIn(fields.get("unit", "none"), self.UNITS, title)
        steps = fields.get("thresholds", {"mode": "absolute", "steps": [{"color": "green", "value": None}]})
        self.assertIn(steps["mode"], ("absolute", "percentage"), title)
        values = [step["value"] for step in steps["steps"]]
        self.assertIsNone(values[0], title)  # the base, below all others
        self.assertEqual(values[1:], sorted(values[1:]), title)
        self.assertLessEqual({step["color"] for step in steps["steps"]}, self.COLORS, title)
        for mapping in fields.get("mappings", []):
            self.assertEqual(mapping["type"], "value", title)
            for result in mapping["options"].values():
                self.assertLessEqual(result.keys(), {"text", "color", "icon", "index"}, title)


class Prometheus(Scenario):

    @classmethod
    def setUpClass(cls):
        cls.bin = unpacked("promtool", "prometheus")[0].parent

    def promtool(self, *arguments, stdin=None):
        done = subprocess.run([f"{self.bin}/promtool", *map(str, arguments)], input=stdin,
                              text=True, capture_output=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        return done.stdout

    def started(self, pg=None):
        """A daemon whose every operation has happened once."""
        d = self.daemon(pg or self.shared_postgres(), metrics__listen="127.0.0.1:0")
        with d.client() as client:
            client.request("store", conversation(), {"wait": "stored"})
            client.request("record", "chat.turn", 12.5, True)
        return d, address_of(d)

    def test_promtool(self):
        """Goal of this test: promtool finds nothing to say of the metrics and the rules, and each
        rule fires for its cause."""
        _, address = self.started()
        self.promtool("check", "metrics", stdin=get(address, "/metrics")[2])
        said = self.promtool("check", "rules", RULES)
        self.assertIn(f"{len(rule_queries())} rules found", said)
        self.promtool("test", "rules", ROOT / "tests" / "data" / "prometheus-alerts-test.yml")
        cases = (ROOT / "tests" / "data" / "prometheus-alerts-test.yml").read_text()
        for name, _ in rule_queries():
            self.assertIn(f"alertname: {name}\n", cases)

    def check_query(self, where, query, legend, found):
        """Every metric of the query is exported, with every label that it asks for."""
        known = {name: [labels for labels, _ in has] for name, has in found.items()}
        known["up"] = [{}]
        unquoted = re.sub(r'"[^"]*"', '""', query)
        names = METRIC.findall(re.sub(r"\{[^}]*\}", "", unquoted))
        self.assertTrue(names, (where, query))
        for name, matchers in SELECTOR.findall(query):
            if name not in names:
                continue  # a label or a text
            self.assertIn(name, known, (where, query))
            for label, how, text in MATCHER.findall(matchers or ""):
                if label in FROM_PROMETHEUS:
                    continue
                self.assertEqual(how, "=", where)
                self.assertIn(text, {labels.get(label) for labels in known[name]},
                              (where, name, label))
        labels = set(re.findall(r"\{\{(\w+)\}\}", legend))
        for group in GROUPING.findall(unquoted):
            labels |= {label.strip() for label in group.split(",")}
        exported = {label for name in names for labels in known[name] for label in labels}
        self.assertLessEqual(labels, exported | FROM_PROMETHEUS, (where, query, legend))
        return set(names)

    def test_every_query_finds_its_metrics(self):
        """Goal of this test: no query of the dashboard or of the rules names a metric, a label or a
        label's value that the daemon does not export; and the dashboard shows all there are."""
        _, address = self.started()
        found = samples(get(address, "/metrics")[2])
        board, queries = dashboard_queries()
        shown = set()
        for where, query, legend in queries:
            shown |= self.check_query(where, query, legend, found)
        for name, query in rule_queries():
            legend = re.search(rf"alert: {name}\n(.*?)(?=- alert|- name|\Z)", RULES.read_text(), re.S)
            labels = " ".join("{{%s}}" % word for word in re.findall(r"\$labels\.(\w+)", legend[1]))
            self.check_query(name, query, labels, found)
        self.assertEqual(set(found) - shown, set(), "exported and not on the dashboard")
        rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
        self.assertEqual(rows, ["Overview", "Acknowledgements", "Latency", "Queue", "Journal",
                                "Database", "Embedding", "Cache", "Process", "Alerts"])
        self.said = f"{len(queries)} queries, {len(rule_queries())} rules, {len(found)} metrics"

    def prometheus(self, address):
        """A Prometheus server that scrapes the daemon each second; its base URL."""
        home = self.directory / "prometheus"
        home.mkdir()
        (home / "prometheus.yml").write_text(f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{RULES}"]
scrape_configs:
  - job_name: convstore
    static_configs: [{{targets: ["{address}"]}}]
""")
        url = f"http://127.0.0.1:{free_port()}"
        with open(home / "log", "wb") as log:
            process = subprocess.Popen(
                [f"{self.bin}/prometheus", f"--config.file={home}/prometheus.yml",
                 f"--storage.tsdb.path={home}/data", f"--web.listen-address={url[7:]}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home,
                env=clean_environment(GOMAXPROCS="1"))
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return url

    def ask(self, url, query):
        """[(labels, value)] of an instant query, [] while Prometheus starts."""
        try:
            with urllib.request.urlopen(f"{url}/api/v1/query?" + urllib.parse.urlencode(
                    {"query": query}), timeout=scaled(10)) as answer:
                result = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code != 503:
                self.fail(f"{query}: {error.read().decode()}")
            return []
        except OSError:
            return []
        return [(item["metric"], float(item["value"][1])) for item in result]

    def one(self, url, query):
        result = self.ask(url, query)
        return result[0][1] if len(result) == 1 else None

    def test_scraped_by_prometheus(self):
        """Goal of this test: a real Prometheus scrapes the daemon, gives the figures of stats, takes
        every query of dashboard and rules, and fires ConvstoreCritical's cause when the database is
        down."""
        pg = self.postgres(durable=True)
        d, address = self.started(pg)
        url = self.prometheus(address)
        eventually(lambda: self.one(url, 'up{job="convstore"}') == 1, 30, "the first scrape")
        with d.client() as client:
            client.request("store_many", [conversation(transcript=f"t{n}") for n in range(123)],
                           {"wait": "stored"})
            stats = client.request("stats")
        eventually(lambda: self.one(url, "convstore_conversations_completed_total") == 124, 20,
                   "the rows in Prometheus")
        family = "convstore_operation_duration_seconds"
        for query, figure in (
                ("convstore_journal_syncs_total", stats["journal"]["syncs"]),
                ("convstore_cache_misses_total", stats["cache"]["misses"]),
                (f'{family}_count{{operation="queue"}}', stats["operations"]["queue"]["count"]),
                (f'{family}_bucket{{operation="chat.turn", le="0.01"}}', 0),
                (f'{family}_bucket{{operation="chat.turn", le="0.025"}}', 1),
                ("sum(convstore_health)", 1)):
            self.assertEqual(self.one(url, query), figure, query)
        _, queries = dashboard_queries()
        queries += [(name, query, "") for name, query in rule_queries()]
        for _, query, _ in queries:
            self.ask(url, filled_in(query))
        eventually(lambda: all(self.ask(url, filled_in(query)) for title, query, _ in queries
                               if title in ("Health", "Accepted", "Ack p99", "Versions")), 20,
                   "the overview has figures")
        pg.stop()
        with d.client() as client:
            client.request("store", conversation())
        eventually(lambda: self.one(url, 'ALERTS{alertname="ConvstoreCritical", '
                                         'name="database_down"}') == 1, 30, "the alert pending")
        self.assertEqual(len(self.ask(url, "up == 1")), 1)
        self.said = f"{len(queries)} queries taken"


if __name__ == "__main__":
    unittest.main()
