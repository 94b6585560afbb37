"""The scripts in runs/ call commands that there are, once each, and go on after one that failed."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from limelm.recipes import load_recipe
from tests.commands import parse

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(ROOT.glob("runs/*.sh"))
PARTS = {"laptop": ["seeds", "arithmetic"], "gpu": ["bench", "small", "synthetic", "attach"]}
STUB = """#!/usr/bin/env bash
printf '%q ' "$@" >> "$STUB_LOG"; echo >> "$STUB_LOG"
[[ " $* " != *" $STUB_FAILS "* ]]
"""

pytestmark = pytest.mark.skipif(
    not shutil.which("bash") or not shutil.which("timeout"), reason="needs bash and timeout"
)


@pytest.fixture
def start(tmp_path):
    """Starts a script with a stub for limelm or Python; returns what became of it, and the commands that it called."""
    stub, log = tmp_path / "stub", tmp_path / "log"
    stub.write_text(STUB)
    stub.chmod(0o755)

    def run(script, *parts, fails="-", **settings):
        log.write_text("")
        folders = {"RUNS": str(tmp_path / "runs"), "RESULTS": str(tmp_path / "results")}
        tools = {"LIMELM": str(stub), "PYTHON": str(stub), "STUB_LOG": str(log), "STUB_FAILS": fails, "LIMIT": "100000"}
        done = subprocess.run(
            ["bash", ROOT / "runs" / f"{script}.sh", *parts],
            env={"PATH": os.environ["PATH"], **tools, **folders, **settings},
            capture_output=True,
            text=True,
        )
        calls = [shlex.split(line) for line in log.read_text().splitlines()]
        return done, [call for call in calls if call[0] != "-c"]  # which asks for the device

    return run


def of_limelm(calls):
    """The arguments of the calls of limelm."""
    return [call[2:] if call[:2] == ["-m", "limelm"] else call for call in calls if call[:2] != ["-m", "pytest"]]


@pytest.mark.parametrize("script", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_a_script_stops_at_mistakes_and_is_parsed(script):
    assert script.stem in {*PARTS, "studies"} and os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text(encoding="utf-8")
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("script", PARTS)
def test_without_a_part_all_are_run_and_every_command_is_taken(script, start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("tokens", "base", "base-tokens"):
        Path(folder).mkdir()
    done, calls = start(script)
    assert done.returncode == 0, done.stderr
    commands = of_limelm(calls)
    outs = [(options.command, str(options.out)) for options in map(parse, commands)]
    assert len({out for _, out in outs}) == len(outs)  # a folder is of one run
    assert len(outs) >= 2 and {command for command, _ in outs} <= {"reproduce", "bench"}
    one_by_one = []
    for part in PARTS[script]:
        runs = str(tmp_path / part)
        _, called = start(script, part, RUNS=runs)
        assert called
        one_by_one += [[word.replace(runs, str(tmp_path / "runs")) for word in call] for call in called]
    assert one_by_one == calls


@pytest.mark.parametrize("script", PARTS)
def test_a_part_that_there_is_not_is_refused_before_anything_runs(script, start, tmp_path):
    done, calls = start(script, PARTS[script][0], "smal")
    assert (done.returncode, calls) == (2, [])
    assert done.stderr == f"runs/{script}.sh: smal is unknown; allowed: {', '.join(PARTS[script])}\n"
    assert not (tmp_path / "runs").exists()


def test_a_limelm_that_is_not_there_is_named(start):
    done, _ = start("laptop", "seeds", LIMELM="/nowhere/limelm")
    assert (done.returncode, done.stderr) == (2, "runs/laptop.sh: no /nowhere/limelm; make setup installs it\n")


def test_a_python_that_sees_no_device_is_refused_before_anything_runs(start, tmp_path):
    done, calls = start("gpu", fails="-c")
    assert (done.returncode, calls) == (2, [])
    assert done.stderr == f"runs/gpu.sh: {tmp_path / 'stub'} sees no CUDA device; PYTHON names another\n"
    assert not (tmp_path / "runs").exists()


def test_started_again_only_what_failed_is_repeated(start, tmp_path):
    done, calls = start("gpu", "bench", "synthetic", fails="--shape deep")
    assert done.returncode == 1
    assert done.stderr == "not complete: deep deep-triton; start it again, or read above what failed\n"
    assert len(calls) == 8  # the tests, four benchmarks and three tasks
    done, calls = start("gpu", "bench", "synthetic")
    assert done.returncode == 0 and [Path(call[call.index("--out") + 1]).name for call in calls] == [
        "deep",
        "deep-triton",
    ]
    assert start("gpu", "bench", "synthetic")[1] == []


def test_the_time_is_shared_out_and_what_is_not_used_passes_on(start):
    done, calls = start("gpu")
    shares = [int(line.split(" seconds: ")[0].split()[-1]) for line in done.stdout.splitlines() if line[:2] == "=="]
    assert len(shares) == len(calls) > 8
    assert shares[0] < 25_000 and shares[-1] > 90_000  # of 100,000


def test_nothing_is_begun_when_the_time_is_over(start):
    done, calls = start("gpu", "synthetic", LIMIT="0")
    assert (done.returncode, calls) == (1, [])
    assert done.stderr == "not complete: arithmetic-5 arithmetic-6 prosqa; start it again, or read above what failed\n"


def test_tables_and_figures_alone_become_results(start, tmp_path):
    for name in ("small/figures/loss.png", "small/figures/loss.svg", "small/report.html", "small/seed-42/kv/own.csv"):
        (tmp_path / "runs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / name).write_text("written by a run")
    start("gpu", "small")
    found = [path.relative_to(tmp_path / "results") for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert [str(path) for path in found] == ["small/figures/loss.png"]


def kept_study(start, tmp_path, text="a.txt b.txt", study="rivals", **settings):
    return start("studies", study, TEXT=text, KEPT=str(tmp_path / "kept"), **settings)


def training_of(start, tmp_path, study):
    """The command with which a study trains, once its text is prepared."""
    (tmp_path / "text.txt").touch()
    done, calls = kept_study(start, tmp_path, str(tmp_path / "text.txt"), study)
    assert done.returncode == 0, done.stderr
    (tmp_path / "runs" / "tokens").mkdir()
    return parse(of_limelm(calls)[-1])


def test_deeper_rivals_are_the_best_few_at_two_rates(start, tmp_path):
    reproduce = training_of(start, tmp_path, "deeper")
    assert list(map(str, reproduce.recipes)) == ["rivals", "rivals-16", "rivals-32", "rivals-64"]
    recipe = load_recipe("rivals-16", reproduce.fields)
    assert set(reproduce.models) <= set(recipe.compare) and (len(reproduce.models), reproduce.seeds) == (7, 1)
    assert set(recipe.learning_rates) <= set(load_recipe("rivals").learning_rates)


@pytest.mark.skipif(not shutil.which("xz"), reason="needs xz")
def test_deeper_rivals_of_eight_layers_are_those_of_rivals(start, tmp_path):
    trained = tmp_path / "runs" / "rivals" / "learning-rate-0.006" / "seed-42" / "hc"
    trained.mkdir(parents=True)
    (trained / "result.json").write_text("{}")
    start("studies", "keep", KEPT=str(tmp_path / "kept"))
    training_of(start, tmp_path, "deeper")
    assert (tmp_path / "runs" / "deeper" / trained.relative_to(tmp_path / "runs") / "result.json").exists()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["rivals"]
    shutil.rmtree(tmp_path / "kept")
    shutil.rmtree(trained)
    start("studies", "keep", KEPT=str(tmp_path / "kept"))  # one that the study has trained itself
    kept = [str(path.relative_to(tmp_path / "kept")) for path in (tmp_path / "kept").rglob("*.xz")]
    assert kept == ["rivals/learning-rate-0.006-seed-42-hc.tar.xz"]


def test_the_papers_rate_is_not_searched(start, tmp_path):
    reproduce = training_of(start, tmp_path, "paper-rate")
    assert (reproduce.models, reproduce.out) == (["llama", "static"], tmp_path / "runs" / "paper-rate")
    recipe = load_recipe("depth-32", reproduce.fields)
    assert (recipe.training.learning_rate, recipe.learning_rates) == (1e-3, ())


@pytest.mark.parametrize("study", ["rivals", "depth", "english"])
def test_a_study_prepares_its_text_and_trains(study, start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = [tmp_path / name for name in ("a.txt", "b.txt")]
    for text in texts:
        text.touch()
    done, calls = kept_study(start, tmp_path, f"{tmp_path}/*.txt", study, MODELS="llama,static")
    assert done.returncode == 0, done.stderr
    (tmp_path / "runs" / "tokens").mkdir()
    prepare, reproduce = map(parse, of_limelm(calls))
    assert (prepare.command, sorted(map(Path, prepare.sources))) == ("data", texts)
    assert all(str(recipe).startswith(study) for recipe in reproduce.recipes)
    assert reproduce.models == ["llama", "static"]
    assert str(reproduce.data) == str(prepare.out) and reproduce.out == tmp_path / "runs" / study
    done, _ = start("studies", "rivals")
    assert (done.returncode, done.stderr) == (2, 'runs/studies.sh: TEXT names no files, as in TEXT="wiki/*.jsonl.gz"\n')


@pytest.mark.skipif(not shutil.which("xz"), reason="needs xz")
def test_a_study_goes_on_from_results_and_logs_of_what_was_finished(start, tmp_path):
    folder = tmp_path / "runs" / "rivals" / "learning-rate-0.001" / "seed-42"
    finished = {"run.json": "r", "result.json": "{}", "metrics.jsonl": "m", "model.safetensors": "w"}
    for name, content in finished.items():
        (folder / "kv").mkdir(parents=True, exist_ok=True)
        (folder / "kv" / name).write_text(content)
    (folder / "hc").mkdir()
    (folder / "hc" / "diverged.json").write_text("{}")
    (folder / "static").mkdir()
    (folder / "static" / "run.json").write_text("not finished")
    (tmp_path / "runs" / "rivals" / "run.json").write_text('{"format": 2}')
    done, _ = start("studies", "keep", KEPT=str(tmp_path / "kept"))
    assert done.returncode == 0, done.stderr
    names = [*(f"learning-rate-0.001-seed-42-{model}.tar.xz" for model in ("hc", "kv")), "run.tar.xz"]
    assert sorted(path.name for path in (tmp_path / "kept" / "rivals").iterdir()) == names
    shutil.rmtree(tmp_path / "runs")
    assert kept_study(start, tmp_path)[0].returncode == 0
    assert (folder.parents[1] / "run.json").read_text() == '{"format": 2}'  # without it limelm refuses the folder
    files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert files == {"hc/diverged.json": "{}"} | {f"kv/{name}": finished[name] for name in list(finished)[:3]}


def test_models_of_each_seed_are_looked_into_at_their_best_rates(start, tmp_path):
    depth, tokens = tmp_path / "runs" / "depth" / "depth-32", tmp_path / "runs" / "tokens"
    tokens.mkdir(parents=True)
    best = {"llama": "learning-rate-0.006", "static": "learning-rate-0.0025"}
    trained = [f"{rate}/seed-42/{model}" for rate in best.values() for model in (*best, "kv")]
    trained += [f"{rate}/seed-43/{model}" for model, rate in best.items()]
    for folder in trained:
        (depth / folder).mkdir(parents=True)
        (depth / folder / "model.safetensors").touch()
    (tmp_path / "runs" / "inside" / "seed-42").mkdir(parents=True)  # the stub makes none
    done, calls = start("studies", "inside")
    assert done.stderr == f"runs/studies.sh: no weights in {depth} of seed-44: nothing to look into\n"
    assert done.returncode == 0
    *analyses, summed_up = calls
    for seed, options in zip(("seed-42", "seed-43"), map(parse, of_limelm(analyses)), strict=True):
        assert options.checkpoints == [str(depth / rate / seed / model) for model, rate in best.items()]
        assert options.out == tmp_path / "runs" / "inside" / seed
    assert summed_up[0] == "runs/over_seeds.py" and summed_up[-2:] == ["--out", f"{tmp_path}/runs/inside/over-seeds"]


def test_the_scores_of_each_seed_are_made_from_its_weights_and_kept(start, tmp_path):
    runs = tmp_path / "runs"
    for folder in ("seed-42/static", "seed-42/llama", "seed-43/llama"):
        (runs / "english" / folder).mkdir(parents=True)
    for folder in ("seed-42/static", "seed-42/llama"):
        (runs / "english" / folder / "model.safetensors").touch()
    (runs / "tokens").mkdir()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "text.txt").touch()
    wanted = {"BENCHMARKS": str(tmp_path / "benchmarks"), "DOMAINS": f"a={tmp_path}/text.txt b={tmp_path}/text.txt"}
    done, calls = start("studies", "measure", KEPT=str(tmp_path / "kept"), **wanted)
    assert done.returncode == 0, done.stderr
    scored, analyzed = map(parse, of_limelm(calls))
    models = [str(runs / "english" / "seed-42" / name) for name in ("llama", "static")]
    assert scored.checkpoints == analyzed.checkpoints == models
    assert len(scored.domain) == 2 and scored.out == runs / "scores" / "seed-42"
    done, _ = start("studies", "measure", DOMAINS="", KEPT=str(tmp_path / "kept"))
    assert done.returncode == 2 and done.stderr.startswith("runs/studies.sh: measure needs BENCHMARKS and DOMAINS")
    (runs / "scores" / "seed-42").mkdir(parents=True)
    (runs / "scores" / "seed-42" / "evaluation.json").write_text("{}")
    start("studies", "keep", KEPT=str(tmp_path / "kept"))
    assert [path.name for path in (tmp_path / "kept" / "scores").iterdir()] == ["seed-42.tar.xz"]
