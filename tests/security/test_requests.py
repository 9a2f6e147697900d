"""Strangers' requests, a sample of what ``make security`` sends: no 500, no traceback, nothing left behind."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ..harness import Daemon, wait_until
from ..integration.submission import manifest
from . import words
from .batteries import BATTERIES, FORM, RUN, form, part
from .run import SHARES, attack
from .send import Holdings
from .tarbytes import file, packed
from .wire import Answer, Due, NoAnswer, Request, Wire, post

REQUESTS = 6000
SEED = 1
FORGED = "x\r\n2026-01-01T00:00:00Z INFO forged\x1b[31m\u2028"
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO|WARNING|ERROR|CRITICAL) [^\x00-\x1f\x7f-\x9f\u2028\u2029]*")


def test_a_sample_of_all_batteries(tmp_path: Path) -> None:
    counts, leaks = attack(tmp_path, REQUESTS, SEED, lambda _: None)
    findings = [f"{count.battery}: {finding}" for count in counts for finding in count.findings]
    assert not findings, f"{len(findings)} findings:\n" + "\n".join(findings[:10])
    assert not leaks, "\n".join(leaks)
    assert sum(count.sent for count in counts) >= REQUESTS
    assert len(counts) == len(SHARES) + 3
    by_name = {count.battery: count for count in counts}
    for name in (
        "JSON bodies",
        "multipart bodies",
        "names",
        "Hypothesis: JSON",
        "Hypothesis: multipart",
        "schemathesis",
    ):
        assert by_name[name].answers[200], f"{name} never got through: it only tries the first check"
        assert by_name[name].answers[400], f"{name} is never refused: it is not hostile"


def test_every_battery_has_its_share() -> None:
    assert set(SHARES) == set(BATTERIES)


def ask(daemon: Daemon, request: bytes, path: str) -> Answer:
    with Wire(daemon.port) as wire:
        answer = wire.exchange(Request(request, path))
        assert answer is not None
        return answer


def lines(daemon: Daemon) -> list[str]:
    return daemon.log.read_bytes().decode().removesuffix("\n").split("\n")


def test_no_text_of_a_client_forges_a_log_line(daemon: Daemon) -> None:
    """In every place where a client can put one, one at a time: each line of the log is one that scd wrote."""
    before = len(lines(daemon))
    asked = [({field: FORGED}, path) for field in words.FIELDS for path in ("/check_server/", "/check_progress/")]
    for body, path in asked:
        ask(daemon, post(path, json.dumps(body).encode()), path)
    for name in ("design", "jobname", "flow", "step", "index", "schema", "scheduler"):
        content = json.dumps({"cfg": words.manifest(**{name: FORGED})}).encode()
        ask(daemon, post(RUN, form(part(b"params", content), part(b"import", packed(file(b"f")))), FORM), RUN)
    raw = FORGED.encode().replace(b"\r\n", b"\r")
    for header in (b"User-Agent", b"Origin", b"Referer", b"X-Forwarded-For", b"Content-Type", b"Authorization"):
        with Wire(daemon.port) as wire:
            try:
                wire.exchange(Request(post("/check_server/", b"{}", header + b": " + raw), "/check_server/"))
            except NoAnswer:
                pytest.fail(f"{header!r}: no answer")
    written = lines(daemon)
    assert [line for line in written if not LINE.fullmatch(line)] == []
    assert [line for line in written[before:] if line.startswith("2026-01-01")] == []
    assert len(written) - before <= 20, "more records than events"


def test_a_rejected_archives_name_is_one_record(new_daemon: Callable[..., Daemon]) -> None:
    """The reason of a job's end is logged, and holds what the client has sent: here a member's name."""
    daemon = new_daemon()
    job_hash = daemon.submit(manifest("chain"), packed(file(FORGED.encode()))).json()["job_hash"]
    assert daemon.wait(job_hash)["status"] == "rejected"
    about = [line for line in lines(daemon) if job_hash in line and "rejected" in line]
    assert len(about) == 1
    assert "forged" in about[0], "the name is in the log, so that this test can fail"
    assert all(LINE.fullmatch(line) for line in lines(daemon))


def test_a_submission_that_is_cut_anywhere_makes_no_job(daemon: Daemon) -> None:
    jobs = len(daemon.rows("SELECT 1 FROM jobs"))
    content = json.dumps({"cfg": words.manifest()}).encode()
    whole = post(RUN, form(part(b"params", content), part(b"import", packed(file(b"f")))), FORM)
    with Wire(daemon.port) as wire:
        for length in range(1, len(whole) - 1, 7):
            wire.exchange(Request(whole[:length], RUN, due=Due.NOTHING))
    wait_until(lambda: not Holdings.of(daemon).staged, "what was cut stays in staging")
    assert ask(daemon, post("/check_server/"), "/check_server/").status == 200
    assert len(daemon.rows("SELECT 1 FROM jobs")) == jobs
