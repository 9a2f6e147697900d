"""Which configured SiliconCompiler takes which manifest. Probed are real programs."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from scd.config import Config, Runtime
from scd.errors import ConfigError
from scd.runtimes import Runtimes, Versions

OLD = (Runtime(python="/old/python", name="old"), Versions("0.37.12", "0.54.0"))
NEW = (Runtime(python="/new/python", name="new"), Versions("0.38.11", "0.57.2"))


def runtimes(*found: tuple[Runtime, Versions]) -> Runtimes:
    return Runtimes({runtime.name: (runtime, versions) for runtime, versions in found})


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ("0.57.2", "new"), ("0.57.0", "new"), ("0.57.99", "new"), ("0.56.1", "new"), ("0.57", "new"),
        ("0.54.0", "old"), ("0.54.9", "old"),
        ("0.53.9", None), ("0.58.0", None), ("1.0.0", None), ("1.57.2", None), ("0", None), ("", None), ("x", None),
        ("9" * 400, None), ("0.57.2; rm -rf /", "new"), ("-0.57.2", "new"),
    ],
)  # fmt: skip
def test_the_first_that_fits_is_taken(schema: str, name: str | None) -> None:
    assert runtimes(OLD, NEW).choose(schema) == name


def test_the_order_is_that_of_the_configuration() -> None:
    assert runtimes(NEW, OLD).choose("0.54.0") == "new", "a newer one takes older manifests"


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ("0.54.0", "old"), ("0.54.9", "old"), ("0.55.0", None), ("0.57.2", "new"), ("0.58.1", "new"), ("0.59.0", None),
        ("x", None), ("", None),
    ],
)  # fmt: skip
def test_a_site_may_say_what_a_runtime_takes(schema: str, name: str | None) -> None:
    old = (Runtime(python="/old/python", name="old", accepts="~=0.54.0"), OLD[1])
    new = (Runtime(python="/new/python", name="new", accepts=">=0.57, <0.59"), NEW[1])
    assert runtimes(new, old).choose(schema) == name


def test_a_refusal_names_all_versions() -> None:
    assert runtimes(OLD, NEW).refusal("0.99.0") == (
        "This job's manifest has schema version 0.99.0, and this server runs "
        "SiliconCompiler 0.37.12 (schema 0.54 to 0.54.0), SiliconCompiler 0.38.11 (schema 0.54 to 0.57.2). "
        "Use a matching SiliconCompiler, or ask the administrator for a [[runtime]] that has yours."
    )


def test_the_newest_is_found_by_number() -> None:
    later = (Runtime(python="/x", name="later"), Versions("0.100.0", "0.100.0"))
    assert runtimes(OLD, later, NEW).newest == later[1]


def test_a_job_of_a_runtime_that_is_gone_gets_the_first() -> None:
    assert runtimes(OLD, NEW).get("new") == NEW
    assert runtimes(OLD, NEW).get("removed") == OLD
    assert runtimes(OLD, NEW).get("") == OLD


@pytest.mark.anyio
async def test_the_python_of_these_tests_has_siliconcompiler() -> None:
    found = await Runtimes.probe(Config(runtime=(Runtime(python=sys.executable),)))
    assert found.choose("0.54.0") == "default"
    assert found.choose(found.newest.sc_schema) == "default"
    assert found.newest.sc.startswith("0.3")


def program(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.anyio
async def test_a_program_that_answers(tmp_path: Path) -> None:
    """Whatever it prints before, its last line counts."""
    python = program(tmp_path / "python", """echo a warning; echo '{"sc": "0.38.1", "sc_schema": "0.55.0"}'""")
    found = await Runtimes.probe(Config(runtime=(Runtime(python=python),)))
    assert found.newest == Versions("0.38.1", "0.55.0")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo trace >&2; echo \"ModuleNotFoundError: No module named 'siliconcompiler'\" >&2; exit 1",
         "ModuleNotFoundError: No module named 'siliconcompiler'"),
        ("exit 0", "it printed no version"),
        ("echo 5", "it printed no version"),
        ("echo '{}'", "it printed no version"),
    ],
)  # fmt: skip
async def test_a_python_without_siliconcompiler_is_named(tmp_path: Path, script: str, reason: str) -> None:
    python = program(tmp_path / "python", script)
    good = Runtime(python=program(tmp_path / "good", 'echo \'{"sc": "1", "sc_schema": "1"}\''), name="good")
    with pytest.raises(ConfigError) as caught:
        await Runtimes.probe(Config(runtime=(good, Runtime(python=python, name="site"))))
    assert caught.value.message == (
        f"runtime 'site': {python}: {reason}. Install SiliconCompiler there ({python} -m pip install siliconcompiler), "
        "or name another Python under [[runtime]]"
    )
    assert caught.value.exit_code == 78


@pytest.mark.anyio
async def test_a_failing_runtime_leaves_no_other_probe_behind(tmp_path: Path) -> None:
    slow = program(tmp_path / "slow", f"""sleep 1; touch {tmp_path}/ended; echo '{{"sc": "1", "sc_schema": "1"}}'""")
    failing = program(tmp_path / "failing", "exit 1")
    with pytest.raises(ConfigError):
        await Runtimes.probe(Config(runtime=(Runtime(python=slow, name="slow"), Runtime(python=failing, name="site"))))
    assert (tmp_path / "ended").exists(), "the slow one was still running when the failure was told"


@pytest.mark.anyio
async def test_a_probe_that_is_given_up_is_killed(tmp_path: Path) -> None:
    """With what it started: SIGTERM while scd starts."""
    os.mkfifo(tmp_path / "alive")
    python = program(tmp_path / "python", f"sleep 60 >{tmp_path}/alive & sleep 60")
    probe = asyncio.create_task(Runtimes.probe(Config(runtime=(Runtime(python=python),))))
    with await asyncio.to_thread(open, tmp_path / "alive") as alive:
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        rest = asyncio.to_thread(alive.read)
        assert await asyncio.wait_for(rest, 10) == "", "what the probe started is still running"
