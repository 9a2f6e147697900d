"""Texts that have broken servers before, and JSON made of them. Everything comes from one random generator."""

import json
import random
from collections.abc import Callable, Mapping

CONTROL = ["a\r\nX-Forged: 1", "a\n2026-01-01T00:00:00Z INFO forged", "\x1b[31mred", "\x1b]0;title\x07", "\x9b31m",
"\x7f",
           "\x85", "\u2028", "\u2029", "\u202e", "\ufeff", "\b\b\b"]  # fmt: skip
PATHS = ["..", ".", "../..", "/", "/etc/passwd", "a/b", "\\", "..\\..\\x", "%2e%2e%2f", "file:///etc/passwd", "~root",
         "C:\\x", "\0", "a\0b", "a/../b", "//", "...", ".hidden"]  # fmt: skip
WORDS = ["", " ", "a;b", "a b", "\t", "null", "status", "message", "NaN", "-0", "1e999", "%s%n%x",
         "${jndi:ldap://127.0.0.1/x}",
         "'; DROP TABLE jobs; --", "<script>alert(1)</script>", "$(id)", "`id`", "__class__", "__proto__", "{{7*7}}",
         "0", "syn0", "default", "__meta__", "*", "global", "\ud800", "\udfff\ud800", "😀",
         "e\u0301", "\ufb00", "\u0130", "ß", "\u0663"]  # fmt: skip
LONG = [
    "x" * 129,
    "x" * 255,
    "x" * 5000,
    "ä" * 3000,
    "\u0301" * 2000,
    "9" * 5000,
    " " * 4097,
    "../" * 2000,
    "\n" * 4000,
]
HASHES = [
    "0" * 32,
    "F" * 32,
    "0" * 31,
    "0" * 33,
    "0" * 32 + "\n",
    "g" * 32,
    "\u0663" * 32,
    " " + "0" * 31,
    "0" * 32 + ".tar.gz",
]
TEXTS = CONTROL + PATHS + WORDS + LONG + HASHES
FIELDS = ["username", "key", "job_hash", "job_id", "node"]

# A schema version that no runtime takes: such a job is accepted, kept, and rejected without a process.
FOREIGN_SCHEMA = "9999.0.0"


def manifest(**names: object) -> dict[str, object]:
    """The few things that scd reads in a manifest; ``names`` replace some of them."""

    def value(what: object) -> dict[str, object]:
        return {"node": {"*": {"*": {"value": what, "signature": None}}}}

    step, index = names.get("step", "syn"), names.get("index", "0")
    flow = names.get("flow", "flow")
    return {
        "schemaversion": value(names.get("schema", FOREIGN_SCHEMA)),
        "option": {
            "flow": value(flow), "design": value(names.get("design", "top")),
            "jobname": value(names.get("jobname", "job0")),
            "scheduler": {"name": value(names.get("scheduler"))},
        },
        "flowgraph": {str(flow): {str(step): {str(index): {}}}},
    }  # fmt: skip


def text(rng: random.Random) -> str:
    chosen = rng.choice(TEXTS)
    return rng.choice(
        [chosen, chosen, chosen, chosen + rng.choice(TEXTS), "".join(map(chr, rng.choices(range(1, 0x3000), k=9)))]
    )


def anything(rng: random.Random, depth: int = 0) -> object:
    """A JSON value of some kind, seldom deep."""
    kinds: list[Callable[[], object]] = [
        lambda: None, lambda: rng.random() < 0.5, lambda: rng.choice([0, -1, 2**31, 2**63, 2**64, 10**400, -(10**30)]),
        lambda: rng.choice([0.5, 1e308, -1e-308, float("nan"), float("inf")]), lambda: text(rng),
    ]  # fmt: skip
    if depth < 3:
        kinds += [
            lambda: [anything(rng, depth + 1) for _ in range(rng.randrange(4))],
            lambda: {text(rng): anything(rng, depth + 1) for _ in range(rng.randrange(4))},
        ]
    return rng.choice(kinds)()


def question(rng: random.Random, known: list[str]) -> dict[str, object]:
    """A body as the JSON endpoints take it, with some fields as they should be and some as they should not."""
    found: dict[str, object] = {}
    for field in rng.sample(FIELDS, rng.randrange(len(FIELDS) + 1)):
        found[field] = rng.choice([text(rng), anything(rng), None])
    if rng.random() < 0.6:
        found["job_hash"] = rng.choice([*known, "0" * 32, rng.choice(HASHES)])
    if rng.random() < 0.2:
        found[text(rng)] = anything(rng)
    return found


def encoded(rng: random.Random, value: object) -> bytes:
    """As JSON, mostly whole; sometimes cut, in another charset, with rubbish, or nested without end."""
    data = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    match rng.randrange(16):
        case 0:
            return data[: rng.randrange(len(data))]
        case 1:
            return data.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-32", "utf-7", "utf-8-sig"]))
        case 2:
            at = rng.randrange(len(data))
            return data[:at] + rng.choice([b"\xff", b"\0", b"\x80", b"\xed\xa0\x80", b'"', b"}", b"//"]) + data[at:]
        case 3:
            return rng.choice([b"[", b'{"a":', b'[{"key":', b"-", b'"']) * rng.choice([1, 100, 20_000])
        case 4:
            return rng.choice(
                [b"", b" ", b"null", b"[]", b"3", b'"x"', b"{}{}", b"{}x", b"\xef\xbb\xbf{}", b"NaN", b"{'a': 1}"]
            )
        case 5:
            return doubled(rng, data)
        case _:
            return data


def doubled(rng: random.Random, data: bytes) -> bytes:
    """An object that has its first keys twice, with other values."""
    first = json.dumps({rng.choice(FIELDS): rng.choice([text(rng), 3])}).encode()[:-1]
    return first + b", " + data[1:] if data.startswith(b"{") and len(data) > 2 else data


def spoilt(rng: random.Random, cfg: Mapping[str, object]) -> object:
    """A manifest with something somewhere replaced by something else, or taken out."""
    copy = json.loads(json.dumps(cfg))
    place = copy
    while True:
        key = rng.choice(sorted(place))
        if not isinstance(place[key], dict) or not place[key] or rng.random() < 0.25:
            break
        place = place[key]
    match rng.randrange(3):
        case 0:
            del place[key]
        case 1:
            place[key] = anything(rng)
        case _:
            place[text(rng)] = place.pop(key)
    return copy
