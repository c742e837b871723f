import pytest
from report.small_folders import raw_folder
from tiny_study import use_home

from graphnn_unet.commands.report import main


def test_the_page_and_its_size_are_told(tmp_path, monkeypatch, capsys):
    home = use_home(tmp_path / "home", monkeypatch)
    raw_folder(home / "raw", {"a": {}, "b": {}})
    target = tmp_path / "r.html"
    assert main(["Small", "-o", str(target), "--cases", "1", "-np", "0"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"report: {target} (")
    assert target.read_text(encoding="utf-8").count("-image'>") == 1


def test_what_is_no_source_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    use_home(tmp_path / "home", monkeypatch)
    assert main([str(tmp_path), "-o", str(tmp_path / "r.html")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert "Give one of these" in lines[0]


@pytest.mark.parametrize("flags", [["--cases", "-1"], ["--megabytes", "0"], ["--cases", "x"]])
def test_limits_are_checked(flags, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["Small", *flags])
    assert flags[0] in capsys.readouterr().err
