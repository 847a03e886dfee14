"""docs/operations.md against the service: every setting, every series, and the example file."""

import json
import re
import tomllib
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from prometheus_client.parser import text_string_to_metric_families
from waypost.v1 import router_pb2, router_pb2_grpc, types_pb2

from service.check import check
from service.settings import Settings, load_settings
from tests.conftest import ROOT, Server
from tests.docs.generate import EXAMPLE, OPERATIONS, POLICY, operations, policy, setting_names

SERIES = re.compile(r"^\| `(waypost_\w+)` \| (\w+) \|([^|]*)\| [^|]+ \|$", re.MULTILINE)
# What an image is laid out for; everything else in the example is the default.
PLACES = {"server.listen", "server.metrics_listen", "encoder.path", "index.path", "store.data_dir"}


def test_the_generated_parts_are_those_of_the_code() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    assert text == operations(text), "run `python -m tests.docs.generate`"


def test_the_tables_of_the_policy_are_those_of_the_code() -> None:
    text = POLICY.read_text(encoding="utf-8")
    assert text == policy(text), "run `python -m tests.docs.generate`"


def test_every_setting_has_a_row() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    assert [name for name in setting_names() if text.count(f"| `{name}` |") != 1] == []


def test_the_example_gives_every_setting_and_its_default() -> None:
    given = flat(tomllib.loads(EXAMPLE.read_text(encoding="utf-8")))
    names = {name for name in setting_names() if ".NAME." not in name}
    assert set(given) == names
    defaults = flat(Settings().model_dump(mode="json"))
    assert {name: value for name, value in given.items() if name not in PLACES} == {
        name: defaults[name] for name in names - PLACES
    }


def test_the_tokens_of_the_example_can_be_uncommented(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    head, marker, tail = text.partition("# [auth.tokens.")
    assert marker
    path = tmp_path / "waypost.toml"
    path.write_text(head + re.sub(r"^# ?", "", marker + tail, flags=re.MULTILINE), encoding="utf-8")
    tokens = load_settings(path).auth.tokens
    assert tokens
    assert any(token.admin for token in tokens.values())


def test_the_example_passes_waypost_check(starter_index: Path, tmp_path: Path) -> None:
    # Of the container's folders, those of this machine stand in.
    places = {
        "encoder": {"path": ROOT / "encoders" / "all-MiniLM-L6-v2"},
        "index": {"path": starter_index},
        "store": {"data_dir": tmp_path},
    }
    findings = list(check(EXAMPLE, places, None, None))
    assert len(findings) >= len(places) + 1
    assert [problem for _, problem in findings if problem] == []


def test_every_exported_series_is_documented_and_no_other(server: Server) -> None:
    use_everything(server)
    documented = {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in SERIES.findall(OPERATIONS.read_text(encoding="utf-8"))
    }
    assert documented == exported(server)


def flat(tables: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    every = ((f"{table}.{key}", value) for table, pairs in tables.items() for key, value in pairs.items())
    return {name: value for name, value in every if value != {}}


def use_everything(server: Server) -> None:
    """Let every label appear: a decision, a review and what became of it, a report, and a call that fails."""
    scope = f"docs-{uuid.uuid4().hex}"
    with server.channel() as channel:
        router = router_pb2_grpc.RouterStub(channel)
        decision = router.Decide(router_pb2.DecideRequest(scope=scope, prompt="Which series are there?"))
        model = decision.plan.steps[0].model
        router.Review(router_pb2.ReviewRequest(decision_id=decision.decision_id, model=model, answer="All.", score=1))
        router.Report(
            router_pb2.ReportRequest(
                decision_id=decision.decision_id,
                model=model,
                outcome=types_pb2.OUTCOME_ERROR,
                quality=0.0,
                usage=types_pb2.Usage(cost_usd=0.01),
                latency=Duration(seconds=1),
            )
        )
        with pytest.raises(grpc.RpcError):
            router.Decide(router_pb2.DecideRequest(scope=scope))


def exported(server: Server) -> dict[str, tuple[str, frozenset[str]]]:
    """Return the type and the labels of every series, without those that only say since when another counts."""
    lines = (json.loads(line) for line in server.log if line.startswith("{"))
    address = next(line["address"] for line in lines if line["event"] == "metrics")
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as response:
        text = response.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        if family.name.endswith("_created"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
        found[name] = (family.type, labels)
    return found


def test_every_event_of_the_log_is_documented() -> None:
    table = OPERATIONS.read_text(encoding="utf-8").partition("| Event | When |")[2].partition("\n\n")[0]
    events = re.compile(r'_log\.(?:info|warning|error|exception)\(\s*"(\w+)"')
    logged = {event for path in (ROOT / "service").rglob("*.py") for event in events.findall(path.read_text())}
    assert "draining" in logged
    assert sorted(event for event in logged if f"`{event}`" not in table) == []
