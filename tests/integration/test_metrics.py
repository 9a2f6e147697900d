"""/metrics, /healthz and the log: what a site's monitoring sees of a daemon at work."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from ..harness import ROOT, Daemon
from .submission import collected, manifest

NewDaemon = Callable[..., Daemon]
RULES = ROOT / "etc" / "prometheus-scd-alerts.yml"
DASHBOARD = ROOT / "etc" / "grafana-scd.json"
# Not scd's: Prometheus gives these of everything that it asks.
FOREIGN = {"up"}
READER = 'metrics = ["127.0.0.1"]'


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, list[str]]]:
    """A daemon that may be asked for its metrics, and its jobs: one failed, one runs, one waits."""
    daemon = Daemon(
        tmp_path_factory.mktemp("scd"), "[local]\ncores = 1\n[licenses]\nexecute = 1\n", server=READER
    ).start()
    jobs = []
    for flow, option in (("lint-builtin", "rtl=bad"), ("work", "script=sleep 600"), ("work", "script=sleep 601")):
        answer = daemon.submit(manifest(flow, option), collected(flow, option))
        jobs.append(str(answer.json()["job_hash"]))
        if flow == "lint-builtin":
            daemon.wait(jobs[0])
    daemon.wait_for_node(jobs[1], "work0", "running")
    yield daemon, jobs
    daemon.end_everything()


def values(daemon: Daemon) -> dict[str, float]:
    """Each sample by its name and labels, as they are written."""
    text = httpx2.get(f"{daemon.url}/metrics").text
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_happened_is_counted(worked: tuple[Daemon, list[str]]) -> None:
    daemon, _ = worked
    found = values(daemon)
    assert found["scd_jobs_ended_total state=failed"] == 1
    assert found["scd_jobs_ended_total state=completed"] == 0
    assert found["scd_jobs state=running"] + found["scd_jobs state=preparing"] + found["scd_jobs state=queued"] == 2
    assert found["scd_nodes state=running"] == 1
    assert found["scd_nodes_ended_total state=error"] == 2
    assert found["scd_job_queue_seconds_count"] >= 2
    assert found["scd_node_dispatch_seconds_count executor=local"] >= 5
    assert found["scd_scheduler_turn_seconds_count"] > 5
    assert found["scd_http_request_seconds_count endpoint=remote_run status=2xx"] == 3
    assert found["scd_http_received_bytes_total"] > 100_000
    assert found["scd_http_sent_bytes_total"] > 1000
    assert found["scd_executor_up executor=local"] == 1
    assert 0 < found["scd_disk_free_bytes directory=spool"] < found["scd_disk_size_bytes directory=spool"]


def test_nobody_is_named(worked: tuple[Daemon, list[str]]) -> None:
    daemon, jobs = worked
    httpx2.get(f"{daemon.url}/job/{jobs[0]}")
    httpx2.post(f"{daemon.url}/nothing/{jobs[0]}")
    text = httpx2.get(f"{daemon.url}/metrics").text
    assert not re.search(r"[0-9a-f]{32}", text)
    labels = {key for family in text_string_to_metric_families(text) for one in family.samples for key in one.labels}
    assert labels == {"state", "executor", "endpoint", "status", "le", "directory", "version", "license"}


def test_who_may_read(daemon: Daemon, worked: tuple[Daemon, list[str]]) -> None:
    assert httpx2.get(f"{daemon.url}/metrics").status_code == 403, "a stranger learns a site's load"
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(daemon.state / "scd.sock"))) as local:
        assert local.get("http://scd/metrics").status_code == 200
    for header in ("X-Forwarded-For", "Forwarded", "Via"):
        passed_on = httpx2.get(f"{worked[0].url}/metrics", headers={header: "127.0.0.1"})
        assert passed_on.status_code == 403, "a proxy on the same machine lets everybody read"


def test_the_log_has_one_line_a_transition(worked: tuple[Daemon, list[str]]) -> None:
    daemon, (failed, *_) = worked
    lines = [line for line in daemon.log.read_text().splitlines() if failed in line]
    told = [re.sub(r"^\S+ INFO ", "", line).partition(" user=- ") for line in lines]
    for event in daemon.rows("SELECT * FROM events WHERE job_hash = ? AND old IS NOT NULL ORDER BY id", failed):
        if event["step"] and event["new"] == "queued":
            continue  # told when it has started
        node = f" node={event['step']}/{event['index']}" if event["step"] else ""
        matching = [rest for who, _, rest in told if who == f"job={failed}{node}" and rest.split()[0] == event["new"]]
        assert len(matching) == 1, f"{event['new']}{node} is in the log {len(matching)} times"
        assert matching[0] == f"{event['new']} {event['reason']}".strip().replace("\n", " | ")


def used_metrics() -> dict[str, set[str]]:
    rules = [rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    panels += [
        variable["query"]["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"
    ]
    name = re.compile(r"\b(scd_\w+|process_\w+|up\b)")
    return {
        "alerts": {found for expression in rules for found in name.findall(expression)},
        "dashboard": {found for expression in panels for found in name.findall(expression)},
    }


def test_alerts_and_dashboard_use_what_there_is(worked: tuple[Daemon, list[str]]) -> None:
    known = {name.split()[0] for name in values(worked[0])}
    used = used_metrics()
    assert used["alerts"] - known - FOREIGN == set()
    assert used["dashboard"] - known == set()
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in known if name.startswith("scd_")}
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in used["dashboard"]}
    assert families - shown == set(), "the dashboard leaves out"


def test_each_metric_is_in_the_manual(worked: tuple[Daemon, list[str]]) -> None:
    page = (ROOT / "man" / "scd.8").read_text()
    listed = set(re.findall(r"^\.It Li (scd_\w+) Ta", page, re.MULTILINE))
    names = {re.sub(r"_(bucket|count|sum)$", "", name.split()[0]) for name in values(worked[0])}
    assert {name for name in names if name.startswith("scd_")} == listed


def test_promtool_takes_the_rules_and_the_expressions(tmp_path: Path, worked: tuple[Daemon, list[str]]) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = [
        {"record": f"panel:{number}", "expr": text.replace("$instance", ".*")}
        for number, text in enumerate(expressions)
    ]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    for path in (RULES, file):
        done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    text = httpx2.get(f"{worked[0].url}/metrics").text
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
