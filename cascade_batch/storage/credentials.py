"""URLs with secrets in them are refused: what a run is given is stored and logged."""

import re
from urllib.parse import parse_qsl, urlsplit

from cascade_batch.errors import SpecError

SECRET_PARAMETER = re.compile(r"key|secret|token|passw|signature|\bsig\b|credential|x-amz", re.IGNORECASE)


def refuse_credentials(uri: str) -> None:
    """Raises SpecError for a URL, or a chain of them, with a secret in it, without repeating the secret."""
    for link in uri.split("::"):
        if "://" in link:
            _refuse_secret(link)


def _refuse_secret(uri: str) -> None:
    parts = urlsplit(uri)
    user = parts.netloc.rpartition("@")[0]
    named = [
        name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if SECRET_PARAMETER.search(name)
    ]
    if ":" in user or (user and parts.scheme in ("http", "https")) or named:
        raise SpecError(
            "storage: the URL holds credentials",
            where=f"{parts.scheme}://***@{parts.hostname}{parts.path}"
            if not named
            else f"parameter {named[0]}",
            next_step="leave them out; set them in each node's environment, profile or role",
        )
