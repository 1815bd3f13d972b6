"""What is shipped: metadata, the source distribution, licences, rules of the source tree."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import entry_points, metadata, requires
from pathlib import Path

import pytest
import strongroom
from pythons import interpreters

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CARGO = tomllib.loads((ROOT / "Cargo.toml").read_text())


def tracked(*patterns: str) -> list[Path]:
    """Source files; what builds leave behind is not among them."""
    skip = {
        ".venv",
        ".venv-wheel",
        ".venv-bench",
        "target",
        "dist",
        "__pycache__",
        "corpus",
        "artifacts",
    }
    return [
        path
        for pattern in patterns
        for path in sorted(ROOT.glob(pattern))
        if not skip & set(path.relative_to(ROOT).parts)
    ]


def test_one_version():
    version = CARGO["workspace"]["package"]["version"]
    assert strongroom.__version__ == version == metadata("strongroom")["Version"]
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    ours = [p for p in lock["package"] if p["name"].startswith("strongroom")]
    assert {p["version"] for p in ours} == {version}
    assert len(ours) == 2


def test_metadata():
    data = metadata("strongroom")
    assert data["License-Expression"] == "Apache-2.0 OR MIT"
    assert set(data.get_all("License-File")) == {
        "LICENSE",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "THIRD-PARTY-LICENSES",
    }
    assert data["Requires-Python"] == ">=3.11"
    assert {"postgres", "aws", "vault", "bench", "test", "all"} <= set(
        data.get_all("Provides-Extra")
    )
    for minor in (11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in data.get_all("Classifier")
    always = [line for line in requires("strongroom") if "extra ==" not in line]
    assert {re.split(r"[^a-z]", line)[0] for line in always} == {"click", "cryptography", "rich"}


def test_console_script():
    (script,) = entry_points(group="console_scripts", name="strongroom")
    assert callable(script.load())


def test_typed():
    package = Path(strongroom.__file__).parent
    assert (package / "py.typed").exists()
    assert (package / "_native.pyi").exists()


def test_fuzz_targets_are_outside_the_workspace():
    assert CARGO["workspace"]["exclude"] == ["rust/fuzz"]
    assert "rust/fuzz" not in CARGO["workspace"]["members"]
    fuzz = tomllib.loads((ROOT / "rust" / "fuzz" / "Cargo.toml").read_text())
    names = {target["name"] for target in fuzz["bin"]}
    assert names == {path.stem for path in tracked("rust/fuzz/fuzz_targets/*.rs")}
    assert all((ROOT / "rust" / "fuzz" / "seeds" / name).is_dir() for name in names)


def test_fuzz_fixtures_are_what_the_independent_writer_makes():
    place = ROOT / "rust" / "fuzz" / "fixtures" / "make.py"
    spec = importlib.util.spec_from_file_location("fuzz_fixtures", place)
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    messages = make.fixtures()
    for name, message in messages.items():
        assert (make.FUZZ / "fixtures" / f"{name}.bin").read_bytes() == message
    for name, seed in make.seeds(messages).items():
        assert (make.FUZZ / "seeds" / name).read_bytes() == seed


def test_licences_of_others_are_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "third_party.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_source_distribution(tmp_path):
    maturin = Path(sys.executable).with_name("maturin")
    done = subprocess.run(
        [maturin, "sdist", "--out", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {
        "Cargo.lock",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "THIRD-PARTY-LICENSES",
        "PKG-INFO",
        "README.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "Makefile",
        "rust/core/FORMAT.md",
        "rust/core/Cargo.toml",
        "rust/python/Cargo.toml",
    }
    wanted |= {
        str(path.relative_to(ROOT))
        for path in tracked(
            "python/**/*.py",
            "python/**/*.pyi",
            "python/**/*.json",
            "python/**/py.typed",
            "rust/core/src/**/*.rs",
            "rust/core/tests/*.rs",
            "rust/python/src/**/*.rs",
            "rust/fuzz/fuzz_targets/*.rs",
            "tests/**/*.py",
            "tests/vectors/**/*.json",
            "scripts/*",
            "docs/*.md",
        )
    }
    assert wanted - names == set()
    junk = re.compile(r"\.so$|\.pyc$|__pycache__|^target/|\.venv|/corpus/|/artifacts/|\.db$")
    assert [name for name in names if junk.search(name)] == []


# Rules of the source tree


def test_unsafe_rust_is_where_it_may_be():
    allowed = ("rust/core/src/secret", "rust/python/src/buf")
    for path in tracked("rust/core/**/*.rs", "rust/python/**/*.rs"):
        name = str(path.relative_to(ROOT))
        if name.startswith(allowed):
            continue
        code = re.sub(r"//.*", "", path.read_text())
        assert not re.search(r"\bunsafe\s*(\{|fn|impl|extern|trait)", code), name


def test_the_fuzz_crate_shares_what_lint_compiles():
    """Cargo shares no profile between workspaces: else C code is compiled twice, for minutes."""
    own, fuzz = (
        tomllib.loads((ROOT / path).read_text())["profile"]["dev"]
        for path in ("Cargo.toml", "rust/fuzz/Cargo.toml")
    )
    assert own == fuzz


def test_no_file_is_longer_than_one_can_read():
    for path in tracked("python/**/*.py", "rust/*/src/**/*.rs", "scripts/*"):
        lines = len(path.read_text().partition("#[cfg(test)]")[0].splitlines())
        assert lines <= 450, f"{path.relative_to(ROOT)} has {lines} lines"


def test_what_tests_share_is_in_no_file_of_tests():
    """It has a module named for what it is: whoever changes a test changes that test alone."""
    for path in tracked("tests/**/*.py"):
        found = re.findall(r"^ *(?:from|import) (test_\w+)", path.read_text(), re.M)
        assert found == [], f"{path.relative_to(ROOT)} imports {found[0]}"


def test_links_of_the_pages_lead_somewhere():
    for page in tracked("*.md", "docs/**/*.md", "rust/core/*.md"):
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if not link.startswith(("http:", "https:", "mailto:")):
                assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_of_docs_is_in_its_index():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in tracked("docs/*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


# README


def fenced(kind: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    return [text for name, text in blocks if name == kind]


def test_the_readme_example_runs(tmp_path):
    (program,) = fenced("python")
    statements = [line for line in program.splitlines() if line and not line.startswith("from ")]
    assert len(statements) == 5
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_commands_run(tmp_path):
    (program,) = (block for block in fenced("sh") if "strongroom init" in block)
    letters = tmp_path / "letters" / "old"
    letters.mkdir(parents=True)
    (letters / "a.txt").write_text("a letter\n")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_DATA_HOME": str(tmp_path / "data"),
    }
    for name in ("STRONGROOM_STORE", "STRONGROOM_MASTER"):
        environment.pop(name, None)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", program],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "back" / "old" / "a.txt").read_text() == "a letter\n"
    assert (tmp_path / "letters.enc" / "old" / "a.txt.srm").exists()
    assert (tmp_path / "data" / "strongroom" / "keys.db").exists()


def test_the_readme_shows_the_demo_s_output():
    (output,) = (block for block in fenced("") if "demo:" in block)
    steps = [line.split()[0] for line in output.splitlines() if line]
    assert steps == [
        *("tree", "init", "encrypt", "verify", "rotate", "rewrap", "decrypt", "compare"),
        "demo:",
    ]
    assert re.search(r"^demo: [\d,]+ files, [\d,]+ bytes, identical$", output, re.M)


# Other interpreters


@pytest.mark.parametrize("version", interpreters())
def test_the_extension_loads_in_every_cpython_here(version):
    # One build for the stable ABI. Subinterpreters are refused where CPython asks for it (3.12).
    program = """
import importlib, sys
import strongroom
secure = strongroom.SecureEncryption(strongroom.generate_key())
assert secure.decrypt(secure.encrypt(b"x" * 100_000)) == b"x" * 100_000
if sys.version_info >= (3, 12):
    name = "_xxsubinterpreters" if sys.version_info < (3, 13) else "_interpreters"
    interpreters = importlib.import_module(name)
    other = interpreters.create()
    failed = interpreters.run_string(other, '''
try:
    import strongroom._native
except ImportError as error:
    assert "subinterpreter" in str(error), error
else:
    raise AssertionError("imported")
''')
    assert failed is None, failed
    interpreters.destroy(other)
"""
    done = subprocess.run(
        [interpreters()[version], "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT / "python"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
