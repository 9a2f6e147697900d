"""Batteries of hostile requests, each an endless stream of them out of one random generator."""

import gzip
import itertools
import json
import random
from collections.abc import Callable, Iterator
from urllib.parse import quote

from . import words
from .wire import Due, Request, post

ENDPOINTS = ["check_server", "check_progress", "cancel_job", "delete_job"]
RESULTS = "/get_results/{name}"
RUN = "/remote_run/"
BOUNDARY = b"frontier"
FORM = b"Content-Type: multipart/form-data; boundary=" + BOUNDARY
SMALL_IMPORT = gzip.compress(bytes(1024))

Battery = Callable[[random.Random, list[str]], Iterator[Request]]


def json_bodies(rng: random.Random, known: list[str]) -> Iterator[Request]:
    """Every JSON endpoint, with bodies that are right, nearly right, or no JSON at all."""
    while True:
        body = words.encoded(
            rng, rng.choice([words.question(rng, known), words.question(rng, known), words.anything(rng)])
        )
        kind = rng.choice([(), (), (b"Content-Type: application/json; charset=utf-16",), (b"Content-Type: x\xff",),
                           (b"Content-Encoding: gzip",), (b"Content-Type: multipart/form-data",)])  # fmt: skip
        if rng.random() < 0.3:
            name = rng.choice([*known, "0" * 32, rng.choice(words.HASHES)]) + ".tar.gz"
            yield Request(post(f"/get_results/{_quoted(rng, name)}", body, *kind), RESULTS)
        else:
            endpoint = rng.choice(ENDPOINTS)
            yield Request(post(f"/{endpoint}{rng.choice(['/', '/', ''])}", body, *kind), f"/{endpoint}/")


def names(rng: random.Random, known: list[str]) -> Iterator[Request]:
    """Submissions that are right but for their names, and questions with hostile names."""
    while True:
        if rng.random() < 0.4:
            asked = {rng.choice(words.FIELDS): words.text(rng), "job_hash": rng.choice([*known, "0" * 32])}
            data = json.dumps(asked).encode()
            endpoint = rng.choice(ENDPOINTS[:2])
            yield Request(post(f"/{endpoint}/", data), f"/{endpoint}/")
            continue
        which = rng.sample(["design", "jobname", "flow", "step", "index", "schema", "scheduler"], rng.randint(1, 2))
        cfg = words.manifest(**{name: words.text(rng) for name in which})
        asked = {rng.choice(words.FIELDS): words.text(rng)} if rng.random() < 0.3 else {}
        content = json.dumps({"cfg": cfg, "params": asked}, ensure_ascii=rng.random() < 0.5)
        parts = [part(b"params", content.encode("utf-8", "surrogatepass")), part(b"import", SMALL_IMPORT)]
        yield Request(post(RUN, form(*parts), FORM), RUN)


def multiparts(rng: random.Random, known: list[str]) -> Iterator[Request]:
    """remote_run with parts missing, doubled, in another order, mistyped, cut, or with odd headers."""
    while True:
        cfg = words.manifest()
        spoilt = words.spoilt(rng, cfg) if rng.random() < 0.6 else cfg
        asked = words.question(rng, known) if rng.random() < 0.5 else {}
        whole: object = {"cfg": spoilt, "params": asked} if rng.random() < 0.9 else words.anything(rng)
        data = words.encoded(rng, whole) if rng.random() < 0.5 else json.dumps(whole).encode("utf-8", "replace")
        parts = [part(b"params", data, rng), part(b"import", _import(rng), rng)]
        match rng.randrange(8):
            case 0:
                rng.shuffle(parts)
            case 1:
                parts.insert(rng.randrange(3), rng.choice(parts))
            case 2:
                del parts[rng.randrange(2)]
            case 3:
                parts.insert(rng.randrange(3), part(words.text(rng).encode("utf-8", "replace"), b"x", rng))
            case 4:
                parts = []
        body = form(*parts)
        if rng.random() < 0.15:
            body = _damaged(rng, body)
        yield Request(post(RUN, body, _content_type(rng)), RUN)


def headers(rng: random.Random, _: list[str]) -> Iterator[Request]:
    """Requests whose first lines are odd: hosts, origins, lengths, encodings, methods, paths."""
    while True:
        method = rng.choice(["POST"] * 6 + ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
        path = rng.choice(["/check_server/", "/check_progress", "/healthz", "/openapi.yaml", "/admin/fix",
        "/nothing", "/",
                           "//healthz", "/check_server/..", "/get_results/..%2f..%2fetc%2fpasswd", "/healthz/",
                           "/admin/log/%00/a/b?offset=%ff", "/login?next=//x", "/logout",
                           "/metrics", "/?before=%00&state=%ff",
                           "/static/../openapi.yaml", "/job/" + _quoted(rng, words.text(rng)),
                           f"/job/{'0' * 32}/node/%00/log?from=-1", "/check_server/?" + "x" * 3000, "http://localhost/healthz",
                           "/get_results/" + _quoted(rng, words.text(rng))])  # fmt: skip
        extra = [_header(rng) for _ in range(rng.randrange(4))]
        lines = [
            f"{method} {path} HTTP/{rng.choice(['1.1', '1.1', '1.0'])}".encode("utf-8", "replace"),
            b"Connection: close",
        ]
        lines += [b"Host: localhost"] if rng.random() < 0.8 else []
        lines += [b"Content-Length: 2"] * (method not in ("GET", "HEAD"))
        body = b"{}" if method not in ("GET", "HEAD") else b""
        data = b"\r\n".join([*lines, *extra]) + b"\r\n\r\n" + body
        yield Request(data, _described(path), method.lower())


def no_http(rng: random.Random, _: list[str]) -> Iterator[Request]:
    """What is no HTTP, or two things at once: smuggling, chunks without end, line ends, control characters."""
    start = b"POST /check_server/ HTTP/1.1\r\nHost: localhost\r\n"
    while True:
        data = rng.choice([
            start + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            start + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", start + b"Content-Length: -1\r\n\r\n",
            start + b"Content-Length: \xb2\r\n\r\n{}",
            start + b"Content-Length: %s\r\n\r\n" % (b"9" * rng.randint(19, 5000)),
            start + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
            start + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}\r\n",
            start + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", start + b" folded: x\r\n\r\n",
            start + b"X: a\0b\r\n\r\n", start + b"X\x01: y\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
            b"\x16\x03\x01\x02\0\x01",
            b"GET \r\n\r\n", b"FOO / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
            b"\0" * 64,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", rng.randbytes(rng.randint(1, 400)) + b"\r\n\r\n",
        ])  # fmt: skip
        yield Request(data, "/check_server/", due=Due.END)


def broken_off(rng: random.Random, known: list[str]) -> Iterator[Request]:
    """Requests of the other batteries, left in the middle: uploads above all."""
    sources = [json_bodies(rng, known), multiparts(rng, known), names(rng, known)]
    while True:
        if rng.random() < 0.5:
            content = json.dumps({"cfg": words.manifest()}).encode()
            body = form(part(b"params", content), part(b"import", rng.randbytes(rng.randint(10, 100_000))))
            data = post(RUN, body, FORM)
            yield Request(data[: -rng.randint(1, len(data) // 2)], RUN, due=Due.NOTHING)
        else:
            request = next(rng.choice(sources))
            yield request._replace(data=request.data[: rng.randrange(1, len(request.data))], due=Due.NOTHING)


BATTERIES: dict[str, Battery] = {
    "JSON bodies": json_bodies, "multipart bodies": multiparts, "names": names, "headers": headers, "no HTTP": no_http,
    "broken off": broken_off,
}  # fmt: skip


def part(name: bytes, content: bytes, rng: random.Random | None = None) -> bytes:
    """One part; with ``rng`` sometimes with headers that no client sends."""
    disposition = b'form-data; name="%s"; filename="%s"' % (name, name)
    lines = [b"Content-Disposition: " + disposition]
    if rng is not None and rng.random() < 0.25:
        lines = rng.choice([
            [b"content-disposition: form-data; name=" + name],
            [b"Content-Disposition: form-data; name*=utf-8''%" + name],
            [b"Content-Disposition: attachment; " + disposition], [b"X: " + b"y" * rng.choice([10, 20_000]), *lines],
            [*lines, *lines], [], [b"Content-Disposition: " + disposition.replace(b'"', b"")],
            [b"Content-Disposition:\xff"],
            [*lines, b"Content-Type: application/json; charset=utf-16"], [*lines, b"Content-Transfer-Encoding: base64"],
            [lines[0].replace(b'name="', b'name="\\\x1b')], [*lines, b"Content-Type: multipart/mixed; boundary=b"],
        ])  # fmt: skip
    return b"--" + BOUNDARY + b"\r\n" + b"\r\n".join([*lines, b""]) + b"\r\n" + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


def stream(name: str, seed: int, known: list[str], count: int) -> Iterator[Request]:
    return itertools.islice(BATTERIES[name](random.Random(f"{seed}/{name}"), known), count)


def _import(rng: random.Random) -> bytes:
    return rng.choice(
        [SMALL_IMPORT, SMALL_IMPORT, b"", b"x", rng.randbytes(300), b"--" + BOUNDARY + b"x", b"\r\n" * 50]
    )


def _content_type(rng: random.Random) -> bytes:
    if rng.random() < 0.8:
        return FORM
    return b"Content-Type: " + rng.choice([
        b"multipart/form-data", b"multipart/form-data; boundary=", b"multipart/form-data; boundary=other",
        b"multipart/mixed; boundary=frontier", b"application/json", b"multipart/form-data; boundary*=utf-8''fr%ffntier",
        b'multipart/form-data; boundary="front\\"ier"', b"multipart/form-data; boundary=" + b"x" * 3000, b"\xff\xfe",
        b"",
        b"multipart/form-data; boundary=frontier; boundary=other", b"multipart/form-data; boundary=\x80\x81",
        b"multipart/form-data; boundary*0=fron; boundary*1=tier", b"multipart/form-data;;;=;boundary",
    ])  # fmt: skip


def _damaged(rng: random.Random, body: bytes) -> bytes:
    at = rng.randrange(len(body))
    return rng.choice([body[:at], body[:at] + rng.randbytes(3) + body[at:], b"preamble\r\n" + body, body + b"epilogue",
                       body.replace(b"\r\n", b"\n"), body.replace(b"--frontier--", b"--frontier"),
                       body + body])  # fmt: skip


def _header(rng: random.Random) -> bytes:
    return rng.choice([
        b"Host: evil.example", b"Host: ", b"Host: [::1", b"Host: localhost:99999999", b"Host: \xff",
        b"Host: a@localhost",
        b"Origin: null", b"Origin: http://evil.example", b"Origin: \x80", b"Sec-Fetch-Site: cross-site",
        b"Cookie: " + b"x" * 9000,
        b"Expect: 100-continue", b"Range: bytes=0-18446744073709551616", b"X-Forwarded-For: ' OR 1=1",
        b"Accept: */*;q=x",
        b"Accept-Encoding: gzip, zstd", b"Content-Type: \xe4", b"X-HTTP-Method-Override: DELETE", b"If-None-Match: *",
        b"Authorization: Basic " + b"A" * 500, b"Upgrade: websocket\r\nConnection: Upgrade", b"X: " + b"\t" * 100,
        b"x" * 200 + b": y",
        b"\r\n".join(b"X-%d: y" % n for n in range(rng.choice([10, 200]))), b"Forwarded: for=\"[::1]\"",
        b"Host: localhost",
    ])  # fmt: skip


def _quoted(rng: random.Random, text: str) -> str:
    """In a URL's path; control characters and blanks would end the line."""
    safe = "/.-_~" if rng.random() < 0.8 else "/.-_~:@!$&'()*+,;="
    return quote(text.encode("utf-8", "surrogatepass"), safe=safe)[:7000]


def _described(path: str) -> str:
    """The path in the description, "" for one that is not there."""
    plain = path.removeprefix("http://localhost").partition("?")[0]
    for known in ("/check_server/", "/check_progress/", "/healthz", "/openapi.yaml", "/admin/fix", "/", "/login",
                  "/logout", "/metrics"):  # fmt: skip
        if plain in (known, known.rstrip("/")) and not (plain != known and known == "/healthz"):
            return known
    if plain.startswith("/static/"):
        return "/static/{digest}/{name}"
    if plain.startswith("/job/"):
        return "/job/{job_hash}/node/{n}/log" if plain.endswith("/log") else "/job/{job_hash}"
    return RESULTS if plain.startswith("/get_results/") else ""
