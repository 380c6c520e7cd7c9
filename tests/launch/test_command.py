"""The command: help that teaches, quickly, and bad use that ends in one line and exit code 2."""

import os
import subprocess
import sys

import pytest

from castor.launch import command


def test_help_imports_nothing_heavy():
    program = "import sys, castor.launch.command as c; c.main(['--help']); print(sorted({'tensorflow', 'apache_beam', 'jax', 'numpy', 'seqio'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"
    for row in command.SUBCOMMANDS:
        assert row.name in output and row.summary.split()[0] in output


@pytest.mark.parametrize("row", command.SUBCOMMANDS, ids=lambda row: row.name)
def test_every_subcommand_names_its_gin_files_and_three_examples(row, capsys):
    from castor.tasks import configuration

    assert command.main([row.name, "--help"]) == 0
    output = capsys.readouterr().out
    for name in row.gin_files:
        assert name in " ".join(output.split())
        assert configuration.find_file(name).is_file()
    assert len(row.examples) == 3
    for example in row.examples:
        assert example in output and example.startswith(f"castor {row.name}")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["trian"], "Did you mean castor train?"),
        (["run", "gin/recipes/raal.gin"], "recipes/real.gin"),
        (["demo", "--gin.TRAIN_STEP=3", "--dry_run"], "Did you mean TRAIN_STEPS"),
        (["demo", "--gin.TRAIN_STEPS", "--dry_run"], "has no value"),
        (["demo", "--no_such_flag"], "--no_such_flag"),
        (["demo", "--only=wep"], "Its stages: raw, web"),
    ],
)
def test_bad_use_is_one_line_and_exit_code_2(argv, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("castor: error: ") and expected in lines[0]


def test_traceback_is_shown_when_asked_for(capsys):
    assert command.main(["trian", "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_module_runs_from_anywhere(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(command.__file__).rsplit("/launch/", 1)[0]}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "castor.launch.command", "--version"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.startswith("castor ")
