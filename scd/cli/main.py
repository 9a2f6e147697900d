"""The arguments of ``scdctl`` and its exit status."""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from .. import __version__
from ..errors import ScdError
from ..states import JobState, NodeState
from . import cache
from .completion import SHELLS, completion
from .doctor import doctor
from .jobs import JOBS, NODES, jobs, nodes
from .keygen import keygen
from .log import log
from .orders import cancel, delete, drain, reload, resume
from .password import hash_password
from .reading import client_config
from .show import show
from .table import Table
from .upkeep import backup, check, restore
from .usage import USAGE, USERS, usage, users
from .when import parse_when
from .words import Parser, meant

_NEWEST = 100
_ALL = 100_000
_WITHOUT_CONFIG = (
    "doctor",
    "hash-password",
    "keygen",
)  # which looks at it itself, and what is done before there is one


def parser() -> argparse.ArgumentParser:
    parser = Parser(prog="scdctl", description="See and steer the jobs of scd.")
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="configuration (default /etc/scd/scd.toml)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, of a stable, versioned form")
    parser.add_argument("--version", action="version", version=f"scdctl {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    verb = verbs.add_parser("jobs", help="list jobs, newest first")
    _table_options(verb, JOBS, [str(state) for state in JobState])
    verb.add_argument("-l", "--limit", type=int, metavar="N", help="at most N jobs (default 100 without -S, -E and -j)")
    verb.set_defaults(run=jobs)

    verb = verbs.add_parser("nodes", help="list the nodes of unfinished jobs, or of those named by -j, -S and -E")
    _table_options(verb, NODES, [str(state) for state in NodeState])
    verb.set_defaults(run=nodes, limit=_ALL)

    verb = verbs.add_parser("show", help="show one job with its flowgraph")
    verb.add_argument("job", metavar="HASH", help="the job's hash, or the beginning of it")
    verb.add_argument("--timing", action="store_true", help="where the time went, instead of the flowgraph")
    verb.set_defaults(run=show)

    verb = verbs.add_parser("log", help="print a job's events or a node's log")
    verb.add_argument("target", metavar="HASH[.STEP/INDEX]", help="a job, or one of its nodes")
    verb.add_argument("-f", "--follow", action="store_true", help="go on until the job or the node ends")
    verb.set_defaults(run=log)

    verb = verbs.add_parser("cancel", help="end jobs")
    verb.add_argument("jobs", metavar="HASH", nargs="+", help="a job's hash, or the beginning of it")
    verb.set_defaults(run=cancel)

    verb = verbs.add_parser("doctor", help="look for what is wrong with this installation, and say how to mend it")
    verb.add_argument("--slurm", action="store_true", help="submit a batch job to Slurm too, as scd would")
    verb.set_defaults(run=doctor)

    verb = verbs.add_parser("delete", help="forget jobs that ended, with their files; their final status stays known")
    verb.add_argument("jobs", metavar="HASH", nargs="+", help="a job's hash, or the beginning of it")
    verb.set_defaults(run=delete)

    verb = verbs.add_parser("usage", help="show what users have used: core time and results")
    verb.add_argument("-u", "--user", dest="users", type=_words, metavar="USER[,USER]", help="only these users'")
    verb.add_argument(
        "-S", "--starttime", dest="since", type=_when, metavar="TIME", help="from it on (default: this period)"
    )
    verb.add_argument("-E", "--endtime", dest="until", type=_when, metavar="TIME", help="up to it (default: now)")
    _printing_options(verb, USAGE)
    verb.set_defaults(run=usage)

    verb = verbs.add_parser("users", help="list users and groups, their limits, and what is used of them")
    verb.add_argument("-u", "--user", dest="users", type=_words, metavar="USER[,USER]", help="only these users")
    _printing_options(verb, USERS)
    verb.set_defaults(run=users)

    verb = verbs.add_parser("drain", help="take no new jobs, also after a restart; those that are here go on")
    verb.add_argument("--reason", default="", metavar="TEXT", help="what clients are told")
    verb.add_argument("--wait", action="store_true", help="return when no job is unfinished")
    verb.set_defaults(run=drain)

    verb = verbs.add_parser("resume", help="take new jobs again")
    verb.set_defaults(run=resume)

    verb = verbs.add_parser("reload", help="take a changed configuration, all of it or nothing")
    verb.set_defaults(run=reload)

    verb = verbs.add_parser("check", help="compare the database with the spool, and both with themselves")
    verb.add_argument("--fix", action="store_true", help="mend what does not fit together")
    verb.set_defaults(run=check)

    verb = verbs.add_parser("backup", help="copy the database, also while scd runs")
    verb.add_argument("file", metavar="FILE", type=Path, help="where to; an older backup there is replaced")
    verb.set_defaults(run=backup)

    verb = verbs.add_parser("restore", help="put a backup in the database's place while scd is stopped")
    verb.add_argument("file", metavar="FILE", type=Path, help="the backup")
    verb.set_defaults(run=restore)

    _cache_verbs(verbs.add_parser("cache", help="the packages that jobs find: fetch them, list them, remove them"))

    verb = verbs.add_parser("hash-password", help="make a password_hash of a password read from standard input")
    verb.set_defaults(run=hash_password)

    verb = verbs.add_parser("keygen", help="make a pair of keys for a user, and say what to do with them")
    verb.add_argument("file", metavar="FILE", type=Path, nargs="?", default=Path("scd-key"), help="default: scd-key")
    verb.set_defaults(run=keygen)
    verb = verbs.add_parser("completion", help="print a script that makes a shell complete scdctl's commands")
    verb.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
    return parser


def _table_options(verb: argparse.ArgumentParser, table: Table, states: list[str]) -> None:
    verb.add_argument("-u", "--user", dest="users", type=_words, metavar="USER[,USER]", help="only these users'")
    verb.add_argument("-j", "--job", dest="jobs", type=_hashes, metavar="HASH[,HASH]", help="only these jobs")
    verb.add_argument(
        "-t", "--states", type=lambda text: _states(text, states), metavar="STATE[,STATE]",
        help=f"only in these states: {', '.join(states)}",
    )  # fmt: skip
    verb.add_argument("-S", "--starttime", dest="since", type=_when, metavar="TIME", help="only what lasted beyond it")
    verb.add_argument("-E", "--endtime", dest="until", type=_when, metavar="TIME", help="only what was there before it")
    _printing_options(verb, table)


def _printing_options(verb: argparse.ArgumentParser, table: Table) -> None:
    verb.add_argument("-n", "--noheader", action="store_true", help="no header line")
    verb.add_argument("-o", "--format", metavar="COLUMN[,COLUMN]", help=f"these of: {', '.join(table.columns)}")
    verb.add_argument("-P", "--parsable", action="store_true", help="columns separated by |, hashes whole")


def _cache_verbs(group: argparse.ArgumentParser) -> None:
    verbs = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    verb = verbs.add_parser("add", help="fetch a package into the cache")
    verb.add_argument("name", metavar="NAME", help="what manifests call it")
    verb.add_argument("source", metavar="SOURCE", help="where it comes from, as manifests say it")
    verb.add_argument("reference", metavar="REFERENCE", help="its version, tag or commit")
    verb.add_argument("--runtime", metavar="NAME", help="only for this runtime (default: for each)")
    verb.set_defaults(run=cache.add)

    verb = verbs.add_parser("list", help="list the packages that were added")
    verb.set_defaults(run=cache.show)

    verb = verbs.add_parser("remove", help="remove a package; jobs that use it fail")
    verb.add_argument("package", metavar="NAME", help="its name, or that of its directory for one of its versions")
    verb.set_defaults(run=cache.remove)


def _states(text: str, known: list[str]) -> frozenset[str]:
    wanted = frozenset(state.strip().lower() for state in text.split(","))
    if unknown := sorted(wanted - set(known)):
        hint = meant(unknown[0], known)
        raise argparse.ArgumentTypeError(f"unknown state {unknown[0]!r}.{hint} There are {', '.join(known)}.")
    return wanted


def _words(text: str) -> frozenset[str]:
    return frozenset(word.strip() for word in text.split(","))


def _hashes(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _when(text: str) -> float:
    try:
        return parse_when(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main() -> None:
    own = parser()
    arguments = own.parse_args()
    if arguments.verb == "jobs" and arguments.limit is None:
        within = (arguments.since, arguments.until, arguments.jobs)
        arguments.limit = _NEWEST if within == (None, None, None) else _ALL
    try:
        if arguments.verb == "completion":
            print(completion(own, arguments.shell))
        else:
            asyncio.run(_run(arguments))
        sys.stdout.flush()
    except ScdError as error:
        sys.stdout.flush()
        print(f"scdctl: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)


async def _run(arguments: argparse.Namespace) -> None:
    if arguments.verb in _WITHOUT_CONFIG:
        await arguments.run(arguments)
    else:
        await arguments.run(client_config(arguments.config), arguments)


if __name__ == "__main__":
    main()
