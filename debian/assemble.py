"""What the package has below /usr/lib/scd, and the programs: ``assemble.py WHEELS PACKAGE PYTHON...``.

/usr/lib/scd is a virtual environment of the system's Python, whichever of the given versions that is. Compiled modules
have the version in their names, so those of all versions lie side by side. See debian/README.source.
"""

import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = "usr/lib/scd"
_SETTINGS = """\
home = /usr/bin
include-system-site-packages = true
"""
_PROGRAM = """\
#!/{home}/bin/python3 -I
import sys

from {module} import {function}

sys.exit({function}())
"""
_COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/scdctl",
    "zsh": "usr/share/zsh/vendor-completions/_scdctl",
    "fish": "usr/share/fish/vendor_completions.d/scdctl.fish",
}


def main(wheels: str, package: str, *pythons: str) -> None:
    root = Path(package)
    site = root / HOME / "lib" / "python3" / "site-packages"
    make_environment(root / HOME, pythons)
    packages = [unpack(wheel, site) for wheel in sorted(Path(wheels).glob("*.whl"))]
    copy_scd(site)
    make_programs(root)
    make_completions(root, site)
    write(root / "usr/share/doc/scd/bundled", "".join(sorted({f"{line}\n" for line in packages})))


def make_environment(home: Path, pythons: tuple[str, ...]) -> None:
    write(home / "pyvenv.cfg", _SETTINGS)
    (home / "bin").mkdir()
    (home / "bin" / "python3").symlink_to("../../../bin/python3")
    for python in pythons:
        (home / "lib").mkdir(exist_ok=True)
        (home / "lib" / f"python{python}").symlink_to("python3")


def unpack(wheel: Path, site: Path) -> str:
    """A wheel's name, version and licence. One package's for several Pythons may only differ in compiled files."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            kind, _, name = member.filename.partition("/")
            if member.is_dir() or (kind.endswith(".dist-info") and name in ("RECORD", "WHEEL")):
                continue
            target, content = site / member.filename, archive.read(member)
            if kind.endswith(".data") or (target.exists() and target.read_bytes() != content):
                raise SystemExit(f"{wheel.name}: {member.filename} does not fit into one directory with the others")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        told = Parser().parsestr(archive.read(metadata).decode())
    licence = told["License-Expression"] or told["License"] or "; ".join(
        text.rpartition(" :: ")[2] for text in told.get_all("Classifier", ()) if text.startswith("License :: ")
    )  # fmt: skip
    return f"{told['Name']} {told['Version']}: {licence or 'see its .dist-info'}"


def copy_scd(site: Path) -> None:
    for file in sorted((ROOT / "scd").rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            target = site / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())


def make_programs(root: Path) -> None:
    programs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name, entry in programs.items():
        module, _, function = entry.partition(":")
        program = root / "usr" / "bin" / name
        write(program, _PROGRAM.format(home=HOME, module=module, function=function))
        program.chmod(0o755)


def make_completions(root: Path, site: Path) -> None:
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(site))
    from scd.cli.completion import completion
    from scd.cli.main import parser

    for shell, file in _COMPLETIONS.items():
        write(root / file, completion(parser(), shell) + "\n")


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
