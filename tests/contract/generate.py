"""Generates the Python of the contract, and takes what was added to it into the image that guards it.

    python -m tests.contract.generate

`make protos` runs this; `tests/contract/test_protos_fresh.py` keeps what is committed equal to it. The contract
image is `buf build protos -o protos/contract.binpb`: what it knows, no later change of the protos may break. A
change that would is refused, and the image stays.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
IMAGE = PROTOS / "contract.binpb"
PACKAGE = Path("waypost/v1")


def generate(output: Path) -> None:
    """Write the messages and stubs of every .proto below a folder, laid out as the package is."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / PACKAGE).glob("*.proto"))
    run(
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        "-Iprotos",
        f"--python_out={output}",
        f"--grpc_python_out={output}",
        f"--mypy_out=quiet:{output}",
        f"--mypy_grpc_out=quiet:{output}",
        *sources,
    )


def run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment (protoc's plugins and buf are beside the interpreter) from the root."""
    tools = Path(sys.executable).parent
    path = f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # Where there is no home folder, buf would keep its cache in the working tree.
    environment = {"BUF_CACHE_DIR": str(ROOT / "var" / "buf"), **os.environ, "PATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if check and done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done


def main() -> None:
    """Generate in place; then renew the image, unless the protos break it."""
    generate(PROTOS)
    run("buf", "lint", "protos")
    run("buf", "breaking", "protos", "--against", str(IMAGE))
    run("buf", "build", "protos", "-o", str(IMAGE))


if __name__ == "__main__":
    main()
