"""OpenAI-compatible endpoints: which there are, and one call with its retries.

Keys are read from the environment, by the names that the file gives, and are in no message and no file.
"""

import asyncio
import math
import os
import random
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from index.catalogue import Catalogue
from index.errors import InputError, WaypostError
from index.records import Message
from service.settings import explained

_ATTEMPTS: Final = 6
_LONGEST_WAIT_S: Final = 60.0
_TRY_AGAIN: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_REFUSED: Final = frozenset({401, 403, 404})
# For a reservation: few tokens have fewer characters than this, so a budget is not overrun.
_CHARACTERS_PER_TOKEN: Final = 2.0


class CallFailed(WaypostError):  # noqa: N818 - one call, not the work
    """A call did not lead to an answer; another prompt may."""


class EndpointRefused(WaypostError):  # noqa: N818 - as above
    """An endpoint will answer nothing: its key, its address or its model is wrong."""


class Endpoint(BaseModel):
    """One model behind an OpenAI-compatible endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    base_url: Annotated[str, Field(pattern=r"^https?://")]
    name: str = ""
    api_key_env: str = ""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 1_024
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    system_prompt: str = ""
    backoff_s: Annotated[float, Field(ge=0, le=60)] = 0.5
    input_usd_per_mtok: Annotated[float, Field(ge=0)] | None = None
    output_usd_per_mtok: Annotated[float, Field(ge=0)] | None = None


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoints: Annotated[list[Endpoint], Field(min_length=1)]
    judge: Endpoint | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """What a model answered, how long that took and what it cost."""

    content: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    cost_usd: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class Priced:
    """An endpoint ready to be called: `model` is its id in the catalogue, prices are USD per million tokens."""

    model: str
    endpoint: Endpoint
    key: str
    input_usd: float
    output_usd: float

    def cost(self, input_tokens: float, output_tokens: float) -> float:
        """Return what so many tokens cost, in USD."""
        return (input_tokens * self.input_usd + output_tokens * self.output_usd) / 1e6

    def most(self, messages: Sequence[Message]) -> float:
        """Return the most a call may cost, in USD."""
        characters = len(self.endpoint.system_prompt) + sum(len(m.content) for m in messages)
        return self.cost(characters / _CHARACTERS_PER_TOKEN + 50, self.endpoint.max_tokens)


def read_endpoints(
    path: Path, catalogue: Catalogue, environment: Mapping[str, str] = os.environ
) -> tuple[list[Priced], Priced | None]:
    """Return the endpoints of a TOML file, and the judge where it names one.

    Args:
        path: `[[endpoints]]` tables and at most one `[judge]`.
        catalogue: every endpoint's `model` is in it; its prices hold where the file names none.
        environment: where keys are.

    Raises:
        InputError: with one line for each thing that is wrong.
    """
    try:
        file = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        lines = (f"{path}: {explained(e, page='docs/labelling.md')}" for e in error.errors())
        raise InputError("\n".join(lines)) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid TOML: {error}") from None
    problems: list[str] = []
    found = [
        _priced(one, f"{path}: endpoints.{i}", catalogue, environment, problems) for i, one in enumerate(file.endpoints)
    ]
    names = [one.model for one in found]
    problems += [f"{path}: {name} has two endpoints: give one" for name in set(names) if names.count(name) > 1]
    judge = _priced(file.judge, f"{path}: judge", catalogue, environment, problems) if file.judge else None
    if problems:
        raise InputError("\n".join(problems))
    return found, judge


def _priced(
    one: Endpoint, place: str, catalogue: Catalogue, environment: Mapping[str, str], problems: list[str]
) -> Priced:
    key = environment.get(one.api_key_env, "") if one.api_key_env else ""
    if one.api_key_env and not key:
        problems.append(f"{place}.api_key_env: {one.api_key_env} is not set in the environment: export the key")
    model = catalogue.get(one.model) if one.model in catalogue else None
    into, out = one.input_usd_per_mtok, one.output_usd_per_mtok
    if model is None and (not place.endswith("judge") or into is None or out is None):
        problems.append(f"{place}.model: {catalogue.unknown(one.model)}")
        return Priced(one.model, one, key, 0.0, 0.0)
    if into is None:
        into = model.input_usd_per_mtok if model else 0.0
    if out is None:
        out = model.output_usd_per_mtok if model else 0.0
    return Priced(model.id if model else one.model, one, key, into, out)


class Caller:
    """Calls endpoints, each with its own bound on calls at a time.

    Args:
        endpoints: whom to call.
    """

    def __init__(self, endpoints: Sequence[Priced]) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise InputError(
                f"calling models needs httpx2, which is not installed: {sys.executable} -m pip install 'waypost[label]'"
            ) from error
        self._http = httpx2
        self._client = httpx2.AsyncClient(follow_redirects=False)
        self._gates = {id(one): asyncio.Semaphore(one.endpoint.concurrency) for one in endpoints}
        self._refused: dict[int, str] = {}

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def call(self, priced: Priced, messages: Sequence[Message]) -> Answered:
        """Return a model's answer.

        Raises:
            CallFailed: no answer came, or one that cannot be read.
            EndpointRefused: none will come.
        """
        async with self._gates[id(priced)]:
            if id(priced) in self._refused:  # while this one waited at the gate
                raise EndpointRefused(self._refused[id(priced)])
            why = ""
            for attempt in range(_ATTEMPTS):
                try:
                    return await self._once(priced, messages)
                except EndpointRefused as error:
                    self._refused[id(priced)] = str(error)
                    raise
                except _Later as later:
                    why = str(later)
                    wait = priced.endpoint.backoff_s * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311 - spreads
                    await asyncio.sleep(min(max(wait, later.after), _LONGEST_WAIT_S))
            raise CallFailed(f"{priced.model}: gave up after {_ATTEMPTS} attempts: {why}")

    async def _once(self, priced: Priced, messages: Sequence[Message]) -> Answered:
        one, started = priced.endpoint, time.perf_counter()
        asked = [{"role": m.role, "content": m.content} for m in messages]
        if one.system_prompt:
            asked.insert(0, {"role": "system", "content": one.system_prompt})
        body: dict[str, Any] = {"model": one.name or one.model, "messages": asked, "max_tokens": one.max_tokens}
        if one.temperature is not None:
            body["temperature"] = one.temperature
        headers = {"authorization": f"Bearer {priced.key}"} if priced.key else {}
        url = f"{one.base_url.rstrip('/')}/chat/completions"
        try:
            response = await self._client.post(url, json=body, headers=headers, timeout=one.timeout_s)
        except self._http.InvalidURL as error:
            raise EndpointRefused(f"{priced.model}: base_url {one.base_url!r}: {error}") from None
        except self._http.TransportError as error:
            raise _Later(f"{type(error).__name__}: {error}") from None
        if response.status_code in _TRY_AGAIN:
            raise _Later(f"HTTP {response.status_code}", _after(response.headers.get("retry-after", "")))
        if response.status_code in _REFUSED:
            hint = f"look at {one.api_key_env}" if one.api_key_env else "name its key with api_key_env, or mend name"
            raise EndpointRefused(f"{priced.model}: {url} answers HTTP {response.status_code}: {hint}")
        if response.status_code != 200:  # noqa: PLR2004 - OK
            raise CallFailed(f"{priced.model}: HTTP {response.status_code}: {response.text[:200]}")
        return _read(priced, response, sum(len(m["content"]) for m in asked), time.perf_counter() - started)


def _tokens(said: Any, characters: int) -> int:
    """Return a count of tokens as an endpoint says it, or about what so many characters have."""
    count = int(said) if said is not None else 0
    return count if count > 0 else math.ceil(characters / 4)


class _Later(Exception):  # noqa: N818 - not an error yet
    """Worth another attempt, after so many seconds."""

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.after = after


def _after(header: str) -> float:
    try:
        return max(0.0, float(header))
    except ValueError:
        return 0.0


def _read(priced: Priced, response: Any, asked: int, latency_s: float) -> Answered:
    """Return the answer of a response to so many characters; what it does not say of tokens is taken from texts."""
    try:
        body = response.json()
        choice = body["choices"][0]
        content = choice["message"]["content"] or ""
        usage = body.get("usage") or {}
        read = _tokens(usage.get("prompt_tokens"), asked)
        written = _tokens(usage.get("completion_tokens"), len(content))
        if not isinstance(content, str):
            raise TypeError("content is no text")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:
        raise CallFailed(f"{priced.model}: an answer that is no chat completion: {error!r}") from None
    finish = str(choice.get("finish_reason") or "")
    return Answered(content, finish, read, written, priced.cost(read, written), latency_s)
