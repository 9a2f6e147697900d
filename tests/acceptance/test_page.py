"""The status page in a real browser: what a designer sees, does, and waits for."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from argon2 import PasswordHasher

from ..harness import Daemon, Json, wait_until
from ..integration.seeded import LARGE, seed
from ..integration.submission import collected, import_archive, manifest, set_value
from .browser import Window, chromium, keep

NewDaemon = Callable[..., Daemon]
Open = Callable[..., Window]
PHONE = {"width": 390, "height": 800}
TAG = "<img src=x onerror=alert(1)>"
ODD = f"{TAG}\u202e'\"&amp;"
PASSWORD = 'pass"<b>word'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def window(browser: Any) -> Iterator[Open]:
    """Open a window on a daemon, and hold that its pages ran without a complaint and asked nobody else."""
    made: list[tuple[Window, str]] = []

    def make(daemon: Daemon, path: str = "/", **options: Any) -> Window:
        made.append((Window(browser, daemon.url, **options), daemon.url))
        made[-1][0].page.goto(path)
        return made[-1][0]

    yield make
    for one, url in made:
        one.close()
        assert one.complaints == [], one.requested
        assert [asked for asked in one.requested if not asked.startswith(url)] == []


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, str]]:
    """A daemon with many old jobs, one of them of 200 nodes, and one that failed, whose hash comes with it."""
    daemon = Daemon(tmp_path_factory.mktemp("lab"))
    seed(daemon.state, 120)
    daemon.start()
    failed = submit(daemon, "lint-builtin", "rtl=bad")
    daemon.wait(failed)
    yield daemon, failed
    daemon.end_everything()


def submit(daemon: Daemon, flow: str, *options: str, **params: str) -> str:
    return str(daemon.submit(manifest(flow, *options), collected(flow, *options), **params).json()["job_hash"])


def row(window: Window, node: str) -> Any:
    return window.page.locator("#nodes tbody tr", has=window.page.get_by_role("rowheader", name=node))


def test_a_running_job_is_followed_to_its_end(new_daemon: NewDaemon, window: Open, tmp_path: Path) -> None:
    daemon = new_daemon()
    go = "until [ -e go ]; do sleep 0.2; done"
    job = submit(daemon, "work", f"script={go}", "threads=1")
    daemon.wait_for_node(job, "work0", "running")
    seen = window(daemon, f"/job/{job}")
    page = seen.page
    row(seen, "work/0").get_by_text("running").wait_for()
    assert page.locator("svg .node.running text").first.text_content() == "work/0"
    ticking = row(seen, "work/0").locator("[data-seconds]")
    before = ticking.inner_text()
    wait_until(lambda: ticking.inner_text() != before, "a running node's time stands still")
    page.evaluate("window.same = true")
    keep(seen, tmp_path, "running")
    (place,) = daemon.job_directory(job).glob("work/**/work/0")
    (place / "go").touch()
    page.locator("#job-state .state.completed").wait_for()
    row(seen, "after/0").get_by_text("success").wait_for()
    assert "MiB" in row(seen, "work/0").inner_text()
    assert page.get_by_role("button", name="Cancel this job").count() == 0


def test_states_change_without_loading_the_page_again(new_daemon: NewDaemon, window: Open) -> None:
    daemon = new_daemon()
    job = submit(daemon, "workers", "script=until [ -e go ]; do sleep 0.2; done", "threads=1")
    daemon.wait_for_node(job, "work0", "running")
    seen = window(daemon, f"/job/{job}")
    row(seen, "work/0").get_by_text("running").wait_for()
    seen.page.evaluate("window.same = true")
    link = row(seen, "get/0").get_by_role("link", name="log")
    link.focus()
    (place,) = daemon.job_directory(job).glob("work/**/work/0")
    (place / "go").touch()
    row(seen, "work/0").get_by_text("success").wait_for()
    assert seen.page.locator("svg .node.success", has_text="work/0").count() == 1
    assert seen.page.evaluate("window.same"), "the page was loaded again for a change of state"
    assert link.evaluate("element => element === document.activeElement"), "the focus was lost"
    daemon.post("/cancel_job/", {"job_hash": job})
    seen.page.locator("#job-state .state.canceled").wait_for()


def test_a_log_grows_and_is_there_at_the_end(new_daemon: NewDaemon, window: Open) -> None:
    daemon = new_daemon()
    job = submit(daemon, "work", "script=until [ -e go ]; do sleep 0.2; done", "threads=1")
    daemon.wait_for_node(job, "work0", "running")
    (log,) = daemon.job_directory(job).glob("work/**/work/0/sc_work_0.log")
    seen = window(daemon, f"/job/{job}")
    row(seen, "work/0").get_by_role("link", name="log").click()
    text = seen.page.locator("#log")
    text.get_by_text("script.sh").wait_for()
    with open(log, "a") as file:
        file.write(f"\x1b[31mcoloured\x1b[0m {TAG}\n")
    text.get_by_text(f"coloured {TAG}").wait_for()
    (log.parent / "go").touch()
    seen.page.locator(".state.success").wait_for()
    assert f"coloured {TAG}" in text.inner_text()


def test_it_comes_back_after_a_restart_of_the_daemon(new_daemon: NewDaemon, window: Open) -> None:
    daemon = new_daemon()
    job = submit(daemon, "workers", "script=until [ -e go ]; do sleep 0.2; done", "threads=1")
    daemon.wait_for_node(job, "work0", "running")
    seen = window(daemon, f"/job/{job}")
    row(seen, "work/0").get_by_text("running").wait_for()
    wait_until(lambda: any("events" in url for url in seen.requested), "the page follows nothing")
    assert daemon.stop() == 0, "an open stream held up the daemon's stop"
    seen.page.get_by_text("The connection to scd is lost").wait_for()
    daemon.start()
    (place,) = daemon.job_directory(job).glob("work/**/work/0")
    (place / "go").touch()
    row(seen, "work/0").get_by_text("success").wait_for()
    assert not seen.page.get_by_text("The connection to scd is lost").is_visible()
    seen.complaints[:] = [one for one in seen.complaints if "ERR_" not in one]  # Chromium's own words for a lost one


def test_cancel_and_delete_without_scripts(new_daemon: NewDaemon, window: Open) -> None:
    daemon = new_daemon()
    job = submit(daemon, "work", "script=sleep 600", "threads=1")
    daemon.wait_for_node(job, "work0", "running")
    seen = window(daemon, java_script_enabled=False)
    page = seen.page
    page.get_by_role("link", name=job[:8]).click()
    row(seen, "work/0").get_by_role("link", name="log").click()
    assert "script.sh" in page.locator("#log").inner_text()
    page.go_back()
    page.get_by_role("button", name="Cancel this job").click()
    daemon.wait(job)
    page.reload()
    assert page.locator("#job-state").inner_text() == "canceled"
    page.locator("summary").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_text("No jobs yet.").wait_for()
    assert daemon.rows("SELECT * FROM jobs") == []
    page.goto(f"/job/{job}")
    assert "was deleted" in page.locator("main").inner_text()


def test_paging_and_filter_without_scripts(lab: tuple[Daemon, str], window: Open) -> None:
    page = window(lab[0], java_script_enabled=False).page
    seen: list[str] = []
    while True:
        seen += [link.inner_text() for link in page.locator("#jobs tbody th").all()]
        if not (older := page.get_by_role("link", name="Older")).count():
            break
        older.click()
    assert len(seen) == 122
    page.get_by_role("link", name="Newest").click()
    page.get_by_label("State").select_option("canceled")
    page.get_by_role("button", name="Show").click()
    assert page.locator("#jobs .state").all_inner_texts() == ["canceled"] * 24


def test_a_user_logs_in_and_out(new_daemon: NewDaemon, window: Open, tmp_path: Path) -> None:
    hashed = PasswordHasher(time_cost=1, memory_cost=64).hash(PASSWORD)
    daemon = new_daemon(f"[users.'{TAG.replace(' ', '/')}']\npassword_hash = \"{hashed}\"\n")
    name = TAG.replace(" ", "/")
    job = submit(daemon, "chain", username=name, key=PASSWORD)
    seen = window(daemon, f"/job/{job}")
    page = seen.page
    keep(seen, tmp_path, "login")
    assert seen.accessibility() == []
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password or key").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("alert").get_by_text("Wrong user name or key.").wait_for()
    seen.complaints.clear()  # Chromium notes the 403
    page.get_by_label("Password or key").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="top").wait_for()
    assert page.url.endswith(f"/job/{job}")
    assert page.locator(".who").inner_text() == name
    page.get_by_role("button", name="Log out").click()
    page.goto("/")
    page.get_by_role("heading", name="Log in").wait_for()
    assert "password" not in page.url
    assert PASSWORD not in daemon.log.read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{"width": 1280, "height": 900}, PHONE], ids=["desk", "phone"])
def test_a_screen_reader_and_a_phone(
    lab: tuple[Daemon, str], window: Open, tmp_path: Path, scheme: str, size: dict[str, int]
) -> None:
    daemon, failed = lab
    seen = window(daemon, color_scheme=scheme, viewport=size)
    for name, path in (("jobs", "/"), ("failed", f"/job/{failed}"), ("large", f"/job/{LARGE}"),
                       ("log", f"/job/{failed}/node/1/log")):  # fmt: skip
        seen.page.goto(path)
        keep(seen, tmp_path, name)
        found = seen.accessibility()
        assert found == [], "\n".join([name, *found])
        wide = seen.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} is wider than the screen"


def test_the_keyboard_reaches_everything(lab: tuple[Daemon, str], window: Open) -> None:
    page = window(lab[0], f"/job/{lab[1]}").page
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(document.activeElement.innerText || '').split('\\n')[0]"))
        if page.evaluate("document.activeElement === document.body"):
            break
    order = ["Skip to content", "scd", "Manifest as set up", "Delete this job …"]
    assert reached[: len(order)] == order
    assert reached.count("log") == 3
    assert reached.count("results") == 3


def test_what_a_job_says_is_text(new_daemon: NewDaemon, window: Open) -> None:
    """Names, reasons and log lines with mark-up, in a real job."""
    daemon = new_daemon()
    cfg = set_value(manifest("chain"), ODD.replace("\u202e", ""), "option", "jobname")
    flow: Json = cfg["flowgraph"]["chain"]
    flow[TAG] = flow.pop("s2")
    flow["s3"]["0"]["input"]["node"]["*"]["*"]["value"] = [[TAG, "0"]]
    answer = daemon.submit(cfg, import_archive())
    assert answer.status_code == 200, answer.text
    job = answer.json()["job_hash"]
    ended = daemon.wait(job)
    assert TAG in ended["message"] or ended["status"] == "completed", ended
    seen = window(daemon, f"/job/{job}")
    text = seen.page.locator("main").inner_text()
    assert ODD.replace("\u202e", "") in text
    assert f"{TAG}/0" in text
    assert seen.page.locator("main img").count() == 0
    seen.page.get_by_role("link", name=f"Log of {TAG}/0").click()
    assert TAG in seen.page.locator("h1").inner_text()
    seen.page.goto("/")
    assert TAG in seen.page.locator("main").inner_text()
    assert seen.page.locator("main img").count() == 0


def test_below_a_path(new_daemon: NewDaemon, window: Open) -> None:
    """With a proxy that leaves the path, and one that takes it off: both see the same page."""
    daemon = new_daemon(server='root_path = "/tools/scd"')
    job = submit(daemon, "chain")
    daemon.wait(job)
    seen = window(daemon, "/tools/scd")
    page = seen.page
    page.get_by_role("link", name=job[:8]).click()
    page.get_by_role("heading", name="top").wait_for()
    assert page.url == f"{daemon.url}/tools/scd/job/{job}"
    assert page.evaluate("getComputedStyle(document.querySelector('header')).display") == "flex", "no style was loaded"
    page.locator("summary").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_text("No jobs yet.").wait_for()
    assert page.url == f"{daemon.url}/tools/scd/"
    assert httpx2.get(f"{daemon.url}/").text == httpx2.get(f"{daemon.url}/tools/scd/").text


def test_a_link_from_elsewhere_keeps_the_session(new_daemon: NewDaemon, window: Open) -> None:
    hashed = PasswordHasher(time_cost=1, memory_cost=64).hash(PASSWORD)
    daemon = new_daemon(f'[users.alice]\npassword_hash = "{hashed}"\n')
    job = submit(daemon, "chain", username="alice", key=PASSWORD)
    seen = window(daemon)
    page = seen.page
    link = f"<a href='{daemon.url}/job/{job}'>look at this job</a>"
    page.route("http://chat.example/", lambda route: route.fulfill(body=link, content_type="text/html"))
    page.goto("http://chat.example/")
    page.get_by_text("look at this job").click()
    page.get_by_label("User name").fill("alice")
    page.get_by_label("Password or key").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="top").wait_for()
    page.goto("http://chat.example/")
    page.get_by_text("look at this job").click()
    page.get_by_role("heading", name="top").wait_for()
    seen.requested[:] = [asked for asked in seen.requested if "chat.example" not in asked]
    seen.complaints.clear()  # of the other site's icon


def test_another_origin_cannot_read_or_post(lab: tuple[Daemon, str], browser: Any) -> None:
    daemon, failed = lab
    foreign = Window(browser, daemon.url)
    foreign.page.route("http://evil.example/", lambda route: route.fulfill(body="<p>evil", content_type="text/html"))
    foreign.page.goto("http://evil.example/")
    outcome = foreign.page.evaluate(
        """async ([url, job]) => {
            const read = await fetch(url + "/", {credentials: "include"}).then(a => a.text()).catch(() => "refused");
            await fetch(`${url}/job/${job}/delete`, {method: "POST", mode: "no-cors", credentials: "include",
                headers: {"Content-Type": "application/x-www-form-urlencoded"}, body: "token=x"}).catch(() => 0);
            const frame = document.createElement("iframe");
            frame.src = url + "/";
            document.body.append(frame);
            await new Promise(done => { frame.onload = done; });
            return read;
        }""",
        [daemon.url, failed],
    )
    assert outcome == "refused"
    assert "Jobs" not in "".join(frame.locator("body").inner_text() for frame in foreign.page.frames[1:])
    assert daemon.rows("SELECT state FROM jobs WHERE job_hash = ?", failed) == [{"state": "failed"}]
    foreign.close()
