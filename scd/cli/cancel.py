"""``scdctl cancel HASH...``."""

import argparse
import asyncio

from ..config import Config
from .daemon import ask
from .reading import find_job, open_store
from .table import print_json


async def cancel(config: Config, arguments: argparse.Namespace) -> None:
    async with open_store(config) as store:
        hashes = [await find_job(store, prefix) for prefix in arguments.jobs]
    for job_hash in hashes:
        answer = await asyncio.to_thread(ask, config, "POST", "admin", "cancel", job_hash)
        if not arguments.json:
            print(answer["message"])
    if arguments.json:
        print_json({"version": 1, "cancelled": hashes})
