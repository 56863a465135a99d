"""User ids as pseudonyms: HMAC-SHA-256 with a key that lies outside the operational database."""

import hashlib
import hmac
import secrets
from collections.abc import Callable

from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.file_lock import file_lock
from mlops_assets.foundation.files import atomic_write
from mlops_assets.foundation.settings import Settings

_KEY_BYTES = 32


def pseudonymiser(settings: Settings) -> Callable[[str], str]:
    """Return the function from a user id to its pseudonym, 64 hex digits; the same for everybody with the same key.

    The key is MLOPS_PSEUDONYM_KEY, else, embedded, a file of the home that is made at first use, readable by its owner.

    Raises:
        SettingsError: production without a key, or the key's file is damaged.
        StorageError: the file cannot be written.
    """
    key = _key(settings)
    return lambda user_id: hmac.new(key, user_id.encode(), hashlib.sha256).hexdigest()


def _key(settings: Settings) -> bytes:
    if settings.pseudonym_key is not None:
        return settings.pseudonym_key.get_secret_value().encode()
    if settings.environment == "production":
        raise SettingsError(
            "MLOPS_PSEUDONYM_KEY: needed in production; set it to a random secret of 16 characters or more"
        )
    path = settings.paths.pseudonym_key
    # Several servers may start at once on a new home, and all have to end with one key.
    with file_lock(path.with_suffix(".lock")):
        if not path.exists():
            with atomic_write(path) as temporary:
                temporary.touch(mode=0o600)
                temporary.write_text(secrets.token_hex(_KEY_BYTES), encoding="ascii")
    text = path.read_text(encoding="ascii")
    if len(text) != 2 * _KEY_BYTES:
        raise SettingsError(f"{path} is not a pseudonym key; restore it, or delete it and all pseudonyms change")
    return bytes.fromhex(text)
