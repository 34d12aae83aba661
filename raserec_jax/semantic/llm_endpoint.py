"""Which endpoint, and with which key: from the environment, never over an open line to another machine."""

import ipaddress
import os
from urllib.parse import urlsplit

from raserec_jax.errors import ConfigError


def key_for(settings) -> str:
    """The key in the environment, "" for an endpoint on this machine or an open one without TLS.

    Raises:
      ConfigError: none where one is needed; or an address that is none, holds a password, or would carry the key in
        the clear to another machine.
    """
    key = os.environ.get(settings.key_variable, "").strip()
    address = settings.base_url or os.environ.get("OPENAI_BASE_URL", "")
    try:
        parts = urlsplit(address)
        usable = not address or (parts.scheme in ("http", "https") and parts.hostname)
    except ValueError:
        parts, usable = urlsplit(""), False
    if not usable or parts.username or parts.password:
        raise ConfigError(
            "semantic.llm.base_url should be an address such as https://api.deepseek.com/v1, without a name or "
            "password in it"
        )
    if parts.scheme == "http" and not _is_local(parts.hostname):
        if key:
            raise ConfigError(
                f"semantic.llm.base_url={address!r:.120} would send the key in ${settings.key_variable} unencrypted to "
                "another machine; use https"
            )
        return ""
    if not key and not (parts.hostname and _is_local(parts.hostname)):
        raise ConfigError(
            f"no key: the environment variable {settings.key_variable} is not set; export it, or name another one in "
            "semantic.llm.key_variable"
        )
    return key


def _is_local(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
