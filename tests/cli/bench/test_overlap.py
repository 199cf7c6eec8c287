"""`moe-jax bench overlap`: a profile's figures, per step, beside a plan's."""

import json

from support.profiles import write_profile

from moe_jax.cli.main import main


def plan(folder):
    times = dict.fromkeys(("compute_s", "matmul_s", "attention_s", "other_s", "comm_s"), 0.001)
    file = folder / "plan.json"
    total = times | {"total_s": 0.004, "exposed_comm_s": 0.002}
    file.write_text(json.dumps({"mode": "train", "step": {"total": total}}))
    return file


def lines_of(capsys):
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_measured_stands_beside_compiled(tmp_path, capsys):
    write_profile(tmp_path)
    file = tmp_path / "figures.json"
    words = ["--steps", "2", "--plan", str(plan(tmp_path)), "--json", str(file)]
    assert main(["bench", "overlap", str(tmp_path), *words]) == 0
    lines = lines_of(capsys)
    assert "matmul 0.025 50.0% 1" in lines
    assert "grouped matmul 0.0075 15.0%" in lines
    assert "exposed collectives 0.01 20.0% 2" in lines
    assert "all-to-all 1 0.0225 0.0175 0.005 77.8%" in lines
    assert lines[-1] == "products beside collectives take 1.50 x their time alone"
    figures = json.loads(file.read_text())
    assert (figures["measured"]["kind"], figures["compiled"]["total_s"]) == ("measured", 0.004)


def test_steps_are_those_of_the_runs_config(tmp_path, capsys):
    write_profile(tmp_path)
    (tmp_path / "config.toml").write_text("[train]\nprofile_steps = [3, 6]\n")
    assert main(["bench", "overlap", str(tmp_path)]) == 0
    assert any("1 devices, 4 steps" in line for line in lines_of(capsys))


def test_what_cannot_be_read_is_refused(tmp_path, capsys):
    assert main(["bench", "overlap", str(tmp_path)]) == 2
    assert "holds no profile" in capsys.readouterr().err
    assert main(["bench", "overlap", str(tmp_path), "--steps", "0"]) == 2
    assert "--steps (0) must be 1 or more" in capsys.readouterr().err
