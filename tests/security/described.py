"""schemathesis over the description: what it says is what scd does, and what it forbids is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from .judge import DESCRIPTION, Count

# Not "positive data is accepted": an object is not yet a manifest, and a hash is not yet a job.
_LEFT_OUT = "positive_data_acceptance"


def schemathesis(port: int, directory: Path, seed: int, examples: int, known: list[str]) -> Count:
    """At most ``examples`` generated cases an operation, and those of the phase that covers each rule of a schema."""
    directory.mkdir(parents=True, exist_ok=True)
    description = yaml.safe_load(DESCRIPTION.read_text())
    # Hashes of jobs that are there, so that requests reach further than to "no such job".
    description["components"]["schemas"]["JobHash"]["enum"] = [*known, "0" * 32]
    name = description["paths"]["/get_results/{name}"]["post"]["parameters"][0]["schema"]
    name["enum"] = [f"{job}.tar.gz" for job in [*known, "0" * 32]]
    (directory / "openapi.yaml").write_text(yaml.safe_dump(description))
    report = directory / "report.ndjson"
    done = subprocess.run(
        [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run", "openapi.yaml",
         "--url", f"http://127.0.0.1:{port}", "--max-examples", str(examples), "--seed", str(seed), "--no-color",
         "--exclude-checks", _LEFT_OUT, "--continue-on-failure",
         "--report", "ndjson", "--report-ndjson-path", str(report)],
        cwd=directory, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"},
    )  # fmt: skip
    count = Count("schemathesis")
    with open(report) as lines:
        for line in lines:
            _add(count, json.loads(line))
    if done.returncode:
        count.find(f"schemathesis found failures:\n{done.stdout[-6000:]}{done.stderr[-2000:]}")
    return count


def _add(count: Count, event: dict[str, dict[str, object]]) -> None:
    recorder = event.get("ScenarioFinished", {}).get("recorder", {})
    assert isinstance(recorder, dict)
    for exchange in recorder.get("interactions", {}).values():
        count.sent += 1
        if exchange.get("response") is None:
            count.find(f"no answer to {exchange['request']['method']} {exchange['request']['uri']}")
        else:
            count.answers[int(exchange["response"]["status_code"])] += 1
