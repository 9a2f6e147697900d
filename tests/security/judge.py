"""Whether an answer is one that scd may give: a documented status, a documented shape, nothing of its inside."""

import dataclasses
import json
import re
from collections import Counter
from typing import Any

import jsonschema_rs
import yaml

from ..harness import ROOT
from .wire import Answer, Request

DESCRIPTION = ROOT / "scd" / "web" / "openapi.yaml"
_INSIDE = re.compile(rb'Traceback|File "|site-packages|Error\(|/state/|/spool/|0x[0-9a-f]{8}')
# What uvicorn says of bytes that are no HTTP: they do not reach scd.
_NO_HTTP = b"Invalid HTTP request received."
_MOST_FINDINGS = 50


@dataclasses.dataclass
class Count:
    """What a battery sent, and what came back by status; ``findings`` are what must not be."""

    battery: str
    sent: int = 0
    answers: Counter[int] = dataclasses.field(default_factory=Counter)
    left: int = 0  # requests that the sender broke off
    findings: list[str] = dataclasses.field(default_factory=list)

    def find(self, what: str) -> None:
        if len(self.findings) < _MOST_FINDINGS:
            self.findings.append(what)


class Judge:
    """The description, as it is written."""

    def __init__(self) -> None:
        self.description: dict[str, Any] = yaml.safe_load(DESCRIPTION.read_text())
        self._validators: dict[str, Any] = {}

    def statuses(self, path: str, method: str) -> set[int]:
        operation = self.description["paths"].get(path, {}).get(method, {})
        return {int(status) for status in operation.get("responses", {})}

    def problem(self, request: Request, answer: Answer) -> str | None:
        """What is wrong with an answer, None if nothing is."""
        status, body = answer.status, answer.body
        if status >= 500 and status not in (503, 507):
            return f"status {status}: {body[:200]!r}"
        if status >= 400 and _INSIDE.search(body):
            return f"it shows its inside: {body[:400]!r}"
        if body == _NO_HTTP and status == 400:
            return None
        allowed = self.statuses(request.path, "get" if request.method == "head" else request.method)
        if status not in (allowed or {403, 404}) and status != 405:
            return f"status {status} is not described for {request.method} {request.path}: {body[:200]!r}"
        kind = answer.headers.get("content-type", "")
        if request.method == "head":
            return None
        if status in (204, 303):
            return f"status {status} with a body: {body[:200]!r}" if body else None
        if (plain := kind.partition(";")[0]) != "application/json" and plain in self._kinds(request, status):
            return None
        if kind != "application/json":
            return f"an answer of type {kind!r}: {body[:200]!r}"
        return self._shape_problem(request, status, body)

    def _shape_problem(self, request: Request, status: int, body: bytes) -> str | None:
        found = json.loads(body)
        where = f"{request.path}/{request.method}/{status}" if status < 400 else "failure"
        if where not in self._validators:
            schema = self._schema(request, status) if status < 400 else {"$ref": "#/components/schemas/Failure"}
            self._validators[where] = jsonschema_rs.validator_for({**schema, "components": self._components()})
        error = next(iter(self._validators[where].iter_errors(found)), None)
        if error is not None:
            return f"not the shape that is described: {error.message[:300]}"
        message = found.get("message")
        if isinstance(message, str) and not message.replace("\n", "").isprintable():
            return f"a message that steers a terminal: {message[:200]!r}"
        if status >= 400 and len(body) > 20_000:
            return f"a message of {len(body)} bytes"
        return None

    def _kinds(self, request: Request, status: int) -> set[str]:
        """The types that are described for an answer."""
        operation = self.description["paths"].get(request.path, {}).get(request.method)
        if operation is None:
            return set()
        return set(self._response(operation, status).get("content", {}))

    def _response(self, operation: Any, status: int) -> Any:
        response = operation["responses"][str(status)]
        if "$ref" in response:
            return self.description["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
        return response

    def _schema(self, request: Request, status: int) -> dict[str, Any]:
        response = self._response(self.description["paths"][request.path][request.method], status)
        schema: dict[str, Any] = response["content"]["application/json"]["schema"]
        return schema

    def _components(self) -> Any:
        return self.description["components"]
