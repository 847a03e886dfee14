"""Builds the examples and the load generator once, where their toolchains exist."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD_TIMEOUT_S = 240
GO = [
    "go",
    "protoc",
    "protoc-gen-go",
    "protoc-gen-go-grpc",
    "/usr/share/gocode/src/google.golang.org/grpc",
]
JAVA = ["java", "javac", "protoc", "grpc_java_plugin", "/usr/share/java/grpc-netty.jar"]


def require(*needs: str) -> None:
    """Skips unless these commands and paths exist. With WAYPOST_REQUIRE_CLIENTS=1, fails."""
    missing = [need for need in needs if not (shutil.which(need) or Path(need).exists())]
    if missing:
        reason = f"missing {', '.join(missing)}: see examples/install-toolchains.sh"
        if os.environ.get("WAYPOST_REQUIRE_CLIENTS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, list[str]], str]:
    """Returns what runs a folder's build.sh and returns the path of the program."""

    def run(folder: str, needs: list[str]) -> str:
        require(*needs)
        out = tmp_path_factory.mktemp("build")
        command = [ROOT / folder / "build.sh", out]
        built = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
        assert built.returncode == 0, built.stderr
        return built.stdout.splitlines()[-1]

    return run


@pytest.fixture(scope="session")
def python_caller() -> list[str]:
    return [sys.executable, str(ROOT / "examples/python/caller.py")]


@pytest.fixture(scope="session")
def node_caller() -> list[str]:
    require("node", str(ROOT / "examples/node/node_modules"))
    return ["node", str(ROOT / "examples/node/caller.js")]


@pytest.fixture(scope="session")
def go_caller(build: Callable[[str, list[str]], str]) -> list[str]:
    return [build("examples/go", GO)]


@pytest.fixture(scope="session")
def java_caller(build: Callable[[str, list[str]], str]) -> list[str]:
    return [build("examples/java", JAVA)]


@pytest.fixture(scope="session")
def loadgen(build: Callable[[str, list[str]], str]) -> str:
    return build("benchmarks/loadgen", GO)
