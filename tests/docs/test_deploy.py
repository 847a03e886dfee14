"""deploy/: that images, compose and Kubernetes files fit the code and each other, as far as that shows without them."""

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer.main
import yaml  # type: ignore[import-untyped]
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from index.catalogue import Catalogue, parse_catalogue
from index.references import read_references
from service.cli import app
from service.settings import Settings, load_settings
from tests.conftest import ROOT, Server

DEPLOY = ROOT / "deploy"
HEALTH = DEPLOY / "health.py"
Instructions = list[tuple[str, str]]
Yaml = dict[str, Any]
ON_DEMAND = "Always"
ONE_CALL_S = 30


def parses(arguments: list[str]) -> None:
    """Fail unless `waypost` takes these arguments."""
    commands = getattr(typer.main.get_command(app), "commands", {})
    commands[arguments[0]].make_context(arguments[0], arguments[1:])


# ---- Dockerfile ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dockerfile() -> Instructions:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = (line.strip().partition(" ") for line in text.splitlines() if line.strip())
    return [(name, " ".join(rest.split())) for name, _, rest in lines]


@pytest.fixture(scope="module")
def last(dockerfile: Instructions) -> dict[str, str]:
    """The instructions of the last stage, of each the last."""
    start = max(i for i, (name, _) in enumerate(dockerfile) if name == "FROM")
    return dict(dockerfile[start:])


@pytest.fixture(scope="module")
def example() -> Settings:
    return load_settings(DEPLOY / "waypost.toml")


def copied(dockerfile: Instructions) -> list[str]:
    sources = (shlex.split(rest)[:-1] for name, rest in dockerfile if name == "COPY")
    return [path for paths in sources for path in paths if not paths[0].startswith("--from")]


def test_everything_the_image_copies_is_there_and_reaches_the_builder(dockerfile: Instructions) -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    assert ignored[1] == "*"
    assert allowed == set(copied(dockerfile))
    assert [path for path in allowed if not (ROOT / path).exists()] == []


def test_the_image_runs_as_a_number_that_is_not_root_and_stops_on_sigterm(last: dict[str, str]) -> None:
    user, group = map(int, last["USER"].split(":"))
    assert user > 0
    assert group > 0
    assert last["STOPSIGNAL"] == "SIGTERM"


def test_the_image_writes_only_to_its_volumes(last: dict[str, str], example: Settings) -> None:
    volumes = set(json.loads(last["VOLUME"]))
    sockets = [a.removeprefix("unix:") for a in example.server.listen if a.startswith("unix:")]
    assert volumes == {str(example.store.data_dir), *(str(Path(path).parent) for path in sockets)}


def test_the_image_installs_only_what_the_lock_pins(dockerfile: Instructions) -> None:
    runs = " ".join(rest for name, rest in dockerfile if name == "RUN")
    assert "install --require-hashes --only-binary :all: -r requirements.lock" in runs
    assert "requirements-dev" not in runs


def test_the_commands_of_the_image_are_ones_that_waypost_takes(dockerfile: Instructions, last: dict[str, str]) -> None:
    arguments = dict(rest.split("=", 1) for name, rest in dockerfile if name == "ARG")
    build = next(rest for name, rest in dockerfile if "waypost build-index" in rest)
    for name, value in arguments.items():
        build = build.replace(f'"${{{name}}}"', value)
    words = shlex.split(build)
    parses(words[1:])
    assert (ROOT / words[words.index("--references") + 1]).is_dir()
    assert (ROOT / words[words.index("--models") + 1]).is_file()
    parses(json.loads(last["CMD"]))
    assert json.loads(last["CMD"])[-1] == "/etc/waypost/waypost.toml"


def test_the_index_and_the_encoder_are_where_the_example_looks(dockerfile: Instructions, example: Settings) -> None:
    build = shlex.split(next(rest for _, rest in dockerfile if "waypost build-index" in rest))
    assert Path("/app") / build[build.index("--output") + 1] == example.index.path
    encoder = str(example.encoder.path.relative_to("/app"))
    assert ("COPY", f"{encoder} {encoder}") in dockerfile


def test_the_healthcheck_asks_where_the_example_listens(last: dict[str, str], example: Settings) -> None:
    command = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
    assert command[:2] == ["python", "/app/deploy/health.py"]
    assert command[2] in example.server.listen


def test_the_entrypoint_serves_and_lets_the_sockets_group_connect(last: dict[str, str], starter_index: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="waypost-") as folder:
        socket = Path(folder) / "s"
        arguments = ["serve", "--index", starter_index, "--data-dir", Path(folder), "--listen", f"unix:{socket}"]
        process = subprocess.Popen(
            [*json.loads(last["ENTRYPOINT"]), *map(str, arguments)],
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "WAYPOST_SERVER__METRICS_LISTEN": "",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with process:
            assert process.stdout is not None
            assert "ready" in process.stdout.readline()
            assert stat.S_IMODE(socket.stat().st_mode) == 0o770
            assert asked(f"unix:{socket}").returncode == 0
            process.send_signal(signal.SIGTERM)  # to the service itself: the shell gave way to it
            assert process.wait(ONE_CALL_S) == 0


# ---- health -------------------------------------------------------------------------------------------------


def asked(address: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, HEALTH, address], capture_output=True, text=True, check=False, timeout=ONE_CALL_S
    )


def test_a_service_that_serves_is_healthy(server: Server) -> None:
    assert asked(server.address).returncode == 0
    assert asked(server.socket).returncode == 0


def test_a_service_that_does_not_serve_is_not_healthy() -> None:
    draining, servicer = grpc.server(ThreadPoolExecutor(1)), health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, draining)
    port = draining.add_insecure_port("127.0.0.1:0")
    draining.start()
    done = asked(f"127.0.0.1:{port}")
    draining.stop(None).wait()
    assert done.returncode == 1
    assert "NOT_SERVING" in done.stderr


def test_a_service_that_is_not_there_is_not_healthy(tmp_path: Path) -> None:
    done = asked(f"unix:{tmp_path / 'none'}")
    assert done.returncode == 1
    assert "UNAVAILABLE" in done.stderr


# ---- lock ---------------------------------------------------------------------------------------------------


def test_the_runtime_lock_has_every_dependency_with_hashes_and_nothing_of_development() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text(encoding="utf-8").strip())
    pinned = {re.split(r"[=\[ ]", block)[0] for block in blocks}
    assert all("==" in block.splitlines()[0] and "--hash=sha256:" in block for block in blocks)
    assert names(project["project"]["dependencies"]) <= pinned
    extras = project["project"]["optional-dependencies"]
    assert not pinned & (names(project["dependency-groups"]["dev"]) | names(extras["report"]) | names(extras["export"]))


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower() for requirement in requirements}


# ---- compose ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> Yaml:
    found: Yaml = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return found


def test_the_services_of_the_compose_file_may_do_as_little_as_possible(compose: Yaml) -> None:
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "ports" not in service
        assert not service.get("privileged")


def test_what_the_compose_file_mounts_and_builds_is_there(compose: Yaml) -> None:
    for service in compose["services"].values():
        for mount in service["volumes"]:
            source = mount.partition(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).is_file()
        if "build" in service:
            context = (DEPLOY / service["build"]["context"]).resolve()
            assert context == ROOT
            assert (context / service["build"]["dockerfile"]).is_file()


def test_the_caller_of_the_compose_file_may_use_the_socket(
    compose: Yaml, last: dict[str, str], example: Settings
) -> None:
    waypost, caller = compose["services"]["waypost"], compose["services"]["caller"]
    assert caller["user"].partition(":")[2] == last["USER"].partition(":")[2]
    assert caller["command"][0] in example.server.listen
    shared = set(waypost["volumes"]) & set(caller["volumes"])
    assert [mount.partition(":")[2] for mount in shared] == [str(Path(caller["command"][0][5:]).parent)]
    assert caller["depends_on"]["waypost"]["condition"] == "service_healthy"


def test_compose_waits_for_the_drain(compose: Yaml, example: Settings) -> None:
    assert float(compose["services"]["waypost"]["stop_grace_period"].removesuffix("s")) > example.server.drain_s + 1


# ---- Kubernetes ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifests() -> dict[str, Yaml]:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def pod(manifests: dict[str, Yaml]) -> Yaml:
    found: Yaml = manifests["Deployment"]["spec"]["template"]["spec"]
    return found


@pytest.fixture(scope="module")
def sidecar(pod: Yaml) -> Yaml:
    return next(c for c in pod["initContainers"] if c["name"] == "waypost")


@pytest.fixture
def deployed(manifests: dict[str, Yaml], sidecar: Yaml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of the ConfigMap, with the environment of the container."""
    path = tmp_path / "waypost.toml"
    path.write_text(manifests["ConfigMap"]["data"]["waypost.toml"], encoding="utf-8")
    for variable in sidecar["env"]:
        assert "secretKeyRef" in variable["valueFrom"]
        monkeypatch.setenv(variable["name"], "a token of a Secret")
    return load_settings(path)


@pytest.fixture(scope="module")
def catalogue(manifests: dict[str, Yaml]) -> Catalogue:
    return parse_catalogue(manifests["ConfigMap"]["data"]["models.toml"], "models.toml")


def test_the_settings_of_the_config_map_load_and_ask_for_the_token_of_the_secret(deployed: Settings) -> None:
    (token,) = deployed.auth.tokens.values()
    assert token.token.get_secret_value() == "a token of a Secret"
    assert not token.admin


def test_the_models_of_the_config_map_fit_the_starter_references(catalogue: Catalogue) -> None:
    assert read_references([ROOT / "reference_prompts" / "starter"], catalogue).references


def test_waypost_starts_before_the_service_and_stops_after_it(pod: Yaml, sidecar: Yaml) -> None:
    assert sidecar["restartPolicy"] == ON_DEMAND
    assert [c["name"] for c in pod["initContainers"]] == ["waypost-index", "waypost"]
    assert all("restartPolicy" not in c for c in pod["initContainers"][:1])


def test_the_probes_ask_a_port_that_is_listened_on_beyond_loopback(sidecar: Yaml, deployed: Settings) -> None:
    (address,) = (a for a in deployed.server.listen if not a.startswith("unix:"))
    host, _, port = address.rpartition(":")
    assert host == "0.0.0.0"  # noqa: S104 - where probes come from
    ports = {p["containerPort"] for p in sidecar["ports"]}
    assert ports == {int(port), int(deployed.server.metrics_listen.rpartition(":")[2])}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert sidecar[probe]["grpc"] == {"port": int(port)}


def test_only_metrics_and_the_services_own_port_are_open_to_others(
    manifests: dict[str, Yaml], pod: Yaml, deployed: Settings
) -> None:
    policy = manifests["NetworkPolicy"]["spec"]
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    opened = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    own = {port["containerPort"] for port in pod["containers"][0]["ports"]}
    assert opened == own | {int(deployed.server.metrics_listen.rpartition(":")[2])}


def test_every_container_may_do_as_little_as_possible(pod: Yaml) -> None:
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["initContainers"] + pod["containers"]:
        allowed = container["securityContext"]
        assert allowed["runAsUser"] > 0
        assert allowed["allowPrivilegeEscalation"] is False
        assert allowed["readOnlyRootFilesystem"] is True
        assert allowed["capabilities"] == {"drop": ["ALL"]}


def test_the_socket_is_shared_and_its_group_is_the_pods(pod: Yaml, last: dict[str, str], deployed: Settings) -> None:
    (socket,) = (a.removeprefix("unix:") for a in deployed.server.listen if a.startswith("unix:"))
    assert pod["securityContext"]["fsGroup"] == int(last["USER"].partition(":")[2])
    sharing = [c["name"] for c in pod["initContainers"] + pod["containers"] if mounted(c, socket) == "socket"]
    assert sharing == ["waypost", "service"]
    addresses = {v.get("value") for v in pod["containers"][0]["env"]}
    assert f"unix:{socket}" in addresses


def test_index_and_data_are_on_a_volume_that_can_be_written(pod: Yaml, sidecar: Yaml, deployed: Settings) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for path in (deployed.index.path, deployed.store.data_dir):
        assert "emptyDir" in volumes[mounted(sidecar, str(path))]
    for container in pod["initContainers"] + pod["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)


def test_the_index_is_built_where_it_is_served_from(pod: Yaml, deployed: Settings, manifests: dict[str, Yaml]) -> None:
    arguments = pod["initContainers"][0]["args"]
    parses(arguments)
    given = dict(argument.split("=", 1) for argument in arguments[1:])
    assert given["--output"] == str(deployed.index.path)
    assert (ROOT / Path(given["--references"]).relative_to("/app")).is_dir()
    assert Path(given["--models"]).name in manifests["ConfigMap"]["data"]
    assert mounted(pod["initContainers"][0], given["--models"]) == "config"


def test_the_pod_waits_for_the_drain(pod: Yaml, deployed: Settings) -> None:
    assert pod["terminationGracePeriodSeconds"] > deployed.server.drain_s + 1


def mounted(container: Yaml, path: str) -> str:
    """Return the name of the volume a path is on, "" where it is on none."""
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    return next((mounts[str(parent)] for parent in Path(path).parents if str(parent) in mounts), "")
