"""Who asks: request ids, origins, keys and hosts that are not what they seem."""

import asyncio
import hmac
import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from alorakit.bindings.server import ServerConfig
from alorakit.engine.errors import ConfigError
from tests.bindings.server.raw import say, shared_engine, statuses
from tests.bindings.server.running import CHAT, JSON, Client, Running, chat, error_of

engine = shared_engine
Live = Callable[..., Running]
GOOD = json.dumps(chat()).encode()
CLOSE = "connection: close"


@pytest.mark.parametrize("given", ["a b", "x" * 129, "é", "", "\t", "a\x7f"])
def test_request_ids_that_are_not_kept(live: Live, given: str) -> None:
    server = live()
    raw = say(server, b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-request-id: "
              + given.encode() + b"\r\n\r\n")  # fmt: skip
    if statuses(raw) == [200]:
        assert raw.count(b"x-request-id: req-") == 1
    else:
        assert statuses(raw) == [400]
    split = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-request-id: a\rset-cookie: b\r\n\r\n"
    assert b"set-cookie" not in say(server, split)


@pytest.mark.parametrize("origins", [[], ["https://good.example"]])
def test_cors_only_if_asked(live: Live, origins: list[str]) -> None:
    server = live(cors_origins=origins)
    for name in ("https://evil.example", "null", "https://good.example", "https://good.example.evil.example"):
        origin = {"origin": name, "access-control-request-method": "POST"}
        for answer in (
            httpx.post(server.url + CHAT, json=chat(), headers=origin),
            httpx.options(server.url + CHAT, headers=origin),
            httpx.get(server.url + "/health", headers=origin),
        ):
            assert (answer.headers.get("access-control-allow-origin") == name) is (name in origins)
    # What a page may send without asking first is not read.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        error_of(httpx.post(server.url + CHAT, content=GOOD, headers={"content-type": kind}), 415)


class TestKeys:
    SECRETS = ("s3cret-api-key", "s3cret-admin-key", "wr0ng-key")

    def test_every_key_is_compared_in_constant_time(self, live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
        server = live(api_keys=["one", "two", "three"], admin_key="admin")
        compared: list[bytes] = []
        really = hmac.compare_digest

        def spy(given: Any, key: Any) -> bool:
            compared.append(key)
            return really(given, key)

        monkeypatch.setattr(hmac, "compare_digest", spy)
        for given, status in (("one", 200), ("three", 200), ("on", 401), ("", 401), ("o" * 60_000, 401)):
            compared.clear()
            answer = httpx.get(server.url + "/v1/models", headers={"authorization": f"Bearer {given}".strip()})
            assert (answer.status_code, compared) == (status, [b"one", b"two", b"three"])
        compared.clear()
        answer = httpx.delete(server.url + "/v1/adapters/x", headers={"authorization": "Bearer one"})
        assert (answer.status_code, compared[-1]) == (401, b"admin")

    def test_none_is_logged_or_said(self, live: Live, caplog: pytest.LogCaptureFixture) -> None:
        api, admin, wrong = self.SECRETS
        server = live(api_keys=[api], admin_key=admin)
        said = ""
        with caplog.at_level(logging.DEBUG):
            for key in self.SECRETS:
                headers = {"authorization": f"Bearer {key}"}
                for answer in (
                    httpx.get(server.url + "/v1/models", headers=headers),
                    httpx.post(server.url + CHAT, content=b"{", headers={**headers, **JSON}),
                    httpx.delete(server.url + "/v1/adapters/x", headers=headers),
                    httpx.get(server.url + "/metrics", headers=headers),
                ):
                    said += answer.text + str(answer.headers)
        records = "".join(record.getMessage() for record in caplog.records if record.name.startswith("alorakit"))
        assert records.count('"event"') == 12
        config = server.app.state.alorakit.config
        for key in (api, admin, wrong):
            assert key not in said + records + repr(config)

    @pytest.mark.parametrize("value", ["Basic c2VjcmV0", "secret", "Bearer", "Bearer secret x", "Bearer\xa0secret"])
    def test_other_schemes(self, live: Live, value: str) -> None:
        server = live(api_keys=["secret"])
        request = f"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n{CLOSE}\r\nauthorization: {value}\r\n\r\n"
        assert statuses(say(server, request.encode("latin-1"))) == [401]

    @pytest.mark.parametrize("path", ["/v1/models", "/v1/../v1/models", "//v1/models", "/V1/models", "/v1%2fmodels",
                                      "/%76%31/models", "/./v1/models", "/x/../v1/models", "/v1/models;x", "/metrics",
                                      "/metrics/", "/metrics%00"])  # fmt: skip
    def test_no_spelling_of_a_path_goes_without_a_key(self, live: Live, path: str) -> None:
        server = live(api_keys=["secret"])
        raw = say(server, f"GET {path} HTTP/1.1\r\nhost: localhost\r\n{CLOSE}\r\n\r\n".encode())
        assert statuses(raw) in ([401], [404])


class TestHosts:
    """A page whose name was pointed at 127.0.0.1 sends that name."""

    @staticmethod
    def ask(server: Running, *hosts: str, path: str = "/v1/models") -> list[int]:
        lines = [f"GET {path} HTTP/1.1", *(f"host: {host}" for host in hosts), CLOSE, "", ""]
        return statuses(say(server, "\r\n".join(lines).encode()))

    LOOPBACK = ("localhost", "localhost:8000", "LOCALHOST.", "127.0.0.1", "127.0.0.1:80", "127.9.9.9", "[::1]:1")
    OTHERS = ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0",
              "::1x", "[fe80::1]", "10.0.0.5", "", "localhost:80:80", "a@localhost", "localhost/")  # fmt: skip

    def test_loopback_without_keys(self, live: Live) -> None:
        server = live()
        for host in self.LOOPBACK:
            assert self.ask(server, host) == [200], host
        for host in self.OTHERS:
            for path in ("/v1/models", "/", "/health", "/openapi.json"):
                assert self.ask(server, host, path=path) == [421], host
        assert self.ask(server, "localhost", "evil.example") == [400]
        answer = httpx.post(server.url + CHAT, json=chat(), headers={"host": "evil.example"})
        error = error_of(answer, 421)
        assert error["code"] == "host_not_allowed" and "--allowed-host" in error["message"]
        assert httpx.post(server.url + CHAT, json=chat()).status_code == 200

    def test_allowed_hosts(self, live: Live) -> None:
        server = live(allowed_hosts=["models.example", "Box.local"])
        for host in (*self.LOOPBACK, "models.example:443", "MODELS.example", "box.local"):
            assert self.ask(server, host) == [200], host
        for host in self.OTHERS:
            assert self.ask(server, host) == [421], host

    @pytest.mark.parametrize(("named", "status"), [([], 200), (["a"], 421)])
    def test_with_keys_any_host_unless_some_are_named(self, live: Live, named: list[str], status: int) -> None:
        assert self.ask(live(api_keys=["k"], allowed_hosts=named), "evil.example", path="/health") == [status]

    def test_a_public_bind(self, client: Client) -> None:
        async def ask(host: str, **settings: Any) -> int:
            async with client(host="0.0.0.0", api_keys=["k"], **settings) as http:
                return (await http.get("/health", headers={"host": host})).status_code

        assert asyncio.run(ask("models.example")) == 200
        assert asyncio.run(ask("models.example", allowed_hosts=["other"])) == 421
        with pytest.raises(ConfigError, match="no API key"):
            ServerConfig(host="0.0.0.0", api_keys=(), allowed_hosts=("a",))

    def test_http_1_0_without_a_host(self, live: Live) -> None:
        raw = say(live(), b"GET /health HTTP/1.0\r\n\r\n")
        assert raw.startswith(b"HTTP/1.1 200 ")
