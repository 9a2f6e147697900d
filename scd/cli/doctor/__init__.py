"""``scdctl doctor``: looks at an installation and changes nothing; each finding comes with what mends it."""

import argparse
import os
from pathlib import Path

import msgspec

from ...config import Config, load
from ...errors import ConfigError, ScdError
from ..daemon import NotAllowed
from ..table import clean, coloured, print_json
from .account import account_of, check_account
from .cluster import check_cluster
from .finding import Finding, Level, bad, good
from .machine import check_cgroups, check_clock, check_links
from .places import check_disks, check_permissions
from .reader import check_reader
from .service import check_backup, check_daemon, check_database
from .trial import check_trial


class Unwell(ScdError):
    """Something is wrong with this installation."""


async def doctor(arguments: argparse.Namespace) -> None:
    """Raises Unwell if anything is bad."""
    findings = await examine(arguments.config and arguments.config.absolute(), slurm=arguments.slurm)
    if arguments.json:
        print_json({"version": 1, "findings": [msgspec.structs.asdict(finding) for finding in findings]})
    else:
        _print(findings)
    if wrong := sum(finding.level is Level.BAD for finding in findings):
        raise Unwell(f"{wrong} thing{'s' if wrong > 1 else ''} to mend.")


async def examine(file: Path | None, *, slurm: bool = False) -> list[Finding]:
    """All findings, in the order in which they are best mended; ``slurm``: a batch job is tried. Raises NotAllowed."""
    try:
        config = load(file)
    except ConfigError as error:
        return [bad("config", error.message, "mend the file, then: scd --check-config")]
    _refuse_strangers(config)
    findings = [good("config", "The configuration is valid.")]
    for check in (check_account, check_disks):
        findings += check(config)
    findings += [*check_permissions(config, file), *check_clock(), *check_cgroups(), *check_links()]
    for examined in (
        check_trial(config, file), check_database(config), check_backup(config), check_daemon(config),
        check_reader(config, file),
    ):  # fmt: skip
        findings += [finding async for finding in examined]
    if slurm:
        findings += [finding async for finding in check_cluster(config, file)]
    return findings


def _refuse_strangers(config: Config) -> None:
    """Most of it could not be seen."""
    account = account_of(config)
    state = Path(config.paths.state)
    if os.geteuid() != 0 and account is not None and state.exists() and state.stat().st_uid != account.pw_uid:
        raise NotAllowed("The doctor looks where only root and scd's account may. Use root's.")


def _print(findings: list[Finding]) -> None:
    for finding in findings:
        print(f"{coloured(finding.level)}{' ' * (4 - len(finding.level))}  {finding.check:11}  {clean(finding.text)}")
        if finding.remedy and finding.level is not Level.GOOD:
            print(f"{'':19}-> {clean(finding.remedy)}")
