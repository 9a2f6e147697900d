"""What a user's script looks like: ``client.py CREDENTIALS RTL_DIRECTORY BUILD_DIRECTORY``, under the runtime's Python.

elaborate and lint the design; then four more lints side by side, each of what was elaborated; then join them.
"""

import sys
from pathlib import Path

from siliconcompiler import Design, Flowgraph, Project
from siliconcompiler.tools.builtin.join import JoinTask
from siliconcompiler.tools.builtin.nop import NOPTask
from siliconcompiler.tools.slang.elaborate import Elaborate
from siliconcompiler.tools.slang.lint import Lint


def main(credentials: str, rtl: str, build: str) -> int:
    design = Design("heartbeat")
    design.set_dataroot("rtl", rtl)
    with design.active_dataroot("rtl"), design.active_fileset("rtl"):
        design.set_topmodule("heartbeat")
        for file in sorted(Path(rtl).glob("*.v")):
            design.add_file(file.name)

    flow = Flowgraph("demo")
    flow.node("elaborate", Elaborate())
    flow.node("lint", Lint())
    flow.node("collect", JoinTask())
    for index in range(4):
        flow.node("variant", Lint(), index=index)
        flow.edge("elaborate", "variant", head_index=index)
        flow.edge("variant", "collect", tail_index=index)
    flow.edge("lint", "collect")
    flow.node("done", NOPTask())
    flow.edge("collect", "done")

    project = Project(design)
    project.add_fileset("rtl")
    project.set_flow(flow)
    project.option.set_builddir(build)
    project.option.set_nodashboard(True)
    project.option.set_remote(True)
    project.option.set_credentials(credentials)
    project.run()

    record = project.history(project.option.get_jobname()).get("record", field="schema")
    return (
        0 if all(record.get("status", step=step, index=index) == "success" for step, index in flow.get_nodes()) else 1
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
