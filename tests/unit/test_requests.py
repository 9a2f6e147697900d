import msgspec
import pytest

from scd.launcher.requests import MOST_PIDS, Adopt, Reply, Start, Usage, decode, encode, read

HASH = "0f" * 16


def test_a_request_is_read_as_it_was_written() -> None:
    for request in (Start(HASH, "alice", "design", "job0", "default"), Adopt(HASH, "a.b-c_9"), Usage("alice", (1, 2))):
        assert decode(encode(request)) == request


@pytest.mark.parametrize("job_hash", ["", "0" * 31, "0" * 33, "0F" * 16, HASH + "\n", "../" + "0" * 29, "0" * 31 + "/"])
def test_a_hash_fits_in_full(job_hash: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"request":"adopt","account":"alice","job_hash":' + msgspec.json.encode(job_hash) + b"}")


@pytest.mark.parametrize("account", ["", "-rf", "a b", "a/b", "..", "alice\n", "0", "a" * 33, "ä"])
def test_an_account_is_a_name(account: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"request":"check","account":' + msgspec.json.encode(account) + b"}")


def test_not_too_many_processes_at_a_time() -> None:
    decode(encode(Usage("alice", tuple(range(MOST_PIDS)))))
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"request":"usage","account":"alice","pids":' + msgspec.json.encode(list(range(MOST_PIDS + 1))) + b"}")


def test_replies() -> None:
    assert encode(Reply()) == b"{}"
    assert read(encode(Reply(value=[1]))).value == [1]
    assert read(encode(Reply(error="no"))).error == "no"
