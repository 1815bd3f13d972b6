"""The command line without a store: start-up, help, usage, completion, output."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
import strongroom
from cli_runner import COMMAND, Cli, check_schema, imported, schema, schema_errors
from strongroom.cli import exitcodes, options, output
from strongroom.cli.app import LazyGroup, cli

COMMANDS = list(cli.list_commands(click.Context(cli)))


@pytest.fixture
def run(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def test_version(run: Cli) -> None:
    assert run.ok("--version").text == f"strongroom {strongroom.__version__}\n"


def test_version_imports_no_parser(run: Cli) -> None:
    found = imported(run, "--version")
    assert "strongroom.cli" in found
    assert not {"click", "typing", "sqlite3", "hashlib"} & found
    # 35 as this was written; the bench has the time that they take.
    assert len(found) < 50


def test_decrypting_imports_what_it_needs(run: Cli) -> None:
    (run.folder / "a").write_bytes(b"text")
    run.ok("init", "--master", "file:master.key")
    run.ok("encrypt", "a")
    found = imported(run, "decrypt", "-q", "a.srm", "-o", "b")
    assert {"click", "sqlite3", "strongroom.keys", "strongroom.cli.data"} <= found
    # OpenSSL takes 6 ms to load, and what may have been meant by -o another 4.
    assert not {"_hashlib", "hashlib", "hmac", "difflib"} & found
    assert (run.folder / "b").read_bytes() == b"text"


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["encrypt"]])
def test_start_up_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from strongroom.cli.app import run\n"
        f"run({arguments!r})\n"
        "heavy = {'rich', 'sqlite3', 'cryptography', 'importlib.metadata', 'dataclasses',\n"
        "         'logging', 'subprocess', 'json', 'numpy'}\n"
        "sys.exit(f'imported: {heavy & sys.modules.keys()}' if heavy & sys.modules.keys() else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_commands_load_when_called() -> None:
    program = (
        "import sys\n"
        "from strongroom.cli.app import run\n"
        "run(['--help'])\n"
        "print(sorted(n for n in sys.modules if n.startswith('strongroom.cli')), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    for name in ("data", "keys", "doctor", "init", "inspect", "passphrase"):
        assert f"strongroom.cli.{name}" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_the_flags_of_all(run: Cli, name: str) -> None:
    group = cli.get_command(click.Context(cli), name)
    assert isinstance(cli, LazyGroup)
    assert group is not None
    nested = isinstance(group, click.Group)
    names = [(name, sub) for sub in group.commands] if nested else [(name,)]  # type: ignore[attr-defined]
    for words in names:
        text = run.ok(*words, "--help").text
        for flag in ("--json", "--debug", "--quiet"):
            assert flag in text, words


def test_help_lists_all_commands(run: Cli) -> None:
    text = run.ok("--help").text
    for name in COMMANDS:
        assert f"  {name} " in text
    expected = (
        "init master keys store encrypt decrypt verify rewrap slots hsm db inspect audit doctor "
        "bench completion"
    )
    assert expected.split() == COMMANDS


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["--no-such-option"],
        ["encrypt"],
        ["encrypt", "--no-such-option", "x"],
        ["encrypt", "x", "-j", "0"],
        ["encrypt", "x", "-j", "many"],
        ["encrypt", "-r", "x"],
        ["encrypt", "-r", "x", "-o", "-"],
        ["encrypt", "-r", "-", "-o", "y"],
        ["encrypt", "-", "x"],
        ["encrypt", ""],
        ["encrypt", "x", "--suffix", ""],
        ["encrypt", "x", "--suffix", "/y"],
        ["encrypt", "-r", "x", "-o", "y", "--suffix", ""],
        ["decrypt", "-r", "x", "-o", "y", "--suffix", "a/b"],
        ["encrypt", "x", "y", "-o", "not-a-directory"],
        ["encrypt", "a/x", "b/x", "-o", "."],
        ["encrypt", "x", "--associated-data", "a", "--associated-data-file", "b"],
        ["encrypt", "x", "--associated-data", "a" * 65_536],
        ["encrypt", "x", "-p", "--passphrase-file", "a", "--passphrase-fd", "0"],
        ["encrypt", "-", "-p", "--passphrase-fd", "0"],
        ["encrypt", "x", "-p"],
        ["decrypt", "x"],
        ["decrypt", ".srm"],
        ["decrypt", "x.srm", "--suffix", ".age"],
        ["encrypt", "-r", "a", "b/../a", "-o", "x"],
        ["encrypt", "-j", "1025", "x"],
        ["rewrap", "-"],
        ["keys"],
        ["keys", "retire"],
        ["keys", "no-such"],
        ["init"],
        ["init", "--master", "vault-of-nobody:x"],
        ["init", "--store", "mysql://host/keys", "--master", "file:k"],
        ["keys", "list", "--store", "mysql://host/keys"],
        ["completion", "tcsh"],
    ],
    ids=lambda words: " ".join(words)[:60] or "nothing",
)
def test_usage_is_exit_code_2(run: Cli, arguments: list[str]) -> None:
    result = run.run(*arguments)
    assert result.code == exitcodes.USAGE, result.stderr
    assert result.stdout == b""
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("words", [[], ["keys"], ["slots"]], ids=" ".join)
def test_a_group_without_a_command_shows_its_help(run: Cli, words: list[str]) -> None:
    result = run.fails(exitcodes.USAGE, *words)
    assert result.stdout == b""
    assert "\nCommands:\n" in result.stderr
    assert "\\n" not in result.stderr


def test_a_file_that_can_not_be_read_is_no_usage_error() -> None:
    # Whether it can is for the library to find: one such file does not end a command over many.
    assert not options.PATH.readable
    assert not options.PATH.exists


def test_usage_error_in_json(run: Cli) -> None:
    result = run.fails(exitcodes.USAGE, "encrypt", "--json", "--no-such-option")
    [error] = result.objects
    assert error["type"] == "error"
    assert error["code"] == 2
    assert "--no-such-option" in error["message"]
    assert "Usage: strongroom encrypt" in result.stderr


def test_json_after_two_dashes_is_a_file(run: Cli) -> None:
    assert run.run("decrypt", "--", "--json").stdout == b""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(run: Cli, shell: str) -> None:
    script = run.ok("completion", shell).text
    assert "_STRONGROOM_COMPLETE" in script
    [item] = run.ok("completion", shell, "--json").objects
    assert item["script"].rstrip("\n") == script.rstrip("\n")


def test_bash_accepts_the_completion_and_completes(run: Cli) -> None:
    folder = Path(COMMAND[0]).parent
    program = (
        'eval "$(strongroom completion bash)"\n'
        "COMP_WORDS=(strongroom re) COMP_CWORD=1\n"
        "_strongroom_completion strongroom\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    env = {**run.env, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, env=env)
    assert done.stdout.split() == ["rewrap"], done.stderr


def test_reader_of_stdout_who_leaves_is_no_traceback(run: Cli) -> None:
    with run.start("completion", "bash") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == exitcodes.OTHER


def test_debug_shows_the_traceback(run: Cli) -> None:
    assert "Traceback" in run.run("verify", "not-there", "--debug").stderr


def test_python_dash_m(run: Cli) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "strongroom.cli", "--version"], capture_output=True, text=True
    )
    assert done.stdout == run.ok("--version").text


# -- the pieces ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name.txt", "plain name.txt"),
        ("Grüße 世界", "Grüße 世界"),
        ("new\nline", r"new\nline"),
        ("\x1b[2J", r"\x1b[2J"),
        (b"not \xff utf-8", r"not \xff utf-8"),
        ("\u202eright to left", r"\u202eright to left"),
        (Path("a\tb"), r"a\tb"),
    ],
)
def test_names_are_shown_and_not_obeyed(name: object, shown: str) -> None:
    assert output.printable(name) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (5 * 10**12, "5.0 TB"),
        (10**18, "1000.0 PB"),
    ],
)
def test_bytes_for_people(count: int, shown: str) -> None:
    assert output.human_bytes(count) == shown


def test_json_paths(capsys: pytest.CaptureFixture[str]) -> None:
    out = output.Output(json=True)
    out.record("item", path=b"a\xff", status="ok", target="b\nc")
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    found = json.loads(line)
    check_schema(found)
    assert found["path"] == "a\ufffd"
    assert found["path_base64"] == "Yf8="
    assert found["target"] == "b\nc"
    assert "target_base64" not in found


def test_the_schema_checker_can_fail() -> None:
    good = {
        "type": "item",
        "path": None,
        "status": "ok",
        "bytes_in": 1,
        "bytes_out": None,
        "key_ids": ["0" * 32],
        "kind": "envelope",
        "version": 2,
    }
    assert schema_errors(good, schema()) == []
    for change in (
        {"type": "thing"},
        {"status": "fine"},
        {"bytes_in": -1},
        {"bytes_in": "1"},
        {"bytes_in": True},
        {"key_ids": ["0" * 31]},
        {"path": 1},
        {"type": "doctor"},
        {"type": "error"},
    ):
        assert schema_errors({**good, **change}, schema()) != [], change
    assert schema_errors({k: v for k, v in good.items() if k != "kind"}, schema()) != []


def test_lazy_commands_are_where_the_table_says() -> None:
    for module, _ in cli.lazy.values():
        name, _, attribute = module.partition(":")
        assert isinstance(getattr(importlib.import_module(name), attribute), click.Command)


@pytest.mark.parametrize("variable", ["STRONGROOM_ENGINE", "STRONGROOM_THREADS"])
def test_a_wrong_environment_is_a_sentence(run: Cli, variable: str) -> None:
    run.env[variable] = "nonsense"
    for words in (["--version"], ["doctor"], ["inspect", sys.executable]):
        assert variable in run.fails(exitcodes.OTHER, *words).stderr
    run.ok("--help")
