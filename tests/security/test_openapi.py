"""The description says what scd does: each route, each status, each provoked here; and it travels in the package."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from starlette.routing import Route

import scd
from scd.errors import ScdError
from scd.states import JobState, NodeState
from scd.web.admin import Admin
from scd.web.api import Api
from scd.web.pages import Pages

from ..harness import ROOT, Daemon
from ..integration.submission import collected, import_archive, manifest, set_value
from .judge import DESCRIPTION, Judge
from .wire import Answer, Request

DOCUMENT: dict[str, Any] = yaml.safe_load(DESCRIPTION.read_text())
UNKNOWN = "0" * 32
# Only a fault of scd gives it; the batteries prove that there is none that they find.
FAULT = 500
# Of logins: tests/integration/test_users.py and tests/unit/test_auth.py have them.
THROTTLED = {
    (path, "post", status)
    for path in ("/check_server/", "/remote_run/", "/check_progress/", "/cancel_job/", "/delete_job/",
                 "/get_results/{name}")
    for status in (429, 503)
}  # fmt: skip
UNWELL = ("/healthz", "get", 503)  # tests/unit/test_health.py has it
# Of the status page: tests/security/test_pages.py has them.
PAGES = {
    (path, method)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    if operation["tags"] == ["page"]
}

Ask = Callable[[], httpx2.Response]


def operations() -> list[tuple[str, str]]:
    return [(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods]


def described() -> set[tuple[str, str, int]]:
    judge = Judge()
    return {(path, method, status) for path, method in operations() for status in judge.statuses(path, method)}


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose limits make the rarer answers easy to provoke; a short job has run."""
    directory = tmp_path_factory.mktemp("strict")
    daemon = Daemon(
        directory, "[limits]\nmax_result = 200000\n", server="max_manifest = 4000000\nmax_upload = 50000000"
    )
    yield daemon.start()
    daemon.end_everything()


def test_every_route_is_described() -> None:
    """Of the code, not of a list here."""
    routes: list[Route] = [*Api.routes(_bare(Api)), *Admin.routes(_bare(Admin)), *Pages.routes(_bare(Pages))]
    served = {
        (route.path if route.path in DOCUMENT["paths"] else f"{route.path.rstrip('/')}/", method.lower())
        for route in routes
        for method in route.methods or ()
        if method != "HEAD"
    }
    served = {(path if path in DOCUMENT["paths"] else path.rstrip("/"), method) for path, method in served}
    assert served | {("/healthz", "get"), ("/metrics", "get"), ("/openapi.yaml", "get")} == set(operations())


def _bare(cls: type[Any]) -> Any:
    """Routes need no services."""
    return object.__new__(cls)


def test_every_status_of_an_error_is_described() -> None:
    """Those that are HTTP's: the others end a program."""
    kinds = list(ScdError.__subclasses__())
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.http_status for kind in kinds} == {status for *_, status in described()} - {200, 204, 303}


def test_the_words_are_those_of_the_code() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    ended = {str(state) for state in JobState if state.ended}
    assert set(schemas["JobStatus"]["enum"]) == {"running", *ended}
    assert set(schemas["NodeEntry"]["properties"]["status"]["enum"]) == {state.wire for state in NodeState}
    assert DOCUMENT["info"]["version"] == scd.__version__


def test_each_status_that_is_described_can_be_had(strict: Daemon, new_daemon: Callable[..., Daemon]) -> None:
    """And has the shape that is described."""
    full = new_daemon(paths='min_free = "1000TiB"')
    script = "script=head -c 400000 /dev/urandom > large"
    job = str(strict.submit(manifest("work", script), collected("work", script)).json()["job_hash"])
    strict.wait(job)
    other = str(
        strict.submit(set_value(manifest("chain"), "other", "option", "jobname"), import_archive()).json()["job_hash"]
    )
    strict.wait(other)
    slow, second = (
        str(strict.submit(manifest("work", script), collected("work", script)).json()["job_hash"])
        for script in ("script=sleep 60", "script=sleep 61")
    )
    strict.wait_for_node(slow, "work0", "running")
    judge = Judge()
    for (path, method, status), ask in _questions(strict, full, job, other, slow, second).items():
        response = ask()
        assert response.status_code == status, f"{method} {path}: {response.status_code} {response.text[:300]}"
        answer = Answer(response.status_code, {k.lower(): v for k, v in response.headers.items()}, response.content)
        assert judge.problem(Request(b"", path, method), answer) is None, (path, method, status)
    provoked = set(_questions(strict, full, job, other, slow, second))
    assert provoked | THROTTLED | {UNWELL} == {
        known for known in described() if known[2] != FAULT and known[:2] not in PAGES
    }


def _questions(
    daemon: Daemon, full: Daemon, job: str, other: str, slow: str, second: str
) -> dict[tuple[str, str, int], Ask]:  # fmt: skip
    """How each answer is had. In order: what deletes and cancels comes last."""
    results = "/get_results/{name}"
    asked: dict[tuple[str, str, int], Ask] = {}

    def post(path: str, body: object = None, raw: bytes | None = None, **headers: str) -> Ask:
        content = json.dumps(body or {}).encode() if raw is None else raw
        return lambda: httpx2.post(f"{daemon.url}{path}", content=content, headers=headers, timeout=30)

    def local(method: str, path: str) -> Ask:
        def ask() -> httpx2.Response:
            with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(daemon.state / "scd.sock"))) as client:
                return client.request(method, f"http://scd{path}", timeout=30)

        return ask

    def configured(text: str, ask: Ask) -> Ask:
        """Ask with ``text`` beside the configuration."""

        def write_and_ask() -> httpx2.Response:
            (daemon.directory / "conf.d").mkdir(exist_ok=True)
            (daemon.directory / "conf.d" / "more.toml").write_text(text)
            return ask()

        return write_and_ask

    for path in ("/check_server/", "/check_progress/", "/cancel_job/", "/delete_job/", results):
        url = path.replace("{name}", f"{job}.tar.gz")
        asked[path, "post", 400] = post(url, {"username": 3})
        asked[path, "post", 403] = post(url, Origin="http://evil.example")
        asked[path, "post", 413] = post(url, raw=b'{"key": "' + b"x" * 2**21)
        if path not in ("/check_server/", results):
            asked[path, "post", 404] = post(url, {"job_hash": UNKNOWN})
    asked["/check_server/", "post", 200] = post("/check_server/")
    asked["/check_progress/", "post", 200] = post("/check_progress/", {"job_hash": slow})
    asked[results, "post", 200] = post(f"/get_results/{job}.tar.gz", {"node": "get0"})
    asked[results, "post", 404] = post(f"/get_results/{job}.tar.gz", {"node": "nothing"})
    asked[results, "post", 503] = post(f"/get_results/{job}.tar.gz", {"node": "work0"})
    asked["/remote_run/", "post", 200] = lambda: daemon.submit(manifest("chain"), import_archive())
    asked["/remote_run/", "post", 400] = post("/remote_run/")
    asked["/remote_run/", "post", 403] = post("/remote_run/", Host="evil.example")
    asked["/remote_run/", "post", 404] = lambda: daemon.submit(manifest("chain"), None, job_hash=UNKNOWN)
    asked["/remote_run/", "post", 413] = lambda: daemon.submit({"cfg": "x" * 4_500_000}, import_archive())
    asked["/remote_run/", "post", 507] = lambda: full.submit(manifest("chain"), import_archive())
    for path in ("/healthz", "/openapi.yaml"):
        asked[path, "get", 200] = lambda path=path: httpx2.get(f"{daemon.url}{path}")  # type: ignore[misc]
        asked[path, "get", 403] = lambda path=path: httpx2.get(f"{daemon.url}{path}", headers={"Host": "x"})  # type: ignore[misc]
    asked["/metrics", "get", 200] = local("GET", "/metrics")
    asked["/metrics", "get", 403] = lambda: httpx2.get(f"{daemon.url}/metrics")
    cancel, log = "/admin/cancel/{job_hash}", "/admin/log/{job_hash}/{step}/{index}"
    asked[cancel, "post", 403] = post(f"/admin/cancel/{job}")
    asked[cancel, "post", 400] = local("POST", "/admin/cancel/x")
    asked[cancel, "post", 404] = local("POST", f"/admin/cancel/{job}")
    asked["/admin/fix", "post", 403] = post("/admin/fix")
    asked["/admin/fix", "post", 200] = local("POST", "/admin/fix")
    asked[log, "get", 403] = lambda: httpx2.get(f"{daemon.url}/admin/log/{slow}/work/0")
    asked[log, "get", 400] = local("GET", f"/admin/log/{slow}/work/0?offset=x")
    asked[log, "get", 404] = local("GET", f"/admin/log/{job}/nothing/0")
    asked[log, "get", 200] = local("GET", f"/admin/log/{slow}/work/0")
    for kind in ("jobs", "nodes"):
        path = f"/admin/{kind}"
        asked[path, "get", 200] = local("GET", f"{path}?query=%7B%22limit%22:2%7D")
        asked[path, "get", 400] = local("GET", f"{path}?query=%7B%22limits%22:2%7D")
        asked[path, "get", 403] = lambda path=path: httpx2.get(f"{daemon.url}{path}")  # type: ignore[misc]
        asked[path, "get", 404] = local("GET", f"{path}?query=%7B%22jobs%22:[%22{UNKNOWN}%22]%7D")
    waiting = "/admin/waiting"
    asked[waiting, "get", 200] = local("GET", waiting)
    asked[waiting, "get", 400] = local("GET", f"{waiting}?job=x")
    asked[waiting, "get", 403] = lambda: httpx2.get(f"{daemon.url}{waiting}")
    one = "/admin/jobs/{prefix}"
    asked[one, "get", 200] = local("GET", f"/admin/jobs/{job[:8]}")
    asked[one, "get", 403] = lambda: httpx2.get(f"{daemon.url}/admin/jobs/{job}")
    asked[one, "get", 404] = local("GET", f"/admin/jobs/{UNKNOWN}")
    asked["/delete_job/", "post", 200] = post("/delete_job/", {"job_hash": other})
    asked["/cancel_job/", "post", 200] = post("/cancel_job/", {"job_hash": slow})
    asked[cancel, "post", 200] = local("POST", f"/admin/cancel/{second}")
    delete, reload = "/admin/delete/{job_hash}", "/admin/reload"
    asked[delete, "post", 403] = post(f"/admin/delete/{job}")
    asked[delete, "post", 400] = local("POST", "/admin/delete/x")
    asked[delete, "post", 404] = local("POST", f"/admin/delete/{UNKNOWN}")
    asked[delete, "post", 200] = local("POST", f"/admin/delete/{job}")
    asked["/admin/drain", "post", 403] = post("/admin/drain")
    asked["/admin/drain", "post", 400] = local("POST", f"/admin/drain?reason={'x' * 501}")
    asked["/admin/drain", "post", 200] = local("POST", "/admin/drain?reason=disks")
    asked[reload, "post", 403] = post(reload)
    asked[reload, "post", 400] = configured("[limit]", local("POST", reload))
    asked["/admin/resume", "post", 403] = post("/admin/resume")
    asked["/admin/resume", "post", 200] = local("POST", "/admin/resume")
    asked[reload, "post", 200] = configured('[server]\ndrain = "disks"\n', local("POST", reload))
    asked["/admin/resume", "post", 400] = configured("", local("POST", "/admin/resume"))
    return asked


def test_it_is_served_as_it_is_written(daemon: Daemon) -> None:
    response = httpx2.get(f"{daemon.url}/openapi.yaml")
    assert response.headers["content-type"] == "application/yaml"
    assert response.content == DESCRIPTION.read_bytes()


def test_it_travels_in_the_wheel(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("scd-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("scd/web/openapi.yaml") == DESCRIPTION.read_bytes()
