"""What somebody who mistyped a word may have meant."""

import argparse
import difflib
import re
from collections.abc import Iterable
from typing import NoReturn

_CHOICE = re.compile(r"invalid choice: '(.*?)' \(choose from (.*)\)")


def meant(word: str, known: Iterable[str]) -> str:
    """`` Did you mean x?``, or nothing where no word is near."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {found[0]}?" if found else ""


class Parser(argparse.ArgumentParser):
    """Says what may have been meant, and where help is."""

    def error(self, message: str) -> NoReturn:
        if match := _CHOICE.search(message):
            message += meant(match[1], re.findall(r"[a-z][a-z-]+", match[2])).replace(" Did", ". Did")
        self.exit(2, f"{self.prog}: {message}\nTry: {self.prog} --help\n")
