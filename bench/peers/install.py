"""Makes a peer's environment: `python -m bench.peers.install NAME...`, without a name all of them.

A virtual environment under the user's cache folder, with the versions that are written down beside
this file. llama.cpp is compiled on this machine, for its processor (about ten minutes on two
cores). torch, which OpenVINO's converter needs, is its CPU build.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys

from bench.peers.catalogue import HERE, PEERS, Engine
from llmos.bin.bootstrap import torch_sources


def install(engine: Engine) -> None:
    """Make the environment anew. Raises CalledProcessError where pip fails."""
    assert engine.pins
    shutil.rmtree(engine.folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", engine.folder], check=True)
    pins = HERE / engine.pins
    torch = re.search(r"^torch==(\S+)$", pins.read_text(), re.MULTILINE)
    if torch:
        _install_torch(engine, torch[1])
    # The list is whole, so that nothing is resolved: some packages ask for what cannot be had.
    _pip(engine, ["--no-deps", "-r", str(pins)], check=True)
    engine.marker.touch()


def _install_torch(engine: Engine, version: str) -> None:
    for source in torch_sources(version, has_gpu=False, platform=sys.platform):
        if _pip(engine, ["--no-deps", *source], check=False):
            return
    raise SystemExit(f"{engine.name}: there is no CPU build of torch {version}")


def _pip(engine: Engine, arguments: list[str], *, check: bool) -> bool:
    command = [
        str(engine.python),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        *arguments,
    ]
    environment = os.environ | dict(engine.pip_environment)
    return subprocess.run(command, check=check, env=environment).returncode == 0


def main() -> None:
    """Install the peers that are named and not there yet."""
    peers = {engine.name: engine for engine in PEERS}
    parser = argparse.ArgumentParser(prog="bench.peers.install")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(peers))
    parser.add_argument("--again", action="store_true", help="even if it is there")
    options = parser.parse_args()
    if unknown := set(options.names) - set(peers):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(peers)}")
    for name in options.names or peers:
        if options.again or not peers[name].is_installed:
            install(peers[name])
        print(f"{name}: {peers[name].folder}")


if __name__ == "__main__":
    main()
