"""The server's settings: one frozen dataclass, the source of truth for keywords and command-line defaults."""

import ipaddress
import os
from dataclasses import dataclass, field

from alorakit.engine.errors import ConfigError, shown

MIB = 1 << 20


def _keys() -> tuple[str, ...]:
    found = os.environ.get("ALORAKIT_API_KEYS", "").split(",")
    return tuple(key.strip() for key in found if key.strip())


def _admin_key() -> str | None:
    return os.environ.get("ALORAKIT_ADMIN_KEY", "").strip() or None


@dataclass(frozen=True)
class ServerConfig:
    """Settings of the server. How many requests may wait is the engine's ``EngineConfig.max_waiting``.

    Attributes:
        host: Address to listen on; anything but loopback needs ``api_keys``.
        port: Port to listen on; 0: any free one.
        served_model_name: What clients call the base model; None: the engine's model name.
        api_keys: Keys that clients may use, beside none; default: those in ``ALORAKIT_API_KEYS``, comma separated.
        admin_key: Key that may load and unload adapters; None: nobody may. Default: ``ALORAKIT_ADMIN_KEY``.
        adapter_folders: Folders below which adapters may be loaded over HTTP.
        adapter_repos: Hub repositories that adapters may be loaded from over HTTP: ids, or patterns such as ``org/*``.
        max_body_bytes: Longest request body.
        max_new_tokens: Most tokens that a request may ask for; None: what the model's length leaves.
        default_max_tokens: Tokens where a request does not say; None: what the model's length leaves.
        max_connections: Most open connections.
        request_timeout_s: Seconds after which a request that is being answered is given up.
        read_timeout_s: Seconds within which a request's head, and then its body, must have come.
        drain_s: Seconds that running requests get when the server is asked to end.
        cors_origins: Origins whose pages may call the server; empty: none but its own.
        log_prompts: Whether the access log holds prompts and answers.
        trust_special_tokens: Whether special-token text inside messages is read as special tokens.

    Raises:
        ConfigError: A value is out of range, or the server would be open to the network without a key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    served_model_name: str | None = None
    api_keys: tuple[str, ...] = field(default_factory=_keys, repr=False)
    admin_key: str | None = field(default_factory=_admin_key, repr=False)
    adapter_folders: tuple[str, ...] = ()
    adapter_repos: tuple[str, ...] = ()
    max_body_bytes: int = 4 * MIB
    max_new_tokens: int | None = None
    default_max_tokens: int | None = None
    max_connections: int = 1024
    request_timeout_s: float = 600.0
    read_timeout_s: float = 30.0
    drain_s: float = 30.0
    cors_origins: tuple[str, ...] = ()
    log_prompts: bool = False
    trust_special_tokens: bool = False

    def __post_init__(self) -> None:
        """Check every field; lists become tuples."""
        for name in ("api_keys", "adapter_folders", "adapter_repos", "cors_origins"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        for name in ("max_body_bytes", "max_connections", "max_new_tokens", "default_max_tokens"):
            _whole(name, getattr(self, name), 1, None)
        _whole("port", self.port, 0, 65535)
        for name in ("request_timeout_s", "read_timeout_s", "drain_s"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 < value <= 86400:
                raise ConfigError(f"{name}={shown(value)} must be seconds above 0 and at most 86400")
        for name in ("log_prompts", "trust_special_tokens"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name}={shown(getattr(self, name))} must be true or false")
        if not self.api_keys and not is_loopback(self.host):
            raise ConfigError(
                f"host={shown(self.host)} is open to the network and there is no API key; set ALORAKIT_API_KEYS (or "
                "--api-key), or use --host 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: where it points to may change
        return False


def _texts(name: str, value: object) -> tuple[str, ...]:
    texts = tuple(value) if isinstance(value, list | tuple) else None
    if texts is None or any(not isinstance(text, str) or not text for text in texts):
        # The value may hold a key, which no message shows.
        raise ConfigError(f"{name} must be a list of non-empty texts, not {type(value).__name__}")
    return texts


def _whole(name: str, value: object, low: int, high: int | None) -> None:
    if value is None and name in ("max_new_tokens", "default_max_tokens"):
        return
    if type(value) is not int or value < low or (high is not None and value > high):
        limit = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise ConfigError(f"{name}={shown(value)} must be an integer {limit}")
