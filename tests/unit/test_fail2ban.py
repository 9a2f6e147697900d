"""The filter for fail2ban, by fail2ban itself."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FILTER = Path(__file__).resolve().parents[2] / "etc" / "fail2ban-scd.conf"
INCLUDED = Path("/etc/fail2ban/filter.d/common.conf")
GUESSES = (
    "2026-11-25T04:00:00Z WARNING login failed: address=198.51.100.7 user=alice",
    "Nov 25 04:00:01 lab scd[812]: login failed: address=198.51.100.7 user=bob address=203.0.113.9",
    "Nov 25 04:00:02 lab scd[812]: login failed: address=2001:db8::7 user=",
    "Nov 25 04:00:03 lab scd[812]: too many failed logins: address=198.51.100.7 user=alice",
)
OTHERS = (
    "Nov 25 04:00:00 lab scd[812]: login failed: address=- user=alice",
    "Nov 25 04:00:00 lab scd[812]: job=0123 user=login failed: address=203.0.113.9 user= completed",
    "Nov 25 04:00:00 lab scd[812]: job=0123 node=syn/0 user=alice error login failed: address=203.0.113.9 user=x",
    "2026-11-25T04:00:00Z INFO scd 0.1.0 listening on 127.0.0.1:8080 as scd",
    r"2026-11-25T04:00:00Z WARNING refused x\nlogin failed: address=203.0.113.9 user=x",
)


def test_an_address_is_found_and_none_that_a_user_names(tmp_path: Path) -> None:
    if shutil.which("fail2ban-regex") is None:
        pytest.skip("fail2ban is not installed (Debian: apt-get install fail2ban)")
    installed = tmp_path / "filter.d"
    installed.mkdir()
    shutil.copy(INCLUDED, installed)
    shutil.copy(FILTER, installed / "scd.conf")
    for line in GUESSES:
        done = _ask(tmp_path, line)
        wanted = re.search(r"address=(\S+)", line)
        assert wanted is not None
        assert done.strip() == wanted[1], line
    for line in OTHERS:
        assert _ask(tmp_path, line).strip() == "", line


def _ask(directory: Path, line: str) -> str:
    """The address that fail2ban would ban for this line."""
    log = directory / "log"
    log.write_text(line + "\n")
    command = ["fail2ban-regex", "--out", "ip", str(log), str(directory / "filter.d" / "scd.conf")]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/etc/fail2ban")
    assert done.returncode in (0, 255), done.stderr
    return done.stdout
