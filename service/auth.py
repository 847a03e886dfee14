"""Who may call what: bearer tokens from the settings, each for some scopes. Without tokens everyone may."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from service.errors import Forbidden, Unauthenticated
from service.settings import AuthSettings


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller that was recognised."""

    name: str
    scopes: frozenset[str]
    admin: bool

    def check_scope(self, scope: str) -> None:
        """Raise Forbidden unless this caller may use the scope."""
        if "*" not in self.scopes and scope not in self.scopes:
            raise Forbidden(f"token {self.name!r} is not for scope {scope!r}: add it to auth.tokens.{self.name}.scopes")

    def check_admin(self) -> None:
        """Raise Forbidden unless this caller may administer."""
        if not self.admin:
            raise Forbidden(f"token {self.name!r} is not an admin's: set auth.tokens.{self.name}.admin")


ANYONE = Principal("anyone", frozenset({"*"}), admin=True)


def writer(settings: AuthSettings, principal: Principal, scope: str) -> str:
    """Return whom alone an answer may be served to that a caller stores: "" where the scope is that caller's anyway.

    It is so without tokens, for administrators, and where no other token but an administrator's is for the scope.
    """
    if not settings.tokens or principal.admin:
        return ""
    callers = sum(not t.admin and (scope in t.scopes or "*" in t.scopes) for t in settings.tokens.values())
    return principal.name if callers > 1 else ""


def authenticate(settings: AuthSettings, metadata: Mapping[str, str]) -> Principal:
    """Return who calls, from the `authorization` metadata; raise Unauthenticated where that is not known."""
    if not settings.tokens:
        return ANYONE
    kind, _, token = metadata.get("authorization", "").partition(" ")
    given = token.encode() if kind.lower() == "bearer" else b""
    for name, entry in settings.tokens.items():
        if hmac.compare_digest(entry.token.get_secret_value().encode(), given):
            return Principal(name, frozenset(entry.scopes), entry.admin)
    raise Unauthenticated("send a known token as metadata `authorization: Bearer <token>`")
