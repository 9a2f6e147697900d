"""Where tools keep what they carry from one node to the next: not in the site's cache, which no job may write."""

import subprocess
from pathlib import Path

import pytest

from ..harness import ROOT, RUNTIME

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from scd.runner.job import Settings, own_tool_caches
from siliconcompiler import Design, Flowgraph, Project
from siliconcompiler.scheduler import SchedulerNode
from siliconcompiler.tools.builtin.nop import NOPTask
settings = Settings(root=sys.argv[2], cache=sys.argv[3], **dict.fromkeys(
    (name for name in Settings._fields if name not in ("root", "cache")), ""))
own_tool_caches(settings)
project = Project(Design("top"))
flow = Flowgraph("flow")
flow.node("only", NOPTask())
project.set_flow(flow)
project.option.set_cachedir(sys.argv[3])
task = NOPTask.find_task(project)
with task.runtime(SchedulerNode(project, "only", "0")) as task:
    print(task.cachedir)
"""


@pytest.mark.parametrize("writable", [True, False])
def test_a_tools_cache_is_the_jobs_own_where_the_sites_cannot_be_written(tmp_path: Path, writable: bool) -> None:
    cache, root = tmp_path / "cache", tmp_path / "work"
    if writable:
        cache.mkdir()
    done = subprocess.run(
        [RUNTIME, "-c", SCRIPT, str(ROOT), str(root), str(cache)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    place = done.stdout.strip().splitlines()[-1]
    assert place == f"{cache}/tools/builtin" if writable else f"{root}/tools/builtin"
