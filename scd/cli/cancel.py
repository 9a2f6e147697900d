"""``scdctl cancel HASH...``."""

import argparse
import asyncio

from ..config import Config
from .daemon import ask
from .reading import source
from .table import print_json


async def cancel(config: Config, arguments: argparse.Namespace) -> None:
    async with source(config) as found:
        hashes = [(await found.job(prefix))["job_hash"] for prefix in arguments.jobs]
    for job_hash in hashes:
        answer = await asyncio.to_thread(ask, config, "POST", "admin", "cancel", job_hash)
        if not arguments.json:
            print(answer["message"])
    if arguments.json:
        print_json({"version": 1, "cancelled": hashes})
