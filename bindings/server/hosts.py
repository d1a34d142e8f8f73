"""Which hosts a server answers for: a page that rebinds its own name to loopback is refused by that name.

A browser sends the name of the page's origin as ``Host``, also after the name's address has become 127.0.0.1. Such a
page counts as the server's own origin, so no CORS rule keeps it from a server without keys.
"""

from alorakit.bindings.server.config import ServerConfig, is_loopback
from alorakit.bindings.server.errors import HttpError


def check_host(given: list[str], config: ServerConfig) -> None:
    """Refuse a request for a host that the server does not answer for.

    Args:
        given: Values of its ``Host`` headers; none, as HTTP/1.0 allows, is no browser.
        config: With ``allowed_hosts``, those and loopback; else loopback alone, if the server is bound to it and has
            no keys; else any.

    Raises:
        HttpError: 400: several headers; 421: another host.
    """
    if len(given) > 1:
        raise HttpError(400, "the request has several Host headers; send one", headers={"connection": "close"})
    if not given or not (config.allowed_hosts or (is_loopback(config.host) and not config.api_keys)):
        return
    host = host_of(given[0])
    if not is_loopback(host) and host not in {allowed.lower() for allowed in config.allowed_hosts}:
        raise HttpError(
            421,
            f"this server does not answer for host {host!r:.200}, only for localhost and what --allowed-host names; "
            "use http://localhost, or start it with --allowed-host HOST",
        )


def host_of(value: str) -> str:
    """The host of a ``Host`` header: lower case, without port, brackets and the final dot."""
    host = value.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return (name if colon and (port.isdecimal() or not port) else host).rstrip(".")
