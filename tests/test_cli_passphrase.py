"""Where passphrases come from: files, commands, descriptors, a terminal; never arguments."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from cli_runner import Cli, Terminal
from strongroom.cli import exitcodes
from strongroom.cli.exitcodes import CliError
from strongroom.cli.passphrase import MAX_PASSPHRASE, PassphraseSource

PHRASE = "correct horse battery staple"
PLAIN = b"plaintext " * 5000


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """No store anywhere: a passphrase needs none."""
    (tmp_path / "plain").write_bytes(PLAIN)
    (tmp_path / "phrase").write_text(PHRASE + "\n")
    return Cli(tmp_path)


def decrypted(cli: Cli, *source: object, **settings: object) -> bytes:
    return cli.ok("decrypt", "plain.srm", "-o", "-", *source, **settings).stdout


def sealed(cli: Cli) -> Cli:
    cli.ok("encrypt", "plain", "-p", "--passphrase-file", "phrase")
    return cli


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"x", "x"),
        (b"x\n", "x"),
        (b"x\r\n", "x"),
        (b"x\n\n", "x\n"),
        (b" x \n", " x "),
        ("Straße 🔐\n".encode(), "Straße 🔐"),
        (b"\xff\xfe\n", b"\xff\xfe"),
        (b"\0\n", "\0"),
        (b"x" * MAX_PASSPHRASE + b"\r\n", "x" * MAX_PASSPHRASE),
    ],
)
def test_one_newline_is_dropped(tmp_path: Path, written: bytes, read: str | bytes) -> None:
    path = tmp_path / "phrase"
    path.write_bytes(written)
    assert PassphraseSource(file=str(path)).get("?") == read
    with path.open("rb") as file:
        assert PassphraseSource(fd=file.fileno()).get("?") == read
        assert os.fstat(file.fileno()), "the descriptor stays open"
    assert PassphraseSource(command=f"cat '{path}'").get("?") == read


@pytest.mark.parametrize(
    "written", [b"", b"\n", b"\r\n", b"x" * (MAX_PASSPHRASE + 1), b"x" * 1_000_000]
)
def test_empty_or_too_long_is_usage(tmp_path: Path, written: bytes) -> None:
    path = tmp_path / "phrase"
    path.write_bytes(written)
    with path.open("rb") as file:
        for source in (
            PassphraseSource(file=str(path)),
            PassphraseSource(fd=file.fileno()),
            PassphraseSource(command=f"cat {path}"),
        ):
            with pytest.raises(CliError) as caught:
                source.get("?")
            assert caught.value.code == exitcodes.USAGE
            assert b"xx" not in str(caught.value).encode()


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(CliError, match="longer than"):
        PassphraseSource(file="/dev/zero").get("?")


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("false", exitcodes.OTHER, "exit status 1"),
        ("sh -c 'echo secret; exit 7'", exitcodes.OTHER, "exit status 7"),
        ("/nonexistent/program", exitcodes.NOT_FOUND, "/nonexistent/program"),
        ("unbalanced '", exitcodes.USAGE, "quotation"),
        (" ", exitcodes.USAGE, "no command"),
        ("true", exitcodes.USAGE, "empty"),
    ],
)
def test_a_command_that_fails(cli: Cli, command: str, code: int, said: str) -> None:
    result = cli.fails(code, "encrypt", "plain", "-p", "--passphrase-command", command)
    assert said in result.stderr
    assert "secret" not in result.stderr
    assert not (cli.folder / "plain.srm").exists()


def test_a_command_gets_no_stdin(cli: Cli) -> None:
    sealed(cli)
    # `cat` would eat the message, and take it for the passphrase.
    result = cli.fails(
        exitcodes.USAGE,
        *("decrypt", "-", "-p", "--passphrase-command", "cat"),
        input=(cli.folder / "plain.srm").read_bytes(),
    )
    assert "is empty" in result.stderr


def test_three_sources_one_passphrase(cli: Cli) -> None:
    sealed(cli)
    assert decrypted(cli, "--passphrase-file", "phrase") == PLAIN
    assert decrypted(cli, "--passphrase-command", f"echo '{PHRASE}'") == PLAIN
    read, write = os.pipe()
    os.write(write, PHRASE.encode())
    os.close(write)
    assert decrypted(cli, "--passphrase-fd", read, pass_fds=(read,)) == PLAIN
    os.close(read)
    assert decrypted(cli, "--passphrase-fd", 0, input=PHRASE.encode()) == PLAIN


def test_a_descriptor_that_is_none(cli: Cli) -> None:
    result = cli.fails(exitcodes.OTHER, "encrypt", "plain", "-p", "--passphrase-fd", "77")
    assert "Bad file descriptor" in result.stderr


def test_wrong_passphrase_is_13(cli: Cli) -> None:
    sealed(cli)
    (cli.folder / "plain").unlink()
    result = cli.fails(
        exitcodes.NOT_AUTHENTIC, "decrypt", "plain.srm", "--passphrase-command", "echo wrong"
    )
    assert "plain.srm" in result.stderr
    assert not (cli.folder / "plain").exists()
    assert not cli.leftovers()


def test_typed_and_filed_are_one_passphrase(cli: Cli) -> None:
    """A file may hold the decomposed form of what a keyboard gives composed."""
    (cli.folder / "phrase").write_bytes("Stra\u00dfe u\u0308ber".encode())
    sealed(cli)
    (cli.folder / "phrase").write_bytes("Stra\u00dfe \u00fcber\n".encode())
    assert decrypted(cli, "--passphrase-file", "phrase") == PLAIN


def test_no_option_takes_a_passphrase_itself(cli: Cli) -> None:
    for words in (["-p", PHRASE], ["--passphrase", PHRASE], [f"--passphrase={PHRASE}"]):
        result = cli.run("encrypt", *words, "plain", "-o", "x")
        assert result.code == exitcodes.USAGE, words


def test_in_no_list_of_processes_nor_environment(cli: Cli) -> None:
    """While the command runs, what others can see of it does not hold the passphrase."""
    read, write = os.pipe()
    os.set_inheritable(read, True)
    with cli.start(
        *("encrypt", "-", "-o", "out.srm", "-p", "--passphrase-fd", read),
        stdin=(data := os.pipe())[0],
        pass_fds=(read,),
    ) as process:
        os.write(write, PHRASE.encode())
        os.close(write)
        for name in ("cmdline", "environ"):
            assert PHRASE.encode() not in Path(f"/proc/{process.pid}/{name}").read_bytes()
        os.close(data[0])
        os.close(data[1])
        process.communicate(timeout=60)
    os.close(read)
    assert process.returncode == 0


# -- the terminal ----------------------------------------------------------------------------


def test_prompt_twice_for_a_new_one_and_once_for_an_old(cli: Cli) -> None:
    with Terminal(cli, "encrypt", "plain", "-p") as terminal:
        terminal.expect("Passphrase: ")
        assert not terminal.echoes()
        terminal.send(PHRASE + "\n")
        terminal.expect("Passphrase again: ")
        terminal.send(PHRASE + "\n")
        assert terminal.end() == 0
        assert PHRASE not in terminal.seen
    (cli.folder / "plain").rename(cli.folder / "before")
    with Terminal(cli, "decrypt", "plain.srm") as terminal:
        terminal.expect("Passphrase: ")
        terminal.send(PHRASE + "\n")
        assert terminal.end() == 0
        assert "again" not in terminal.seen
    assert (cli.folder / "plain").read_bytes() == PLAIN


def test_prompt_while_stdin_and_stdout_are_pipes(cli: Cli) -> None:
    sealed(cli)
    with (
        (cli.folder / "plain.srm").open("rb") as message,
        (cli.folder / "out").open("wb") as out,
        Terminal(cli, "decrypt", "-", "-p", stdin=message, stdout=out) as terminal,
    ):
        terminal.expect("Passphrase: ")
        terminal.send(PHRASE + "\n")
        assert terminal.end() == 0
    assert (cli.folder / "out").read_bytes() == PLAIN


@pytest.mark.parametrize(
    ("typed", "said"),
    [(["a\n", "b\n"], "not the same"), (["\n"], "no passphrase"), (["\x04"], "no passphrase")],
    ids=["different", "empty", "end of file"],
)
def test_what_is_typed_wrong_is_usage(cli: Cli, typed: list[str], said: str) -> None:
    with Terminal(cli, "encrypt", "plain", "-p") as terminal:
        for line in typed:
            terminal.expect("assphrase")
            terminal.expect(": ")
            terminal.send(line)
        assert terminal.end() == exitcodes.USAGE
        assert said in terminal.seen
        assert terminal.echoes()
    assert not (cli.folder / "plain.srm").exists()


def test_ctrl_c_at_the_prompt(cli: Cli) -> None:
    with Terminal(cli, "encrypt", "plain", "-p") as terminal:
        terminal.expect("Passphrase: ")
        terminal.send("half\x03")
        assert terminal.end() == exitcodes.INTERRUPTED
        assert terminal.echoes()
    assert not (cli.folder / "plain.srm").exists()


def test_ctrl_c_in_the_last_moment_before_waiting(cli: Cli, tmp_path: Path) -> None:
    """Where Python would look at it after the line only, which nobody goes on to type."""
    library = tmp_path / "late.so"
    source = Path(__file__).with_name("late_signal.c")
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
    subprocess.run(["gcc", *flags, "-o", library, source, "-ldl"], check=True)
    environment = cli.env | {"LD_PRELOAD": str(library)}
    with Terminal(cli, "encrypt", "plain", "-p", env=environment) as terminal:
        terminal.expect("Passphrase: ")
        assert terminal.end() == exitcodes.INTERRUPTED
        assert terminal.echoes()


def test_typed_bytes_that_are_no_text(cli: Cli) -> None:
    with Terminal(cli, "encrypt", "plain", "-p") as terminal:
        terminal.expect("Passphrase: ")
        os.write(terminal.fileno(), b"caf\xe9\n")
        assert terminal.end() == exitcodes.USAGE
        assert "what was typed is not utf-8" in terminal.seen.lower()
        assert terminal.echoes()


def test_without_a_terminal_it_is_usage(cli: Cli) -> None:
    for words in (["encrypt", "plain", "-p"], ["init"]):
        result = cli.fails(exitcodes.USAGE, *words)
        assert "--passphrase-file" in result.stderr
    sealed(cli)
    cli.fails(exitcodes.USAGE, "decrypt", "plain.srm", "-o", "x")


def test_a_terminal_that_nobody_looks_at_is_not_asked(cli: Cli) -> None:
    """With stdin and stderr elsewhere it is a script, which must not hang."""
    with (
        (cli.folder / "said").open("wb") as said,
        Terminal(cli, "encrypt", "plain", "-p", stdin=subprocess.DEVNULL, stderr=said) as terminal,
    ):
        assert terminal.end() == exitcodes.USAGE
    assert b"no terminal to ask on" in (cli.folder / "said").read_bytes()


def test_a_terminal_is_not_for_messages(cli: Cli) -> None:
    (cli.folder / "a").write_bytes(b"text")
    with Terminal(cli, "encrypt", "a", "-o", "-", "--passphrase-file", "a", "-p") as terminal:
        assert terminal.end() == 0
        assert "SR" in terminal.seen
    with Terminal(cli, "encrypt", "-", "--passphrase-file", "a", "-p") as terminal:
        assert terminal.end() == exitcodes.USAGE
        assert "not for a terminal" in terminal.seen
