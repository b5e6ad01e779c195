"""What other libraries need to reach S3 as this process does: endpoint, region and credentials, as botocore finds them.

s3fs asks botocore, which reads the environment, profiles and config files, and roles. A library that reads only some
of these is told the rest, so that both reach the same server as the same user.
"""

import os
from functools import lru_cache
from typing import Any

import botocore.session

from cascade_batch.storage.remote import aws_environment


def s3_options() -> dict[str, str]:
    """Settings by the names of the AWS environment; credentials as they are now, so not to be kept."""
    session, endpoint, region = _session(os.getpid(), aws_environment())
    found = {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": region}
    if endpoint and endpoint.startswith("http://"):
        found["AWS_ALLOW_HTTP"] = "true"
    credentials = session.get_credentials()
    if credentials is not None:
        now = credentials.get_frozen_credentials()
        found |= {
            "AWS_ACCESS_KEY_ID": now.access_key,
            "AWS_SECRET_ACCESS_KEY": now.secret_key,
            "AWS_SESSION_TOKEN": now.token,
        }
    return {name: value for name, value in found.items() if value}


@lru_cache(maxsize=4)
def _session(_process: int, _environment: tuple[tuple[str, str], ...]) -> tuple[Any, str | None, str | None]:
    """A session, the endpoint that was configured, and the region; only a client knows what config files say."""
    session = botocore.session.Session()
    client = session.create_client("s3", region_name=session.get_config_variable("region") or "us-east-1")
    endpoint = str(client.meta.endpoint_url)
    is_own = not endpoint.rstrip("/").endswith((".amazonaws.com", ".amazonaws.com.cn"))
    return session, endpoint if is_own else None, client.meta.region_name
