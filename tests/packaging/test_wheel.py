"""What `pip install` gives: a wheel that renders in an environment without this checkout, and has our types."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.patience import PATIENCE_S
from tests.run.runs import QUICK

ROOT = Path(__file__).parents[2]


class Environment:
    """A fresh virtual environment that borrows what is installed here, since nobody wants to fetch torch again.

    A folder named in a `.pth` file comes after the environment's own, and the `.pth` files in it are not read: an
    editable install of this checkout among them is not seen.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=False)
        self.packages = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
        borrowed = [entry for entry in sys.path if entry.endswith("site-packages")]
        (self.packages / "borrowed.pth").write_text("\n".join([sysconfig.get_path("purelib"), *borrowed]))

    def run(self, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a program of this environment, in a folder that is not the checkout."""
        own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        program, *rest = command
        return run(str(self.folder / "bin" / program), *rest, cwd=cwd, env=own)


def run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=PATIENCE_S)


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools leaves its `build` folder beside what it builds."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    listed = succeeded(run("git", "ls-files", "-co", "--exclude-standard", "cascade_batch", cwd=ROOT)).split()
    for name in (*listed, "pyproject.toml", "README.md", "LICENSE"):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index")
    succeeded(run(*pip, "--wheel-dir", str(out), str(source), cwd=out))
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    fresh = Environment(tmp_path_factory.mktemp("environment"))
    pip = (sys.executable, "-m", "pip", "--python", str(fresh.folder / "bin" / "python"))
    install = ("install", "--no-deps", "--no-index", "--ignore-installed", str(wheel))
    succeeded(run(*pip, *install, cwd=fresh.folder))
    return fresh


def test_the_package_comes_from_the_wheel(environment: Environment, tmp_path: Path) -> None:
    asked = "import cascade_batch, torch; print(cascade_batch.__file__)"
    found = Path(succeeded(environment.run("python", "-c", asked, cwd=tmp_path)).strip())
    assert found == environment.packages / "cascade_batch" / "__init__.py"
    assert (found.parent / "py.typed").exists()


def test_the_demo_renders_from_the_wheel_alone(environment: Environment, tmp_path: Path) -> None:
    succeeded(environment.run("cascade-batch", "demo", cwd=tmp_path))
    render = ("cascade-batch", "render", "prompts.parquet", "--out", "run", "--runner=local", "--limit=3")
    succeeded(environment.run(*render, *QUICK, cwd=tmp_path))
    assert "no differences" in succeeded(environment.run("cascade-batch", "verify", "run", cwd=tmp_path))
    rows = pq.read_table(tmp_path / "run" / "table").to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 3
    assert all((tmp_path / "run" / row["image_uri"]).exists() for row in rows)


SNIPPET = """
from cascade_batch.api import Cascade
model = Cascade.load("tiny")
reveal_type(model.render)
reveal_type(model.sampling.c.shift)
model.render("a red circle", width="wide")
model.rendr("a red circle")
"""
CONFIG = """
[mypy]
follow_imports = silent
[mypy-torch.*,transformers.*,numpy.*,PIL.*]
follow_imports = skip
"""
"""Types of others are not what is asked, and take a minute to read."""


def test_a_type_checker_sees_our_types(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(SNIPPET)
    python = str(environment.folder / "bin" / "python")
    (tmp_path / "mypy.ini").write_text(CONFIG)
    flags = ("--python-executable", python, "--cache-dir", str(tmp_path / "cache"))
    told = run(sys.executable, "-m", "mypy", *flags, "snippet.py", cwd=tmp_path)
    lines = told.stdout.splitlines()
    assert told.returncode == 1, told.stdout + told.stderr
    assert "ImagesOutput" in lines[0]
    assert 'Revealed type is "float"' in lines[1].replace("builtins.", "")
    assert 'incompatible type "str"; expected "int"' in lines[2]
    assert 'has no attribute "rendr"' in lines[3]
