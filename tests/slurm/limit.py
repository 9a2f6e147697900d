"""Slurm's commands on a site that limits requests (``rl_enable``), where the installed Slurm is too old for that.

As slurmctld 24.11 and its clients do it, from their log and by trying: a bucket for the account, refilled by whole
seconds; a client that is refused says nothing, sleeps one second, then two, and goes on asking; ``scontrol ping`` alone
calls the controller down instead. ``python limit.py DIRECTORY BURST REFILL COMMAND ARGUMENT...``
"""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

BUCKET, REFUSED, SENT = "bucket", "refused", "sent"


def main() -> None:
    directory, (burst, refill), command = Path(sys.argv[1]), map(int, sys.argv[2:4]), sys.argv[4:]
    for _ in range(_requests(command)):
        _send(directory, burst, refill, command)
    name, arguments = command[0], command[1:]
    if arguments == ["show", "config"]:
        shown = subprocess.run([f"/usr/bin/{name}", *arguments], capture_output=True, text=True, check=True).stdout
        parameters = f"rl_enable,rl_bucket_size={burst},rl_refill_rate={refill}"
        for key, value in (("SlurmctldParameters", parameters), ("SlurmUser", "slurm(64030)")):
            shown = "\n".join(f"{key} = {value}" if line.startswith(key) else line for line in shown.splitlines())
        print(shown)
    else:
        os.execv(f"/usr/bin/{name}", command)


def _requests(command: list[str]) -> int:
    """As counted on the wire."""
    name, arguments = command[0], command[1:]
    if name == "sbatch" or arguments == ["ping"]:
        return 1
    if name != "scancel":
        return 2
    words = [word for word in arguments if not word.startswith("--")]
    return len(words) + (1 if len(words) < len(arguments) else 0)


def _send(directory: Path, burst: int, refill: int, command: list[str]) -> None:
    refused = 0
    while not _answered(directory, burst, refill):
        with open(directory / REFUSED, "a") as file:
            print(time.time(), *command[:4], file=file)
        if command[1:] == ["ping"]:
            print("Slurmctld(primary) at localhost is DOWN")
            sys.exit(1)
        refused += 1
        time.sleep(refused)
    with open(directory / SENT, "a") as file:
        print(time.time(), *command[:2], file=file)


def _answered(directory: Path, burst: int, refill: int) -> bool:
    with open(directory / BUCKET, "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        now = int(time.time())
        then, left = map(int, file.read().split() or (now, burst))
        left = min(burst, left + (now - then) * refill)
        file.truncate(0)
        file.write(f"{now} {max(0, left - 1)}")
        return left > 0


if __name__ == "__main__":
    main()
