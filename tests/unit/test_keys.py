import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from scd.auth import Authenticator
from scd.auth.keys import PublicKey, _rsa_numbers, private_key
from scd.config import Config, User
from scd.errors import ConfigError, Unauthorized
from scd.sealed import seal, sealed

from ..keys import Pair, make_pair

KINDS = {
    "ed25519": ("-t", "ed25519"),
    "rsa": ("-t", "rsa", "-b", "2048"),
    "pem": ("-t", "rsa", "-m", "PEM", "-b", "2048"),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    directory = tmp_path_factory.mktemp("keys")
    return {name: make_pair(directory / name, *options) for name, options in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_belongs_together(pairs: dict[str, Pair], kind: str) -> None:
    public = PublicKey("bob", pairs[kind].public)
    assert public.matches(pairs[kind].sent)
    for name, other in pairs.items():
        assert public.matches(other.sent) == (name == kind), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_forms_in_which_a_key_may_come(pairs: dict[str, Pair], kind: str) -> None:
    text = pairs[kind].private
    forms = [
        base64.encodebytes(text.encode()).decode(),
        text,
        text.rstrip(),
        base64.b64encode(text.rstrip().encode()).decode(),
    ]
    if "OPENSSH" in text:
        forms += ["".join(text.splitlines()[1:-1]), "\n".join(text.splitlines()[1:-1])]
    for form in forms:
        assert PublicKey("bob", pairs[kind].public).matches(form), form[:40]


@pytest.mark.parametrize(
    "key",
    ["", "x", "AAAA", "ssh-ed25519 AAAA", "-----BEGIN ", "-----BEGIN OPENSSH PRIVATE KEY-----", "A" * 100_000, "\ud800",
     "b3BlbnNzaC1rZXktdjEA", "LS0tLS1CRUdJTiA="],
)  # fmt: skip
def test_what_is_no_private_key(pairs: dict[str, Pair], key: str) -> None:
    assert not PublicKey("bob", pairs["ed25519"].public).matches(key)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_key(pairs: dict[str, Pair], kind: str) -> None:
    """Each byte of it changed once: none may be let in that differs in its secret, and none may raise."""
    public, text = PublicKey("bob", pairs[kind].public), pairs[kind].private
    first, *lines, last = text.rstrip().splitlines()
    body = base64.b64decode("".join(lines))
    step = 1 if kind == "ed25519" else 23
    let_in = 0
    for at in range(0, len(body), step):
        changed = bytes([*body[:at], body[at] ^ 1, *body[at + 1 :]])
        let_in += public.matches("\n".join([first, base64.b64encode(changed).decode(), last]))
    assert let_in < 80, "comments and padding alone may differ"


def test_the_public_half_of_a_stranger_does_not_help(pairs: dict[str, Pair], tmp_path: Path) -> None:
    """A private key that names bob's public one, with another secret."""
    own, other = (base64.b64decode("".join(text.splitlines()[1:-1]))
                  for text in (pairs["ed25519"].private, make_pair(tmp_path / "other").private))  # fmt: skip
    point = base64.b64decode(pairs["ed25519"].public.split()[1])[-32:]
    foreign = base64.b64decode(make_pair(tmp_path / "third").public.split()[1])[-32:]
    assert own.count(point) == 3
    seed = own[own.rindex(point) - 32 : own.rindex(point)]
    forged = own.replace(seed, foreign)
    assert forged != own
    assert not PublicKey("bob", pairs["ed25519"].public).matches(base64.b64encode(forged).decode())
    assert not PublicKey("bob", pairs["ed25519"].public).matches(base64.b64encode(other).decode())


@pytest.mark.parametrize("kind", ["rsa", "pem"])
@pytest.mark.parametrize("part", ["n", "e", "d", "p", "q"])
def test_an_rsa_key_is_judged_by_its_secret(pairs: dict[str, Pair], kind: str, part: str) -> None:
    """Everybody can write down bob's modulus and exponent. Each other number of the key has to be right, too."""
    public, text = PublicKey("bob", pairs[kind].public), pairs[kind].private
    first, *lines, last = text.rstrip().splitlines()
    body = base64.b64decode("".join(lines))
    number = getattr(_rsa_numbers(private_key(text)), part)
    data = number.to_bytes((number.bit_length() + 7) // 8)
    size = len(data) + (data[0] >> 7)  # as a signed number
    data = data.rjust(size, b"\0")
    head = (b"\x02\x03" if kind == "pem" else b"\0\0\0\x03") if part == "e" else b""
    at = body.rindex(head + data) + len(head)
    for byte in {at + size - 1, at + size // 2}:  # the last of its bytes, and one in the middle
        changed = bytes([*body[:byte], body[byte] ^ 2, *body[byte + 1 :]])
        forged = "\n".join([first, base64.b64encode(changed).decode(), last])
        assert not public.matches(forged), f"a key with another {part} was let in"


def test_two_numbers_that_make_the_modulus_are_not_enough(pairs: dict[str, Pair]) -> None:
    """1 and the modulus itself are factors that a stranger knows."""
    public, text = PublicKey("bob", pairs["pem"].public), pairs["pem"].private
    numbers = _rsa_numbers(private_key(text))

    def der(number: int) -> bytes:
        data = number.to_bytes(number.bit_length() // 8 + 1)
        return b"\x02\x82" + len(data).to_bytes(2) + data

    for p, q in ((1, numbers.n), (numbers.n, 1)):
        content = b"".join(map(der, (0, numbers.n, numbers.e, numbers.d, p, q, 1, 1, 1)))
        body = base64.b64encode(b"\x30\x82" + len(content).to_bytes(2) + content).decode()
        assert not public.matches(f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----")


@pytest.mark.parametrize("user", ["bob", "alice", "nobody"])
@pytest.mark.anyio
async def test_a_key_with_a_passphrase_is_named(pairs: dict[str, Pair], tmp_path: Path, user: str) -> None:
    """To everybody in the same words, whether he has a key, a password, or is unknown."""
    auth = Authenticator(Config(users={"bob": User(public_key=pairs["rsa"].public)}))
    for options in (("-t", "ed25519"), ("-t", "rsa", "-m", "PEM"), ("-t", "rsa", "-m", "PKCS8")):
        pair = make_pair(tmp_path / f"{user}-{'-'.join(options)}", *options, passphrase="secret words")
        with pytest.raises(Unauthorized, match="has a passphrase, so that the server cannot use it"):
            await auth.authenticate(user, pair.sent, "192.0.2.1")
    plain = make_pair(tmp_path / f"{user}-pkcs8", "-t", "rsa", "-m", "PKCS8")
    with pytest.raises(Unauthorized, match="Rewrite it: ssh-keygen -p -f FILE"):
        await auth.authenticate(user, plain.sent, "192.0.2.1")


@pytest.mark.anyio
async def test_who_has_a_key(pairs: dict[str, Pair]) -> None:
    pair = pairs["ed25519"]
    auth = Authenticator(Config(users={"bob": User(public_key=f"{pair.public} bob@example")}))
    for _ in range(2):  # checked, and remembered
        found = await auth.authenticate("bob", pair.sent, "192.0.2.1")
        assert (found.user, found.public_key, found.key) == ("bob", pair.public, pair.sent)
    assert pair.sent not in repr(found), "it would get into a log"
    with pytest.raises(Unauthorized, match=r"^Wrong user name or key\.$"):
        await auth.authenticate("bob", pairs["rsa"].sent, "192.0.2.1")


@pytest.mark.parametrize(
    ("options", "reason"),
    [(("-t", "rsa", "-b", "1024"), "RSA keys have 2048 to 4096 bits, not 1024"),
     (("-t", "rsa", "-b", "8192"), "RSA keys have 2048 to 4096 bits, not 8192"),
     (("-t", "ecdsa"), "neither an ssh-ed25519 nor an ssh-rsa key")],
)  # fmt: skip
def test_public_keys_that_are_not_taken(tmp_path: Path, options: tuple[str, ...], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"users.bob.public_key: cannot be used: .*{reason}"):
        PublicKey("bob", make_pair(tmp_path / "key", *options).public)


def test_age_itself_reads_what_is_sealed(pairs: dict[str, Pair], tmp_path: Path) -> None:
    """The format is the one that is published: without scd its owner has his files, too."""
    if shutil.which("age") is None:
        pytest.skip("age is not installed (Debian: apt-get install age)")
    path = tmp_path / "1.1.tar.gz"
    path.write_bytes(b"results" * 100_000)
    seal(path, pairs["ed25519"].public)
    done = subprocess.run(
        ["age", "-d", "-i", str(pairs["ed25519"].file), str(sealed(path))], capture_output=True, check=True
    )
    assert done.stdout == b"results" * 100_000
    assert not path.exists()
