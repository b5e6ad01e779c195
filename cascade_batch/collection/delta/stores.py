"""Where Delta tables can be, as delta-rs writes it, and what it must be told to reach it as `Storage` does."""

from cascade_batch.errors import SpecError
from cascade_batch.storage.aws import s3_options
from cascade_batch.storage.urls import LOCAL, split_url

_SPOKEN = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "abfs": "abfs", "abfss": "abfss", "az": "az"}


def holds_delta(uri: str) -> bool:
    """Whether there can be Delta tables at a place."""
    return split_url(uri).scheme in ("", *LOCAL, *_SPOKEN)


def check_store(uri: str) -> None:
    """Raises SpecError for a store that delta-rs does not speak to."""
    if not holds_delta(uri):
        raise SpecError(
            "a collection needs a store that Delta Lake tables can be in",
            where=uri,
            got=f"{split_url(uri).scheme}://",
            expected="a local folder, s3://, gs:// or abfs://",
        )


def delta_uri(uri: str) -> str:
    """A `Storage`'s URI, or one below it."""
    url = split_url(uri)
    return f"{_SPOKEN[url.scheme]}://{url.host}/{url.path}" if url.scheme else uri


def delta_options(uri: str) -> dict[str, str]:
    """With credentials, where these are not to be found in delta-rs's own environment variables."""
    return s3_options() if _SPOKEN.get(split_url(uri).scheme) == "s3" else {}
