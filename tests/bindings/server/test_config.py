from typing import Any

import pytest

from alorakit.bindings.server import ServerConfig, check_installed, run
from alorakit.engine.errors import ConfigError


def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALORAKIT_API_KEYS", "one, two,,")
    monkeypatch.setenv("ALORAKIT_ADMIN_KEY", "root")
    config = ServerConfig(host="0.0.0.0")
    assert (config.api_keys, config.admin_key) == (("one", "two"), "root")
    assert "two" not in repr(config) and "root" not in repr(config)
    assert ServerConfig(api_keys=()).api_keys == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_a_public_address_needs_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match="ALORAKIT_API_KEYS"):
        ServerConfig(host=host, api_keys=())
    assert ServerConfig(host=host, api_keys=("key",)).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_loopback_needs_none(host: str) -> None:
    assert ServerConfig(host=host, api_keys=()).host == host


@pytest.mark.parametrize(
    "settings",
    [
        {"port": 70000},
        {"port": "80"},
        {"max_body_bytes": 0},
        {"max_new_tokens": 0},
        {"read_timeout_s": 0},
        {"drain_s": float("nan")},
        {"api_keys": "secret"},
        {"api_keys": ("",)},
        {"log_prompts": 1},
    ],
    ids=str,
)
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))) as refused:
        ServerConfig(**settings)
    assert "secret" not in str(refused.value)


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alorakit.bindings.server.PACKAGES", ("uvicorn", "no_such_package"))
    with pytest.raises(ConfigError, match=r"needs no_such_package; run: pip install 'alorakit\[serve\]'"):
        check_installed()


@pytest.mark.parametrize(("settings", "expected"), [({}, True), ({"reserve_cache": False}, False)])
def test_a_server_takes_its_caches_memory_at_the_start(monkeypatch, settings, expected):
    given = {}

    class Stop(Exception):
        pass

    def config(**settings):
        given.update(settings)
        raise Stop

    monkeypatch.setattr(run, "EngineConfig", config)
    with pytest.raises(Stop):
        run.serve("a-model", **settings)
    assert given == {"reserve_cache": expected}
