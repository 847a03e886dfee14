"""The settings: one frozen model, one TOML file, overrides from the environment, checked at start.

No other module reads the environment. `WAYPOST_CACHE__THRESHOLD=0.97` overrides `threshold` in table `[cache]`;
lists are given as JSON.
"""

import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any, Final, Literal, Self, get_origin

from cachetools import LRUCache
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as UnreadableEnvironment

from index import DEFAULT_ENCODER
from service.errors import SettingsError
from service.policy_settings import PolicySettings, check_scopes

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
_MAX_SCOPES: Final = 10_000


def _no_nul(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("no file can be called so: there is a NUL in it")
    return path


Folder = Annotated[Path, AfterValidator(_no_nul)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerSettings(_Table):
    """Where and how the service listens."""

    listen: tuple[str, ...] = ("127.0.0.1:50051", "unix:var/waypost.sock")
    """Addresses: `host:port` or `unix:PATH`. Port 0 takes a free one."""
    metrics_listen: str = "127.0.0.1:9464"
    """`host:port` of the Prometheus metrics; empty: none."""
    drain_s: Positive = 10.0
    """How long calls under way may take to finish after SIGTERM."""
    max_message_mib: Annotated[int, Field(ge=1, le=256)] = 16
    """The largest message taken in."""

    @field_validator("listen")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("at least one address is needed, for example 127.0.0.1:50051")
        for address in value:
            check_address(address)
        return value

    @field_validator("metrics_listen")
    @classmethod
    def _metrics_address(cls, value: str) -> str:
        if value.startswith("unix:"):
            raise ValueError("metrics are served over host:port only")
        return check_address(value) if value else value


class EncoderSettings(_Table):
    """The encoder and the queue in front of it."""

    path: Folder = DEFAULT_ENCODER
    """The folder with model.onnx, tokenizer.json and encoder.json."""
    workers: Annotated[int, Field(ge=1, le=64)] = 2
    """Encoder runs at the same time, each on one thread: the number of cores."""
    batch_tokens: Annotated[int, Field(ge=16, le=65_536)] = 320
    """The most padded tokens in one run."""
    max_queue: Annotated[int, Field(ge=1, le=1_000_000)] = 1_024
    """Prompts that may wait; above it calls are refused with RESOURCE_EXHAUSTED."""


class IndexSettings(_Table):
    """The built index."""

    path: Folder = Path("var/index")
    """The folder that `waypost build-index --output` wrote."""


class StoreSettings(_Table):
    """What is kept on disk."""

    data_dir: Folder = Path("var/data")
    """The folder of the record of answers and live references, and of the journal of decisions."""

    @property
    def file(self) -> Path:
        """The record itself."""
        return self.data_dir / "waypost.sqlite3"

    @property
    def journal(self) -> Path:
        """The journal of decisions."""
        return self.data_dir / "journal.sqlite3"

    @property
    def policy_file(self) -> Path:
        """What the policy remembers: conversations, budgets, results of experiments."""
        return self.data_dir / "policy.sqlite3"


class ScopeSettings(_Table):
    """What is different for some scopes; what is left out is as in `[cache]`."""

    error_budget: Share | None = None
    """As `cache.error_budget`."""
    threshold: Share | None = None
    """As `cache.threshold`."""
    ttl_s: NotNegative | None = None
    """As `cache.ttl_s`."""
    stale_s: NotNegative | None = None
    """As `cache.stale_s`."""
    max_answers: Annotated[int, Field(ge=1)] | None = None
    """As `cache.max_answers`."""
    max_mib: Annotated[int, Field(ge=16)] | None = None
    """As `cache.max_mib`."""
    max_temperature: NotNegative | None = None
    """As `cache.max_temperature`."""
    personal_data: Literal["refuse", "store"] | None = None
    """As `cache.personal_data`: `store` where the scope is one user's."""
    corroborate: bool | None = None
    """As `cache.corroborate`."""


class CategorySettings(_Table):
    """What is different for prompts of one category, which is that of the references nearest to them."""

    ttl_s: NotNegative = 7 * 86_400.0
    """How long their answers stay valid, if that is shorter than what holds for the scope."""
    error_budget: Share | None = None
    """The largest share of them that may get a wrong cached answer, if that is less than what holds for the scope and
    the request does not say. Who is answered exactly counts with the scope: nobody looks for their category."""


class CacheSettings(_Table):
    """Which cached answers may be stored and served."""

    enabled: bool = True
    """Without it every request is routed and nothing is stored."""
    error_budget: Share = 0.01
    """The largest share of requests that may get a wrong cached answer, unless the request says. 0: only exact hits. 1:
    no budget; what `threshold`, `min_probability` and the guard let pass is served, nothing is audited or learned."""
    min_probability: Share = 0.9
    """The least probability, by the verifier, that a candidate's answer is right, where the budget is 1. It is fitted
    for the default encoder; with another, 0 lets the threshold and the guard decide alone."""
    threshold: Share = 0.9
    """The least cosine for a semantic hit, whatever its probability, where the budget is 1. Belongs to one encoder."""
    max_turns: Annotated[int, Field(ge=1, le=1_000)] = 1
    """Conversations with more user turns are only hit exactly."""
    ttl_s: NotNegative = 7 * 86_400.0
    """How long an answer stays valid unless the caller says; 0: for ever."""
    ttl_jitter: Share = 0.1
    """Up to this share is taken off `ttl_s`, at random, so that what came together does not lapse together."""
    stale_s: NotNegative = 0.0
    """How long after it lapsed an answer is still served while one caller fetches it anew; 0: not at all."""
    max_answers: Annotated[int, Field(ge=1)] = 100_000
    """Answers kept for one scope; above it those go that are worth least."""
    max_mib: Annotated[int, Field(ge=16)] = 4_096
    """Prompts and answers kept for one scope, in MiB; above it those go that are worth least."""
    max_answer_kib: Annotated[int, Field(ge=1, le=4_096)] = 1_024
    """The largest answer stored."""
    max_temperature: NotNegative = 1.0
    """Answers sampled at a higher temperature (in `context.sampling`) are not stored."""
    personal_data: Literal["refuse", "store"] = "refuse"
    """Whether prompts and answers with e-mail addresses, phone, card and account numbers or secret keys are stored."""
    phone_regions: tuple[Annotated[str, Field(pattern="^[A-Z]{2}$")], ...] = ("US", "GB", "DE", "FR")
    """Countries whose phone numbers are known without a country code, as two letters; numbers with one always are."""
    public_contacts: tuple[str, ...] = ()
    """What is no personal data though it looks like it: your own addresses and numbers, as they are written."""
    corroborate: bool = True
    """Serve an answer to other tokens of its scope only after one of them, too, was told the same by a model."""
    lease_s: Positive = 600.0
    """How long a fill token is good for."""
    scopes: Mapping[str, ScopeSettings] = Field(default_factory=dict)
    """By name or pattern (`user:*`); of several that match the name itself counts, else the longest."""
    categories: Mapping[str, CategorySettings] = Field(default_factory=dict)
    """By category of the references."""
    _of: LRUCache[str, "CacheSettings"] = PrivateAttr(default_factory=lambda: LRUCache(_MAX_SCOPES))

    @field_validator("scopes")
    @classmethod
    def _can_match(cls, value: Mapping[str, ScopeSettings]) -> Mapping[str, ScopeSettings]:
        check_scopes(re.sub(r"[*?]|\[[^]]+\]", "x", name) for name in value)
        return value

    @field_validator("phone_regions")
    @classmethod
    def _regions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from phonenumbers import SUPPORTED_REGIONS  # takes a while to load, and the default needs no look

        for region in value:
            if region not in SUPPORTED_REGIONS:
                hint = ", which is GB" if region == "UK" else ""
                raise ValueError(f"no phone numbers are known of {region!r}{hint}: use ISO 3166 codes such as GB")
        return value

    @property
    def budgets_categories(self) -> bool:
        """Whether some category has an error budget of its own."""
        return any(one.error_budget is not None for one in self.categories.values())

    def of(self, scope: str) -> "CacheSettings":
        """Return the settings of one scope."""
        if not self.scopes:
            return self
        found = self._of.get(scope)
        if found is None:
            names = [name for name in self.scopes if fnmatchcase(scope, name)]
            best = scope if scope in self.scopes else max(names, key=len, default=None)
            different = self.scopes[best].model_dump(exclude_none=True) if best is not None else {}
            found = self._of[scope] = self.model_copy(update=different) if different else self
        return found


class RoutingSettings(_Table):
    """How a model is chosen."""

    evidence: Annotated[float, Field(ge=0.0, le=10.0)] = 0.5
    """How many standard errors a model must be better than the fallback to be preferred; 0: any gain will do."""
    min_similarity: Share = 0.15
    """A prompt whose nearest reference is less similar than this is unlike all: the fallback model is taken."""
    fallback: str = ""
    """Model id or alias; empty: the catalogue's `fallback`, else the best over all references."""
    output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 300
    """Expected length of an answer where the caller does not say."""


class ReviewSettings(_Table):
    """Plans of several models, and the review of their answers."""

    accuracy: Annotated[float, Field(ge=0.5, lt=1.0)] = 0.75
    """How well reviews tell right answers from wrong ones where the index has no acceptor, as the area under the ROC
    curve: what plans assume of the scores that callers send. 0.5: not at all, so that no cascade is worth it."""
    ensemble: Annotated[int, Field(ge=2, le=9)] = 3
    """How many models an ensemble calls at the most."""

    @property
    def separation(self) -> float:
        """The accuracy as the distance between right and wrong answers, in deviations."""
        return math.sqrt(2) * NormalDist().inv_cdf(self.accuracy)


class DecisionSettings(_Table):
    """What is remembered of decisions, for Explain, Report and fills."""

    keep: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    """How many of the latest, at the most."""
    keep_mib: Annotated[int, Field(ge=1, le=65_536)] = 64
    """How much text they may hold together; beyond it the oldest are forgotten sooner."""


class JournalSettings(_Table):
    """What is recorded of decisions on disk, for Replay, refit, and Explain after a restart."""

    enabled: bool = True
    """Without it nothing is recorded, and what reports taught ends with the process."""
    prompts: bool = True
    """Also record prompt texts, which Replay and refit need; never those of calls that bypass the cache."""
    keep_days: Positive = 30.0
    """Older decisions are forgotten."""
    max_mib: Annotated[int, Field(ge=1, le=1_048_576)] = 512
    """How large the file may grow (a decision takes about 4 KiB and its prompt); above it the oldest go."""


class LearningSettings(_Table):
    """What reports teach at once, in their scope only."""

    enabled: bool = True
    """Let reports move the estimates of quality, cost and latency."""
    max_shift: Share = 0.5
    """The most that reports may move an expected quality."""
    half_life_days: Positive = 30.0
    """After so long, a report counts half."""
    keep: Annotated[int, Field(ge=100, le=100_000)] = 5_000
    """Reports of quality that are kept in memory for one scope; the oldest go."""


class StatsSettings(_Table):
    """What is counted."""

    baseline: str = ""
    """The model (id or alias) that savings are against: always calling it. Empty: the best over all references;
    where most of these only name a best model, which is the cheapest that will do, the dearest that they name."""


class LogSettings(_Table):
    """The log, JSON lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """At `debug` every decision is a line."""
    prompts: bool = False
    """Let prompt texts into the log."""


class TokenSettings(_Table):
    """One caller's token."""

    token: SecretStr = Field(min_length=16)
    """What the caller sends as `authorization: Bearer …`; at least 16 characters."""
    scopes: tuple[str, ...] = ()
    """The scopes it is for; "*": all."""
    admin: bool = False
    """Whether it may call Admin."""

    @field_validator("token")
    @classmethod
    def _can_be_sent(cls, value: SecretStr) -> SecretStr:
        token = value.get_secret_value()
        if not re.fullmatch(r"[!-~][ -~]*[!-~]", token):
            raise ValueError(
                "no caller could send this: use printable ASCII, without a line end or a space before or after it"
            )
        return value

    @field_validator("scopes")
    @classmethod
    def _scopes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        check_scopes(name for name in value if name != "*")
        return value

    @model_validator(mode="after")
    def _of_use(self) -> Self:
        if not self.scopes and not self.admin:
            raise ValueError('scopes is empty, so this token may call nothing: name its scopes, or "*" for all')
        return self


class AuthSettings(_Table):
    """Who may call. Without tokens everyone who reaches the address may."""

    tokens: Mapping[str, TokenSettings] = Field(default_factory=dict)
    """By the name of their holder, which is what logs show."""

    @field_validator("tokens")
    @classmethod
    def _told_apart(cls, value: Mapping[str, TokenSettings]) -> Mapping[str, TokenSettings]:
        holders: dict[str, str] = {}
        for name, entry in value.items():
            first = holders.setdefault(entry.token.get_secret_value(), name)
            if first != name:
                raise ValueError(f"{first} and {name} have the same token: nobody could tell them apart; change one")
        return value


class Settings(BaseSettings):
    """All of it."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="WAYPOST_", env_nested_delimiter="__")

    server: ServerSettings = ServerSettings()
    encoder: EncoderSettings = EncoderSettings()
    index: IndexSettings = IndexSettings()
    store: StoreSettings = StoreSettings()
    cache: CacheSettings = CacheSettings()
    routing: RoutingSettings = RoutingSettings()
    policy: PolicySettings = PolicySettings()
    review: ReviewSettings = ReviewSettings()
    decisions: DecisionSettings = DecisionSettings()
    journal: JournalSettings = JournalSettings()
    learning: LearningSettings = LearningSettings()
    stats: StatsSettings = StatsSettings()
    log: LogSettings = LogSettings()
    auth: AuthSettings = AuthSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment override what the file (given as arguments) says."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings


def load_settings(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings from a file, the environment and the command line, which overrides both.

    Args:
        path: a TOML file; None: defaults.
        overrides: {table: {key: value}}.

    Raises:
        SettingsError: with one line for each thing that is wrong.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin with a mark
        except FileNotFoundError:
            raise SettingsError([f"{path}: no such file"]) from None
        except (OSError, ValueError, RecursionError) as error:  # a number may be too long, tables nested too deep
            raise SettingsError([f"{path}: not a TOML file: {error}"]) from error
    unknown = [f"environment: {name}: no such setting" for name in os.environ if _is_unknown(name)]
    if unknown:
        raise SettingsError(sorted(unknown))
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError([_line(path, problem, values) for problem in error.errors()]) from error
    except (UnreadableEnvironment, RecursionError) as error:
        how = """lists and tables are given as JSON, for example '["127.0.0.1:50051"]'"""
        names = [name for name, value in os.environ.items() if _is_no_json(name, value)] or [str(error)]
        raise SettingsError([f"environment: {name}: {how}" for name in sorted(names)]) from error
    tables: dict[str, BaseModel] = {}
    for name, pairs in (overrides or {}).items():
        table = getattr(settings, name)
        try:  # what was not set stays so: some defaults give way where a wish would not
            tables[name] = type(table).model_validate(table.model_dump(exclude_unset=True) | dict(pairs))
        except ValidationError as error:
            problems = [{**problem, "loc": (name, *problem["loc"])} for problem in error.errors()]
            raise SettingsError([_line(None, problem) for problem in problems]) from error
    return settings.model_copy(update=tables)


def _is_unknown(name: str) -> bool:
    """Return whether an environment variable looks like a setting and is none: most likely a slip of the pen."""
    table, separator, key = name.upper().removeprefix("WAYPOST_").lower().partition("__")
    if not name.upper().startswith("WAYPOST_") or not separator:
        return False
    return key.partition("__")[0] not in _fields_of(table)


def _fields_of(table: str) -> Mapping[str, FieldInfo]:
    """Return the settings of a table, none where there is no such table."""
    field = Settings.model_fields.get(table)
    kind = field.annotation if field else None
    return kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}


def _is_no_json(name: str, value: str) -> bool:
    """Return whether an environment variable is a table, or a table's list or table, and is not given as JSON."""
    table, separator, key = name.upper().removeprefix("WAYPOST_").lower().partition("__")
    if not name.upper().startswith("WAYPOST_") or not (key in _fields_of(table) if separator else _fields_of(table)):
        return False
    kind = _fields_of(table)[key].annotation if separator else BaseModel
    if get_origin(kind) not in {tuple, Mapping} and not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return False
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return True
    return False


def socket_path(address: str) -> Path | None:
    """Return the absolute path of an address `unix:PATH`; None for `host:port`. ValueError where the path is wrong."""
    if not address.startswith("unix:"):
        return None
    path = address.removeprefix("unix:").removeprefix("//")
    if not path:
        raise ValueError(f"{address!r}: a path must follow, for example unix:/run/waypost.sock")
    absolute = Path(path).absolute()
    if any(sign in str(absolute) for sign in "%?#"):
        raise ValueError(f"{address!r}: gRPC reads %, ? and # as parts of a URL; name a path without them")
    if len(str(absolute).encode()) > 107:  # noqa: PLR2004 - what the kernel takes
        raise ValueError(f"{address!r}: the path of a unix socket may have 107 bytes at the most")
    return absolute


def check_address(address: str) -> str:
    """Return the address, or raise ValueError where it is neither `host:port` nor `unix:PATH`."""
    if socket_path(address) is not None:
        return address
    host, colon, port = address.rpartition(":")
    number = port.isascii() and port.isdecimal() and int(port) <= 65_535  # noqa: PLR2004 - ports
    if not colon or not host or "/" in host or not number:
        raise ValueError(f"{address!r}: expected host:port or unix:PATH, for example 127.0.0.1:50051")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{address!r}: an IPv6 address stands in brackets, for example [::1]:50051")
    if host == "*":
        raise ValueError(f"{address!r}: every address is [::]:{port}, every one of IPv4 0.0.0.0:{port}")
    return address


def to_toml(settings: Settings) -> str:
    """Return the settings in use as TOML, secrets redacted."""
    return "\n".join(_tables(settings.model_dump(mode="json", exclude_none=True), "")).strip() + "\n"


def _tables(values: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield the lines of a table: its own values first, then the tables within it."""
    nested = {
        k: v for k, v in values.items() if isinstance(v, dict) or (v and isinstance(v, list) and isinstance(v[0], dict))
    }
    if path and (len(nested) < len(values) or not values):
        yield from ("", f"[{path}]")
    yield from (f"{k} = {_toml(v)}" for k, v in values.items() if k not in nested)
    for key, entry in nested.items():
        inner = f"{path}.{_key(key)}".lstrip(".")
        if isinstance(entry, dict):
            yield from _tables(entry, inner)
            continue
        for one in entry:
            head, *rest = [*_tables(one, inner)][1:]
            yield from ("", f"[{head}]", *rest)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML's escapes are JSON's
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value)


_OTHERWISE: Final = {
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
}


def _line(path: Path | None, problem: Any, values: Any = None) -> str:
    return f"{_variable(problem['loc']) or path or 'settings'}: {explained(problem, values)}"


def explained(problem: Any, values: Any = None, page: str = "docs/operations.md") -> str:
    """Return a line on something that pydantic found wrong.

    Args:
        problem: one of a ValidationError's errors.
        values: what was validated, to call tables by their names.
        page: that has all there is to set.
    """
    where, kind, given = _where(problem["loc"], values), problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        return f"{where}: no such setting; see {page} for all of them"
    if problem["loc"][-1] == "token" and kind == "too_short":
        return f"{where}: at least {problem['ctx']['min_length']} characters are needed"
    told = problem["msg"].removeprefix("Value error, ")
    if kind in _OTHERWISE:
        told = _OTHERWISE[kind]
    # Where a token stands in the wrong place, it is one all the same.
    shown = isinstance(given, str | int | float | bool) and problem["loc"][0] != "auth" and repr(given) not in told
    return f"{where}: {told}{f' (given: {given!r})' if shown else ''}"


def _variable(loc: Iterable[int | str]) -> str:
    """Return the environment variable that a setting was taken from, "" where it was not."""
    names = [str(part) for part in loc]
    places = {"WAYPOST_" + "__".join(names[:n]).upper() for n in range(1, len(names) + 1)}
    return next((f"environment: {name}" for name in os.environ if name.upper() in places), "")


def _where(loc: Iterable[int | str], values: Any) -> str:
    """Return the place of a problem; of a list's tables, those that have a name are called by it."""
    shown = ""
    for part in loc:
        try:
            values = values[part]
        except (LookupError, TypeError):
            values = None
        name = values.get("name") if isinstance(part, int) and isinstance(values, dict) else None
        shown += f"[{name or part}]" if isinstance(part, int) else f".{part}"
    return shown.lstrip(".")
