"""What a user's script does, run under the Python of a real SiliconCompiler client.

``client.py FLOW CREDENTIALS|local DIRECTORY [KEY=VALUE...]`` builds a flow by name (``fan40``: 40 nodes wide), runs it
and writes ``DIRECTORY/report.json``. Options: ``to`` and ``from`` (a step), ``jobname``, ``continue`` (steps, comma
separated), ``rtl`` (good or bad), ``script`` (what an exec node runs), ``timeout`` and ``threads`` (seconds and number,
of the step work), ``scheduler``, ``queue``, ``memory``, ``defer`` and ``sbatch`` (what option,scheduler says of the
step work), ``maxnodes``, ``note`` (a comment in the RTL), ``package`` (where an archive with top.v is), ``manifest``
(go on with the project in this file). It must run under every SiliconCompiler version that scd supports.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from siliconcompiler import Design, Flowgraph, Project
from siliconcompiler.tools.builtin import join, maximum, minimum, nop
from siliconcompiler.tools.builtin.importfiles import ImportFilesTask
from siliconcompiler.tools.execute.exec_input import ExecInputTask
from siliconcompiler.tools.slang.lint import Lint

GOOD = """module top(input wire clk, input wire [3:0] d, output reg [3:0] q);
  always @(posedge clk) q <= d;
endmodule
"""
BAD = """module top(input wire clk output reg q);
  always @(posedge clk) q <= nowhere;
"""
BENCH = """module tb;
  reg clk = 0; reg [3:0] d = 3; wire [3:0] q;
  top dut(.clk(clk), .d(d), .q(q));
  initial begin #1 clk = 1; #1 if (q !== 3) $fatal; $display("PASSED"); $finish; end
endmodule
"""


class MyTask(nop.NOPTask):  # type: ignore[misc]
    """A task of the user's own script: no server can have it."""


def chain() -> Any:
    flow = Flowgraph("chain")
    for number in range(5):
        flow.node(f"s{number}", nop.NOPTask())
        if number:
            flow.edge(f"s{number - 1}", f"s{number}")
    return flow


def fan(width: int = 8) -> Any:
    flow = Flowgraph("fan")
    flow.node("first", nop.NOPTask())
    flow.node("last", join.JoinTask())
    for number in range(width):
        flow.node("mid", nop.NOPTask(), index=number)
        flow.edge("first", "mid", head_index=number)
        flow.edge("mid", "last", tail_index=number)
    return flow


def select(task: Any) -> Any:
    flow = Flowgraph("select")
    flow.node("first", nop.NOPTask())
    flow.node("pick", task)
    for number in range(3):
        flow.node("try", nop.NOPTask(), index=number)
        flow.edge("first", "try", head_index=number)
        flow.edge("try", "pick", tail_index=number)
    flow.node("after", nop.NOPTask())
    flow.edge("pick", "after")
    return flow


def lint() -> Any:
    from siliconcompiler.flows.lintflow import LintFlow

    return LintFlow(tool="slang")


def elaborate() -> Any:
    from siliconcompiler.flows.elaborationflow import ElaborationFlow

    return ElaborationFlow()


def simulate() -> Any:
    from siliconcompiler.flows.dvflow import DVFlow

    return DVFlow(tool="icarus")


def lint_then_builtin() -> Any:
    """A lint beside a node that succeeds, both joined."""
    flow = Flowgraph("lintbuiltin")
    flow.node("lint", Lint())
    flow.node("good", nop.NOPTask())
    flow.node("both", join.JoinTask())
    flow.edge("lint", "both")
    flow.edge("good", "both")
    flow.node("after", nop.NOPTask())
    flow.edge("both", "after")
    return flow


def lint_then_lint() -> Any:
    """A node that is no builtin behind a lint, and one behind that."""
    flow = Flowgraph("lintlint")
    flow.node("lint", Lint())
    flow.node("again", Lint())
    flow.edge("lint", "again")
    flow.node("after", nop.NOPTask())
    flow.edge("again", "after")
    return flow


def work() -> Any:
    """A script, run by a node."""
    flow = Flowgraph("work")
    flow.node("get", ImportFilesTask())
    flow.node("work", ExecInputTask())
    flow.edge("get", "work")
    flow.node("after", nop.NOPTask())
    flow.edge("work", "after")
    return flow


def workers() -> Any:
    """Four nodes that each run the script, side by side."""
    flow = Flowgraph("workers")
    flow.node("get", ImportFilesTask())
    for number in range(4):
        flow.node("work", ExecInputTask(), index=number)
        flow.edge("get", "work", head_index=number)
    return flow


def mine() -> Any:
    flow = Flowgraph("mine")
    flow.node("own", MyTask())
    return flow


FLOWS: dict[str, Callable[[], Any]] = {
    "chain": chain,
    "fan": fan,
    "minimum": lambda: select(minimum.MinimumTask()),
    "maximum": lambda: select(maximum.MaximumTask()),
    "lint": lint,
    "elaborate": elaborate,
    "simulate": simulate,
    "lint-builtin": lint_then_builtin,
    "lint-lint": lint_then_lint,
    "work": work,
    "workers": workers,
    "mine": mine,
}


def build(name: str, directory: Path, options: dict[str, str]) -> Any:
    rtl = BAD if options.get("rtl") == "bad" else GOOD
    (directory / "top.v").write_text(f"{rtl}// {options['note']}\n" if "note" in options else rtl)
    (directory / "tb.v").write_text(BENCH)
    script = directory / "script.sh"
    script.write_text("#!/bin/sh\n" + options.get("script", "true") + "\n")
    script.chmod(0o755)
    design = Design("top")
    design.set_dataroot("here", str(directory))
    if "package" in options:
        design.set_dataroot("ip", options["package"], tag="v1")
    with design.active_dataroot("ip" if "package" in options else "here"), design.active_fileset("rtl"):
        design.set_topmodule("top")
        design.add_file("top.v")
    if "package" in options:  # as those of a PDK: they do not travel with the job
        design.set("fileset", "rtl", "file", "verilog", False, field="copy")
    with design.active_dataroot("here"), design.active_fileset("bench"):
        design.set_topmodule("tb")
        design.add_file("tb.v")
    project = Project(design)
    if name == "simulate":
        project.add_fileset("bench")
    project.add_fileset("rtl")
    project.set_flow(FLOWS[name]() if name in FLOWS else fan(int(name.removeprefix("fan"))))
    if name in ("work", "workers"):
        task = ImportFilesTask.find_task(project)
        task.set_dataroot("here", str(directory))
        task.add_import_file("script.sh", dataroot="here")
        if "threads" in options:
            ExecInputTask.find_task(project).set_threads(int(options["threads"]))
    project.option.set_builddir(str(directory / "build"))
    set_options(project, options)
    return project


def set_options(project: Any, options: dict[str, str]) -> None:
    project.option.set_nodashboard(True)
    project.option.set_nodisplay(True)
    if "to" in options:
        project.option.add_to(options["to"])
    if "from" in options:
        project.option.add_from(options["from"])
    if "jobname" in options:
        project.option.set_jobname(options["jobname"])
    if "timeout" in options:
        project.option.set_timeout(float(options["timeout"]), step="work")
    if "maxnodes" in options:
        project.option.scheduler.set_maxnodes(int(options["maxnodes"]))
    scheduler = project.option.scheduler
    if "scheduler" in options:
        scheduler.set_name(options["scheduler"], step="work")
    if "queue" in options:
        scheduler.set_queue(options["queue"], step="work")
    if "memory" in options:
        scheduler.set_memory(int(options["memory"]), step="work")
    if "defer" in options:
        scheduler.set_defer(options["defer"], step="work")
    if "sbatch" in options:
        scheduler.add_options(options["sbatch"].split(), step="work")
    for step in filter(None, options.get("continue", "").split(",")):
        project.option.set_continue(True, step=step)


def main() -> None:
    name, credentials, place, *rest = sys.argv[1:]
    directory = Path(place)
    options = dict(option.split("=", 1) for option in rest)
    if "manifest" in options:
        project = Project.from_manifest(filepath=options["manifest"])
        set_options(project, options)
    else:
        project = build(name, directory, options)
    if credentials != "local":
        project.option.set_remote(True)
        project.option.set_credentials(credentials)
    error = ""
    begin = time.monotonic()
    try:
        project.run()
    except Exception as failure:
        error = str(failure)
        traceback.print_exc()
    wall = time.monotonic() - begin
    jobname = project.option.get_jobname()
    try:
        record = project.history(jobname)
    except Exception:  # a run that failed early has none
        record = project
    flow = project.get("flowgraph", project.option.get_flow(), field="schema")
    statuses = {
        f"{step}/{index}": record.get("record", "status", step=step, index=index) for step, index in flow.get_nodes()
    }
    report = {"statuses": statuses, "job_hash": record.get("record", "remoteid"), "wall": wall, "error": error}
    (directory / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
