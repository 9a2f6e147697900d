"""Hypothesis against a real daemon: any JSON, any form, cut into any pieces."""

import itertools
import json
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from . import words
from .batteries import BOUNDARY, ENDPOINTS, FORM, RUN, SMALL_IMPORT
from .judge import Count, Judge
from .send import send
from .wire import Request, Wire, post

TEXT = (
    st.text(max_size=40)
    | st.sampled_from(words.TEXTS)
    | st.text(st.characters(categories=["Cc", "Cs", "Zl", "Zp"]), max_size=9)
)
NUMBERS = st.integers() | st.floats() | st.integers(min_value=2**63, max_value=2**70)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
QUESTIONS = st.dictionaries(st.sampled_from(words.FIELDS) | TEXT, TEXT | JSON, max_size=6)
NAMES = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("design", "jobname", "flow", "step", "index", "schema", "scheduler"), TEXT)
)
HEADER_BYTES = st.binary(max_size=60).map(lambda data: data.replace(b"\r", b"").replace(b"\n", b""))
PART_NAMES = st.sampled_from([b"params", b"params", b"import", b"import", b"other", b""]) | HEADER_BYTES
CUTS = st.lists(st.integers(0, 2000), max_size=6)


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode()


SUBMISSIONS = st.builds(
    lambda names, asked: _dumped({"cfg": words.manifest(**names), "params": asked}), NAMES, st.just({}) | QUESTIONS
)
PARTS = st.lists(
    st.tuples(PART_NAMES, SUBMISSIONS | st.just(SMALL_IMPORT) | st.binary(max_size=200) | JSON.map(_dumped),
              st.lists(HEADER_BYTES, max_size=2)),
    max_size=4,
)  # fmt: skip


def form(parts: list[tuple[bytes, bytes, list[bytes]]], ending: bytes = b"--\r\n") -> bytes:
    body = b""
    for name, content, lines in parts:
        head = b"\r\n".join([b'Content-Disposition: form-data; name="%s"' % name, *lines])
        body += b"--" + BOUNDARY + b"\r\n" + head + b"\r\n\r\n" + content + b"\r\n"
    return body + b"--" + BOUNDARY + ending


def chunked(path: str, body: bytes, cuts: list[int], *headers: bytes) -> bytes:
    """A POST request whose body comes in pieces of its own, its length unknown before."""
    lines = [b"POST %s HTTP/1.1" % path.encode(), b"Host: localhost", b"Transfer-Encoding: chunked", *headers]
    edges = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    pieces = [body[begin:end] for begin, end in itertools.pairwise(edges)]
    data = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return b"\r\n".join(lines) + b"\r\n\r\n" + data + b"0\r\n\r\n"


def bodies(port: int, number: int, start: int, judge: Judge, known: list[str]) -> Count:
    """Any JSON to any endpoint, whole or in pieces."""
    hashes = st.sampled_from([*known, "0" * 32])
    questions = QUESTIONS | st.builds(lambda asked, job: {**asked, "job_hash": job}, QUESTIONS, hashes)
    paths = st.sampled_from([*ENDPOINTS, "get_results"])

    def request(path: str, body: bytes, cuts: list[int], job: str) -> Request:
        where, described = f"/{path}/", f"/{path}/"
        if path == "get_results":
            where, described = f"/get_results/{job}.tar.gz", "/get_results/{name}"
        return Request(chunked(where, body, cuts) if cuts else post(where, body), described)

    strategy = st.builds(
        request, paths, questions.map(_dumped) | JSON.map(_dumped) | st.binary(max_size=80), CUTS, hashes
    )
    return _run("Hypothesis: JSON", strategy, port, number, start, judge)


def forms(port: int, number: int, start: int, judge: Judge, known: list[str]) -> Count:
    """Forms of any parts, with any headers, whole or in pieces; and right ones with any names."""
    right = SUBMISSIONS.map(lambda params: form([(b"params", params, []), (b"import", SMALL_IMPORT, [])]))
    odd = st.builds(form, PARTS, st.sampled_from([b"--\r\n", b"--\r\n", b"\r\n", b"", b"--"]))

    def request(body: bytes, cuts: list[int]) -> Request:
        return Request(chunked(RUN, body, cuts, FORM) if cuts else post(RUN, body, FORM), RUN)

    return _run("Hypothesis: multipart", st.builds(request, right | odd, CUTS), port, number, start, judge)


def _run(
    name: str, strategy: st.SearchStrategy[Request], port: int, number: int, start: int, judge: Judge
) -> Count:  # fmt: skip
    count = Count(name)
    with Wire(port) as wire:

        @seed(start)
        @settings(
            max_examples=number, database=None, deadline=None, suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )  # fmt: skip
        @given(strategy)
        def battery(request: Request) -> None:
            send(wire, request, judge, count)

        battery()
    return count


Hypotheses = Callable[[int, int, int, Judge, list[str]], Count]
HYPOTHESES: list[Hypotheses] = [bodies, forms]
