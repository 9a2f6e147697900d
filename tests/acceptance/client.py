"""What a user's script does, run under the Python of a real SiliconCompiler client.

``client.py FLOW CREDENTIALS|local DIRECTORY [KEY=VALUE...]`` builds a flow by name, runs it and writes
``DIRECTORY/report.json``. Options: to, from, jobname, timeout, continue (steps, comma separated), rtl (good or bad).
It must run under every SiliconCompiler version that scd supports.
"""

import json
import sys
import time
import traceback
from pathlib import Path

from siliconcompiler import Design, Flowgraph, Project
from siliconcompiler.tools.builtin import join, maximum, minimum, nop

GOOD = (
    "module top(input wire clk, input wire [3:0] d, output reg [3:0] q);\n  always @(posedge clk) q <= d;\nendmodule\n"
)
BAD = "module top(input wire clk output reg q);\n  always @(posedge clk) q <= nowhere;\n"
BENCH = """module tb;
  reg clk = 0; reg [3:0] d = 3; wire [3:0] q;
  top dut(.clk(clk), .d(d), .q(q));
  initial begin #1 clk = 1; #1 if (q !== 3) $fatal; $display("PASSED"); $finish; end
endmodule
"""


def chain():
    flow = Flowgraph("chain")
    for number in range(5):
        flow.node(f"s{number}", nop.NOPTask())
        if number:
            flow.edge(f"s{number - 1}", f"s{number}")
    return flow


def fan(width=8):
    flow = Flowgraph("fan")
    flow.node("first", nop.NOPTask())
    flow.node("last", join.JoinTask())
    for number in range(width):
        flow.node("mid", nop.NOPTask(), index=number)
        flow.edge("first", "mid", head_index=number)
        flow.edge("mid", "last", tail_index=number)
    return flow


def fan40():
    return fan(40)


def select(task):
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


def lint():
    from siliconcompiler.flows.lintflow import LintFlow

    return LintFlow(tool="slang")


def elaborate():
    from siliconcompiler.flows.elaborationflow import ElaborationFlow

    return ElaborationFlow()


def simulate():
    from siliconcompiler.flows.dvflow import DVFlow

    return DVFlow(tool="icarus")


FLOWS = {
    "chain": chain,
    "fan": fan,
    "fan40": fan40,
    "minimum": lambda: select(minimum.MinimumTask()),
    "maximum": lambda: select(maximum.MaximumTask()),
    "lint": lint,
    "elaborate": elaborate,
    "simulate": simulate,
}


def build(name, directory, options):
    directory = Path(directory)
    (directory / "top.v").write_text(BAD if options.get("rtl") == "bad" else GOOD)
    (directory / "tb.v").write_text(BENCH)
    design = Design("top")
    design.set_dataroot("here", str(directory))
    with design.active_dataroot("here"), design.active_fileset("rtl"):
        design.set_topmodule("top")
        design.add_file("top.v")
    with design.active_dataroot("here"), design.active_fileset("bench"):
        design.set_topmodule("tb")
        design.add_file("tb.v")
    project = Project(design)
    project.add_fileset("rtl")
    if name == "simulate":
        project.add_fileset("bench", clobber=True)
        project.add_fileset("rtl")
    project.set_flow(FLOWS[name]())
    project.option.set_builddir(str(directory / "build"))
    project.option.set_nodashboard(True)
    project.option.set_nodisplay(True)
    if "to" in options:
        project.option.add_to(options["to"])
    if "from" in options:
        project.option.add_from(options["from"])
    if "jobname" in options:
        project.option.set_jobname(options["jobname"])
    for step in filter(None, options.get("continue", "").split(",")):
        project.option.set_continue(True, step=step)
    return project


def main():
    name, credentials, directory, *rest = sys.argv[1:]
    options = dict(option.split("=", 1) for option in rest)
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
    except Exception:
        record = project
    flow = project.get("flowgraph", project.option.get_flow(), field="schema")
    statuses = {f"{s}/{i}": record.get("record", "status", step=s, index=i) for s, i in flow.get_nodes()}
    report = {"statuses": statuses, "job_hash": record.get("record", "remoteid"), "wall": wall, "error": error}
    Path(directory, "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
