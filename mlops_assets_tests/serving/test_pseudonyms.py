"""Pseudonyms: the same for everybody with the key, and nothing without it."""

import hashlib
import hmac
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlops_assets.foundation.errors import SettingsError
from mlops_assets.foundation.settings import Settings
from mlops_assets.serving.pseudonyms import pseudonymiser


def test_it_is_hmac_sha_256_of_the_users_name() -> None:
    """A plain hash of an e-mail address is looked up in seconds."""
    settings = Settings.model_validate({"pseudonym_key": "k" * 16})
    expected = hmac.new(b"k" * 16, b"ann@example.com", hashlib.sha256).hexdigest()
    assert pseudonymiser(settings)("ann@example.com") == expected


def test_servers_of_one_home_agree_and_the_key_is_private(tmp_path: Path) -> None:
    """Two servers that start at once on a new home give a user two pseudonyms."""
    settings = Settings(home=tmp_path)
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: pseudonymiser(settings)("ann"), range(16)))
    assert len(found) == 1
    assert stat.S_IMODE(settings.paths.pseudonym_key.stat().st_mode) == 0o600
    assert pseudonymiser(Settings(home=tmp_path / "other"))("ann") not in found


def test_production_needs_a_key_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    """Each server makes a key of its own, and experiments lose their users."""
    production = Settings.model_validate(
        {
            "environment": "production",
            "home": tmp_path,
            "database_url": "postgresql://u:p@h/d",
            "mlflow_tracking_uri": "http://mlflow",
        }
    )
    with pytest.raises(SettingsError, match="MLOPS_PSEUDONYM_KEY: needed in production"):
        pseudonymiser(production)
    settings = Settings(home=tmp_path)
    pseudonymiser(settings)
    settings.paths.pseudonym_key.write_text("cut off")
    with pytest.raises(SettingsError, match="is not a pseudonym key"):
        pseudonymiser(settings)
