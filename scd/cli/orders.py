"""What is ordered of the running daemon: ``cancel``, ``delete``, ``drain``, ``resume`` and ``reload``."""

import argparse
import asyncio
from typing import Any
from urllib.parse import quote

from ..config import Config
from .daemon import ask
from .reading import open_store, source
from .table import print_json

_LOOK = 1.0  # seconds between two looks at the unfinished jobs


async def cancel(config: Config, arguments: argparse.Namespace) -> None:
    await _each(config, arguments, "cancel", "cancelled")


async def delete(config: Config, arguments: argparse.Namespace) -> None:
    await _each(config, arguments, "delete", "deleted")


async def _each(config: Config, arguments: argparse.Namespace, verb: str, done: str) -> None:
    """The same for each of the jobs that are named; all of them must be known before anything is done."""
    async with source(config) as found:
        hashes = [(await found.job(prefix))["job_hash"] for prefix in arguments.jobs]
    for job_hash in hashes:
        answer = await asyncio.to_thread(ask, config, "POST", "admin", verb, job_hash)
        if not arguments.json:
            print(answer["message"])
    if arguments.json:
        print_json({"version": 1, done: hashes})


async def drain(config: Config, arguments: argparse.Namespace) -> None:
    query = f"?reason={quote(arguments.reason)}"
    answer = await asyncio.to_thread(ask, config, "POST", "admin", "drain", query=query)
    if not arguments.json:
        print(answer["message"], flush=True)
    left = await _wait(config) if arguments.wait else None
    if arguments.json:
        print_json({"version": 1, "message": answer["message"], "unfinished": left})


async def resume(config: Config, arguments: argparse.Namespace) -> None:
    _say(arguments, await asyncio.to_thread(ask, config, "POST", "admin", "resume"))


async def reload(config: Config, arguments: argparse.Namespace) -> None:
    _say(arguments, await asyncio.to_thread(ask, config, "POST", "admin", "reload"))


async def _wait(config: Config) -> int:
    """Return when no job is unfinished: 0."""
    async with open_store(config) as store:
        while left := len(await store.unfinished()):  # noqa: ASYNC110 - it is another process that ends them
            await asyncio.sleep(_LOOK)
    return left


def _say(arguments: argparse.Namespace, answer: dict[str, Any]) -> None:
    if arguments.json:
        print_json({"version": 1, **{key: value for key, value in answer.items() if key != "success"}})
    else:
        print(answer["message"])
