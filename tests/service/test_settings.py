"""The settings: every wrong line is named, the environment overrides the file, the command line both."""

import os
import tomllib
from pathlib import Path

import pytest

from service.errors import SettingsError
from service.settings import Settings, check_address, load_settings, to_toml

TOKEN = "x" * 20


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("WAYPOST_"):
            monkeypatch.delenv(name)


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "waypost.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path | None = None, **overrides: dict[str, object]) -> list[str]:
    with pytest.raises(SettingsError) as error:
        load_settings(path, overrides)
    return error.value.problems


def test_without_anything_there_are_defaults() -> None:
    settings = load_settings()
    assert settings.server.listen[0] == "127.0.0.1:50051"
    assert settings.auth.tokens == {}
    assert settings == Settings()


def test_a_file_sets_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    settings = load_settings(written(tmp_path, "[cache]\nthreshold = 0.5\n[server]\nlisten = ['unix:/tmp/x']\n"))
    assert settings.cache.threshold == 0.5
    assert settings.cache.ttl_s == 7 * 86_400
    assert settings.server.listen == ("unix:/tmp/x",)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[cache]\nthreshold = 1.5", "cache.threshold"),
        ("[cache]\nthreshold = nan", "cache.threshold"),
        ("[cache]\nthreshold = 'high'", "cache.threshold"),
        ("[cache]\nttl_s = -1", "cache.ttl_s"),
        ("[cache]\nttl_s = inf", "cache.ttl_s"),
        ("[cache]\nlease_s = 0", "cache.lease_s"),
        ("[cache]\nmax_turns = 0", "cache.max_turns"),
        ("[cache]\nmax_answers = 0", "cache.max_answers"),
        ("[cache]\nmax_answer_kib = 4097", "cache.max_answer_kib"),
        ("[cache]\nenabled = 'maybe'", "cache.enabled"),
        ("[cache]\ntreshold = 0.9", "cache.treshold"),
        ("[cash]\nthreshold = 0.9", "cash"),
        ("threshold = 0.9", "threshold"),
        ("cache = 5", "cache"),
        ("[server]\nlisten = []", "server.listen"),
        ("[server]\nlisten = ['50051']", "server.listen"),
        ("[server]\nlisten = ['host:99999']", "server.listen"),
        ("[server]\nlisten = ['unix:']", "server.listen"),
        (f"[server]\nlisten = ['unix:/{'x' * 107}']", "server.listen"),
        ("[server]\nmetrics_listen = 'unix:/tmp/x'", "server.metrics_listen"),
        ("[server]\nmetrics_listen = 'nowhere'", "server.metrics_listen"),
        ("[server]\ndrain_s = 0", "server.drain_s"),
        ('[index]\npath = "a\\u0000"', "index.path: no file can be called so"),
        ('[store]\ndata_dir = "a\\u0000"', "store.data_dir: no file can be called so"),
        ("[server]\nmax_message_mib = 0", "server.max_message_mib"),
        ("[encoder]\nworkers = 0", "encoder.workers"),
        ("[encoder]\nbatch_tokens = 15", "encoder.batch_tokens"),
        ("[encoder]\nmax_queue = 0", "encoder.max_queue"),
        ("[routing]\nevidence = -1", "routing.evidence"),
        ("[routing]\nmin_similarity = 2", "routing.min_similarity"),
        ("[routing]\noutput_tokens = 0", "routing.output_tokens"),
        ("[decisions]\nkeep = 0", "decisions.keep"),
        ("[log]\nlevel = 'loud'", "log.level"),
        ("[auth.tokens.me]\ntoken = 'short'", "auth.tokens.me.token"),
        ("[auth.tokens.me]\nscopes = ['a']", "auth.tokens.me.token"),
        (f"[auth.tokens.me]\ntoken = '{TOKEN}'\nscope = ['a']", "auth.tokens.me.scope"),
        (
            f"[auth.tokens.me]\ntoken = '{TOKEN}'\nscopes = ['a b']",
            "auth.tokens.me.scopes: no scope can be called 'a b'",
        ),
        (f"[auth.tokens.me]\ntoken = '{TOKEN}'", "auth.tokens.me: scopes is empty, so this token may call nothing"),
        (
            f"[auth.tokens.a]\ntoken = '{TOKEN}'\nadmin = true\n[auth.tokens.b]\nadmin = true\ntoken = '{TOKEN}'",
            "auth.tokens: a and b have the same",
        ),
        *(
            (f'[auth.tokens.me]\ntoken = "{token}"\nscopes = ["a"]', "auth.tokens.me.token: no caller could send this")
            for token in (f" {TOKEN}", f"{TOKEN}\\n", f"{TOKEN}ä", f"{TOKEN}\\u007f")
        ),
        ("[cache.scopes.'a b']\nttl_s = 1", "cache.scopes: no scope can be called 'a b'"),
        ("[cache.scopes.'user;*']\nttl_s = 1", "cache.scopes: no scope can be called"),
        ("[server]\nlisten = ['tcp://host:1']", "server.listen: 'tcp://host:1': expected"),
        ("[server]\nlisten = '127.0.0.1:1'", "server.listen: must be a list (given:"),
        ("[cache]\nphone_regions = ['UK']", "cache.phone_regions: no phone numbers are known of 'UK', which is GB"),
        ("[policy.scopes.'a b']\nlatency_weight = 1", "policy: no scope can be called 'a b'"),
        (
            "[[policy.experiments]]\nname = 'e'\nscopes = ['ä']\narms = [{name = 'a', share = 1}]",
            "policy.experiments[e]",
        ),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = written(tmp_path, text)
    (line,) = problems(path)
    assert line.startswith(f"{path}: {named}")
    assert ": " in line.removeprefix(f"{path}: ")


def test_all_wrong_lines_are_named_at_once(tmp_path: Path) -> None:
    text = "[cache]\nthreshold = 2\nlease_s = -1\n[encoder]\nworkers = 0\n[nothing]\n"
    assert len(problems(written(tmp_path, text))) == 4


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[auth.tokens]\nme = 'hunter2hunter2hunter2'", "auth.tokens.me: must be a table"),
        ("[auth]\ntokens = 'hunter2hunter2hunter2'", "auth.tokens: must be a table"),
        ("auth = 'hunter2hunter2hunter2'", "auth: must be a table"),
    ],
)
def test_a_secret_in_the_wrong_place_is_not_repeated_either(tmp_path: Path, text: str, named: str) -> None:
    (line,) = problems(written(tmp_path, text))
    assert line.endswith(named)


def test_a_secret_is_not_repeated_in_an_error(tmp_path: Path) -> None:
    (line,) = problems(written(tmp_path, "[auth.tokens.me]\ntoken = 'hunter2'"))
    assert "hunter2" not in line
    assert line.endswith("auth.tokens.me.token: at least 16 characters are needed")


@pytest.mark.parametrize(
    "text",
    [
        "[cache",
        "cache = ",
        "[cache]\nthreshold = 0.9\nthreshold = 0.8",
        "\x00",
        f"a = {'[' * 5_000}",
        f"a = {'1' * 5_000}",
    ],
    ids=lambda text: text[:20],
)
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    (line,) = problems(path)
    assert line.startswith(f"{path}: not a TOML file")


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    assert problems(tmp_path / "none.toml") == [f"{tmp_path / 'none.toml'}: no such file"]
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "not a TOML file" in problems(tmp_path / "binary")[0]
    assert "not a TOML file" in problems(tmp_path)[0]


def test_the_environment_overrides_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYPOST_CACHE__THRESHOLD", "0.25")
    monkeypatch.setenv("WAYPOST_SERVER__LISTEN", '["127.0.0.1:1", "unix:/tmp/y"]')
    settings = load_settings(written(tmp_path, "[cache]\nthreshold = 0.5\nmax_turns = 3"))
    assert settings.cache.threshold == 0.25
    assert settings.cache.max_turns == 3
    assert settings.server.listen == ("127.0.0.1:1", "unix:/tmp/y")


def test_the_command_line_overrides_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYPOST_CACHE__THRESHOLD", "0.25")
    path = written(tmp_path, "[cache]\nthreshold = 0.5\nmax_turns = 3")
    settings = load_settings(path, {"cache": {"threshold": 0.75}, "index": {"path": tmp_path}})
    assert settings.cache.threshold == 0.75
    assert settings.cache.max_turns == 3
    assert settings.index.path == tmp_path


def test_what_was_not_set_stays_unset_beside_an_override(monkeypatch: pytest.MonkeyPatch) -> None:
    override = {"server": {"listen": ("127.0.0.1:1",)}}
    assert "metrics_listen" not in load_settings(None, override).server.model_fields_set
    monkeypatch.setenv("WAYPOST_SERVER__METRICS_LISTEN", "127.0.0.1:2")
    settings = load_settings(None, override)
    assert "metrics_listen" in settings.server.model_fields_set
    assert settings.server.listen == ("127.0.0.1:1",)


def test_tokens_survive_an_override(tmp_path: Path) -> None:
    path = written(tmp_path, f"[auth.tokens.me]\ntoken = '{TOKEN}'\nscopes = ['a']")
    settings = load_settings(path, {"auth": {}, "server": {"listen": ("127.0.0.1:1",)}})
    assert settings.auth.tokens["me"].token.get_secret_value() == TOKEN
    assert settings.auth.tokens["me"].scopes == ("a",)


def test_a_wrong_override_is_named() -> None:
    (line,) = problems(None, server={"listen": ("nowhere",)})
    assert "server.listen" in line
    assert "host:port or unix:PATH" in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WAYPOST_CACHE__TRESHOLD", "0.9"),
        ("WAYPOST_CASH__THRESHOLD", "0.9"),
        ("WAYPOST_CACHE__THRESHOLD", "high"),
        ("WAYPOST_SERVER__LISTEN", "127.0.0.1:1"),
        ("WAYPOST_SERVER__LISTEN", "[" * 99_999),
        ("WAYPOST_SERVER", "nonsense"),
        ("WAYPOST_CACHE__PHONE_REGIONS", "US,GB"),
        ("WAYPOST_CACHE__CATEGORIES", "news"),
        ("WAYPOST_POLICY__SESSION", "off"),
        ("waypost_policy__rules", "[[rules]]"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("WAYPOST_SERVER__METRICS_LISTEN", "127.0.0.1:0")  # no JSON, and need not be
    monkeypatch.setenv(name, value)
    (line,) = problems()
    assert line.startswith(f"environment: {name}: ")


def test_what_is_no_setting_of_ours_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAYPOST_TOKEN", "for the client")
    monkeypatch.setenv("OTHER_CACHE__THRESHOLD", "9")
    assert load_settings() == Settings()


def test_settings_are_printed_as_toml_that_can_be_read_again(tmp_path: Path) -> None:
    text = f"""
[server]
listen = ["127.0.0.1:0", 'unix:/tmp/a "quoted" \\ path']
[cache]
enabled = false
[auth.tokens.plain]
token = "{TOKEN}"
scopes = ["a", "b:c"]
[auth.tokens."with space.and dot"]
token = "{TOKEN} too"
admin = true
"""
    settings = load_settings(written(tmp_path, text))
    printed = to_toml(settings)
    assert TOKEN not in printed
    read = tomllib.loads(printed)
    assert read["server"]["listen"] == list(settings.server.listen)
    assert read["cache"]["enabled"] is False
    assert read["cache"]["threshold"] == settings.cache.threshold
    assert read["auth"]["tokens"]["plain"]["scopes"] == ["a", "b:c"]
    assert read["auth"]["tokens"]["with space.and dot"]["admin"] is True
    assert set(read) == set(Settings.model_fields)


def test_a_policy_is_printed_as_toml_that_gives_it_again(tmp_path: Path) -> None:
    text = r"""
[policy]
willingness_to_pay = 0.5
tiers = ["a", "b"]
[policy.scopes."shop:eu"]
monthly_budget_usd = 5
[policy.session]
keep = 7
[[policy.rules]]
name = "quoted"
when = '''
attributes.x == "a \\ b"
  && prompt.matches(r"\b[a-z]+\n")'''
pin = "large"
[[policy.rules]]
name = "last"
max_cost_usd = 0.25
stop = true
[[policy.experiments]]
name = "e"
arms = [{ name = "one", share = 0.5 }, { name = "two", share = 0.25, cache = "bypass", shadow = true }]
"""
    settings = load_settings(written(tmp_path, text))
    again = load_settings(written(tmp_path, to_toml(settings)))
    assert again.policy == settings.policy
    assert again.policy.rules[0].when == settings.policy.rules[0].when
    assert len(again.policy.experiments[0].arms) == 2


def test_default_settings_are_printed_as_toml_that_gives_them_again(tmp_path: Path) -> None:
    assert load_settings(written(tmp_path, to_toml(Settings()))) == Settings()


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:50051", "host:65535", "unix:/x", "unix:///x", "unix:x"])
def test_addresses_that_can_be_listened_on_are_taken(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address", ["", ":", "host", "host:", ":1", "host:65536", "host:-1", "host:x", "host:٣", "unix:", "unix://"]
)
def test_addresses_that_cannot_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"expected|path must follow"):
        check_address(address)


@pytest.mark.parametrize("address", ["::1:50051", ":::50051", "fe80::1:50051", "[::1:50051"])
def test_an_ipv6_address_without_brackets_is_refused_with_the_remedy(address: str) -> None:
    with pytest.raises(ValueError, match=r"in brackets, for example \[::1\]:50051"):
        check_address(address)


@pytest.mark.parametrize("name", ["a%20b", "a?b", "a#b"])
def test_a_socket_that_callers_would_look_for_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="parts of a URL; name a path without them"):
        check_address(f"unix:/tmp/{name}/s")


def test_a_star_is_refused_with_what_stands_for_every_address() -> None:
    with pytest.raises(ValueError, match=r"\[::\]:50051, every one of IPv4 0\.0\.0\.0:50051"):
        check_address("*:50051")


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "waypost.toml"
    path.write_bytes(b"\xef\xbb\xbf[log]\r\nlevel = 'debug'\r\n")
    assert load_settings(path).log.level == "debug"


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().cache.threshold = 0.1
