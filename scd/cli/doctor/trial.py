"""Runtimes and sandboxes, tried as scd's account: a program of its own, since root can make sandboxes where scd cannot.

``python -m scd.cli.doctor.trial FILE`` prints its findings as JSON.
"""

import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from ...config import Config, Runtime
from ...errors import ConfigError
from ...launcher.isolation import isolate
from ...launcher.sandbox import TEMPORARY, Sandbox
from ...runtimes import Runtimes, accepted, ask, job_environment
from .apart import findings_of, print_findings
from .finding import Finding, bad, good, note

# What the tasks that SiliconCompiler ships call.
TOOLS = (
    "yosys", "surelog", "verilator", "iverilog", "ghdl", "sv2v", "openroad", "opensta:sta", "klayout", "magic",
    "netgen:netgen-lvs", "vpr", "genfasm", "nextpnr-ice40", "icepack", "bambu", "xyce:Xyce", "graphviz:dot",
)  # fmt: skip


async def check_trial(config: Config, file: Path | None) -> AsyncIterator[Finding]:
    """The findings of this module's ``main``, run as scd's account."""
    async for finding in findings_of(__name__, "sandbox", config, file):
        yield finding


async def examine(config: Config, file: Path) -> list[Finding]:
    try:
        runtimes = await Runtimes.probe(config)
    except ConfigError as error:
        return [bad("runtime", error.message, "install SiliconCompiler there, or name another Python in [[runtime]]")]
    found = [
        good(
            "runtime",
            f"{runtime.name}: SiliconCompiler {versions.sc} in {runtime.python}, of schema {versions.sc_schema}; "
            f"it takes manifests of schema {accepted(runtime, versions)}.",
        )
        for runtime, versions in runtimes
    ]
    with tempfile.TemporaryDirectory(prefix="scd-doctor-") as place:
        try:
            sandboxes = await isolate(config, runtimes, file, Path(place))
        except ConfigError as error:
            return [*found, bad("sandbox", error.message, "see above; then: scd --check-config")]
        return found + await _sandboxes(runtimes, sandboxes, place)


async def _sandboxes(runtimes: Runtimes, sandboxes: Mapping[str, Sandbox], place: str) -> list[Finding]:
    if not sandboxes:
        found = [note("sandbox", "Jobs run without a sandbox: each can do what scd's account can.",
                      'set [local] isolation = "auto"')]  # fmt: skip
        return [*found, *[_tools(one, await _present([], one, job_environment(one, place))) for one, _ in runtimes]]
    first = next(iter(sandboxes.values()))
    _, version, _ = await ask([first.bwrap, "--version"])
    found = [good("sandbox", f"Jobs run in sandboxes ({version.decode().strip()}), with "
                  f"{'the network of this machine' if first.network else 'no network'}.")]  # fmt: skip
    if not first.sealed:
        found.append(note("sandbox", "This bwrap cannot keep jobs from making namespaces of their own.",
                          "apt install -t BACKPORTS bubblewrap (0.8 or newer)"))  # fmt: skip
    for runtime, _ in runtimes:
        argv = [*sandboxes[runtime.name].argv(place, place), "--"]
        present = await _present(argv, runtime, {**job_environment(runtime, place), "TMPDIR": TEMPORARY})
        found.append(_tools(runtime, present))
    return found


async def _present(argv: list[str], runtime: Runtime, env: Mapping[str, str]) -> set[str]:
    """The programs that a node's own PATH leads to, after its runtime's prolog."""
    script = 'for tool in "$@"; do command -v "$tool" >/dev/null && echo "$tool"; done; :'
    commands = [tool.rpartition(":")[2] for tool in TOOLS]
    shell = ("/bin/bash", "--noprofile", "--norc") if runtime.prolog else ("/bin/sh",)
    _, out, _ = await ask([*argv, *shell, "-c", f"{runtime.prolog}\n{script}", "sh", *commands], env)
    return {line for line in out.decode(errors="replace").splitlines() if line in commands}


def _tools(runtime: Runtime, present: set[str]) -> Finding:
    names = {tool.partition(":")[0]: tool.rpartition(":")[2] for tool in TOOLS}
    there = [name for name, command in names.items() if command in present]
    missing = [name for name, command in names.items() if command not in present]
    found = f"{runtime.name}: nodes find {', '.join(there) or 'no tools'}; they do not find {', '.join(missing)}."
    return note("tools", found, "install what your flows need; outside /usr, name it in path of [[runtime]]")


def main() -> None:
    print_findings(examine)


if __name__ == "__main__":
    main()
