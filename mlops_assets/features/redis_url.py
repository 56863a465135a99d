"""What is special about Redis as Feast's online store: the form of its address, and the errors it answers with."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

from mlops_assets.foundation.errors import SettingsError, TransientError

_DEFAULT_PORT = 6379
# A host that vanishes closes no connection: without a bound, a reader waits for the kernel to give up, for minutes.
_TIMEOUT_SECONDS = 5
_ENCODE = "in the password, write # as %23, / as %2F, ? as %3F, and @ as %40"


def redis_connection_string(url: str) -> str:
    """Turn a Redis URL into Feast's form, `host:port,db=0,password=...`.

    Raises:
        SettingsError: not a Redis URL, or a password that Feast's form cannot hold; the password is not shown.
    """
    form = "redis://[user:password@]host[:port][/db], or rediss:// for TLS"
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORT
    except ValueError:
        # What Python says of it quotes the URL, or what it takes for the port: the beginning of a password with a #.
        raise SettingsError(f"the Redis URL is not of the form {form}; {_ENCODE}") from None
    database = parts.path.strip("/") or "0"
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname or not database.isdigit():
        raise SettingsError(f"the Redis URL of host {parts.hostname!r} is not of the form {form}")
    if "@" in parts.query + parts.fragment:
        raise SettingsError(f"the Redis URL has its host behind a # or ?; {_ENCODE}")
    options = {
        "db": database,
        "socket_timeout": str(_TIMEOUT_SECONDS),
        "socket_connect_timeout": str(_TIMEOUT_SECONDS),
    }
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    if parts.scheme == "rediss":
        options["ssl"] = "true"
    if any("," in value for value in options.values()):
        raise SettingsError(
            f"the Redis user or password of host {parts.hostname!r} has a comma, which Feast cannot take"
        )
    return ",".join([f"{parts.hostname}:{port}", *(f"{name}={value}" for name, value in options.items())])


@contextmanager
def redis_errors(url: str) -> Iterator[None]:
    """Let a Redis that does not answer be tried again, and say of one that refuses us what to set; never the password.

    Raises:
        SettingsError: user or password are not accepted.
        TransientError: there is no answer.
    """
    from redis import exceptions

    host = urlsplit(url).hostname
    try:
        yield
    except (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError) as error:
        raise SettingsError(f"Redis on {host} refuses the user or password in MLOPS_REDIS_URL: {error}") from error
    except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
        raise TransientError(f"Redis on {host}, named by MLOPS_REDIS_URL, does not answer: {error}") from error
