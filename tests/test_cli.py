from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_module

import mnvision
from mnvision import cli
from mnvision.errors import UserError
from mnvision.overrides import config_groups, override_keys, quote, rewrite

ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "tools" / "train.py"


class Run(types.ModuleType):
    """Stands in for the modules of commands: keeps what each was called with, and the process as it was then."""

    def __init__(self):
        super().__init__("mnvision.run")
        self.calls = []
        self.act = lambda cfg: None
        for name in ("train", "evaluate", "predict"):
            setattr(self, name, lambda cfg, name=name: self.keep(name, cfg))

    def keep(self, name, cfg):
        self.calls.append((name, cfg, list(sys.argv), dict(os.environ)))
        return self.act(cfg)


CONF = Path(__file__).parents[1] / "conf"
EXPERIMENTS = ", ".join(sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))


@pytest.fixture
def run(monkeypatch):
    """The fake commands."""
    fake = Run()
    for name in ("run", "predicting"):
        monkeypatch.setitem(sys.modules, f"mnvision.{name}", fake)
        monkeypatch.setattr(mnvision, name, fake, raising=False)
    return fake


@pytest.fixture
def start(run, start):
    """Run the program with arguments and the fake commands: (exit status, stdout, stderr)."""
    return start


# from the command line to the configuration


@pytest.mark.parametrize(
    ("command", "function", "arguments"),
    [
        ("train", "train", []),
        ("eval", "evaluate", ["task.weights=x.pth"]),
        ("predict", "predict", ["task.weights=x.pth", "source=photos"]),
    ],
)
@pytest.mark.parametrize("as_script", [False, True])
def test_a_command_gets_plain_valid_values(run, start, tmp_path, command, function, arguments, as_script):
    (tmp_path / "x.pth").touch()  # named weights have to be there
    program = {"train": cli.main_train, "eval": cli.main_eval, "predict": cli.main_predict}[command]
    words = arguments if as_script else [command, *arguments]
    status, out, err = start(*words, "backbone.alpha=0.5", program=program if as_script else cli.main)
    assert (status, out, err) == (0, "", "")
    [(name, cfg, argv, environ)] = run.calls
    assert name == function
    assert type(cfg) is dict
    assert type(cfg["backbone"]) is dict
    assert type(cfg["optimizer"]["betas"]) is list
    assert cfg["backbone"]["alpha"] == 0.5
    assert cfg["overrides"] == [*(word.split("=")[0] for word in arguments), "backbone.alpha"]
    assert cfg["override_words"][-1] == "backbone.alpha=0.5"
    assert "hydra" not in cfg
    # a process that Lightning starts with sys.argv does the same
    assert argv == ["prog", *words, "backbone.alpha=0.5"]
    assert environ.get("HYDRA_FULL_ERROR", "0") == "0"


def test_nothing_is_written_beside_what_the_command_writes(start, tmp_path):
    assert start("train")[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_process_is_as_before(run, start, monkeypatch):
    def act(cfg):
        os.environ["LOCAL_RANK"] = "0"
        sys.argv.append("more")

    run.act = act
    assert start("train", "seed=1")[0] == 0
    assert "LOCAL_RANK" not in os.environ
    assert sys.argv == ["prog", "train", "seed=1"]


def test_groups_and_deletions(run, start):
    start(
        "train", "optimizer=adamw", "optimizer.amsgrad=true", "+experiment=paper_ssd300", "data=shapes", "~experiment"
    )
    start("train", "optimizer=adamw", "experiment=null", "++optimizer.amsgrad=true", "+seed=4")
    for _, cfg, *_ in run.calls[-1:]:
        assert cfg["optimizer"]["_target_"] == "torch.optim.AdamW"
        assert cfg["optimizer"]["amsgrad"] is True
        assert cfg["seed"] == 4
        assert cfg["overrides"] == ["optimizer", "experiment", "optimizer.amsgrad", "seed"]


def test_own_group_files(run, start, tmp_path):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "tiny.yaml").write_text("# @package _global_\nbackbone:\n  alpha: 0.25\n")
    assert start("train", "--config-dir", "mine", "experiment=tiny")[0] == 0
    assert run.calls[0][1]["backbone"]["alpha"] == 0.25


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("photos", "photos"),
        ("photos/*.jpg", "photos/*.jpg"),
        ("epoch=3, step=4.ckpt", "epoch=3, step=4.ckpt"),
        ("a (1).jpg", "a (1).jpg"),
        ("[ab]{c}.jpg", "[ab]{c}.jpg"),
        ('say "hi".jpg', 'say "hi".jpg'),
        ("'quoted already.jpg'", "quoted already.jpg"),
        ("2026", "2026"),
        ("1e5", "1e5"),
        ("true", "true"),
        ("naïve#1&2;3.jpg", "naïve#1&2;3.jpg"),
        ("run_${backbone.alpha}", "run_1.0"),
    ],
)
def test_a_path_may_have_any_signs(typed, expected):
    with initialize_config_module("mnvision.conf", version_base="1.3"):
        cfg = compose("predict", overrides=rewrite([f"source={typed}"], groups=[]))
    assert cfg.source == expected


def test_a_path_in_the_home_folder(run, start, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert start("train", "output_dir=~/run 1")[0] == 0
    assert run.calls[0][1]["output_dir"] == str(tmp_path / "home" / "run 1")


# wrong input


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["backbone.alfa=1"], "  backbone.alfa: unknown key; did you mean backbone.alpha?"),
        (["++backbone.alfa=1"], "  backbone.alfa: unknown key; did you mean backbone.alpha?"),
        (["+alpha=0.5"], "  alpha: unknown key; did you mean backbone.alpha?"),
        (["+typo=1"], "  typo: unknown key"),
        (["tsk=ssd"], "  tsk: unknown key; did you mean task?"),
        (["~backbone.alpha"], "  backbone.alpha: missing, expected a number > 0"),
        (["data=null"], "  data: missing, expected a section of keys; choose one with data=..."),
        (["seed.x=1"], "  seed: expected an integer >= 0, got {'x': 1}"),
        (["data=coco", "data.root=nowhere"], "  data.root: no such file or folder: {cwd}/nowhere"),
        (["resume=last.ckpt"], "  resume: no such file or folder: {cwd}/last.ckpt"),
    ],
)
def test_problems_of_the_configuration(run, start, tmp_path, arguments, expected):
    status, out, err = start("train", *arguments)
    expected = expected.replace("{cwd}", str(tmp_path))
    assert (status, out, err) == (1, "", f"error: 1 problem in the configuration:\n{expected}\n")
    assert run.calls == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["task=sdd"],
            "task=sdd: no such option, expected one of attributes, classify, distill, embed, faster_rcnn, geolocate, "
            "ssd; did you mean ssd?",
        ),
        (["optimizer=adm"], "optimizer=adm: no such option, expected one of adamw, rmsprop, sgd; did you mean adamw?"),
        (["experiment=x"], f"experiment=x: no such option, expected one of {EXPERIMENTS}"),
        (["foo"], "cannot read 'foo': expected KEY=VALUE; quote special signs in a value, as in 'KEY=\"a value\"'"),
        (["task.weights.x=a b=c"], "cannot read 'task.weights.x=a b=c': expected KEY=VALUE; quote special signs in a "
                                   "value, as in 'KEY=\"a value\"'"),
        (["hydra.ouput_subdir=x"], "hydra.ouput_subdir: unknown key of Hydra; did you mean output_subdir?"),
        (["+hydra.ouput_subdir=x"], "hydra.ouput_subdir: unknown key of Hydra; did you mean output_subdir?"),
        (["++hydra.job.nam=x"], "hydra.job.nam: unknown key of Hydra; did you mean name?"),
        (["~nothing"], "Could not delete from config. 'nothing' does not exist."),
    ],
)  # fmt: skip
def test_what_cannot_be_composed(run, start, tmp_path, arguments, expected):
    assert start("train", *arguments) == (1, "", f"error: {expected}\n")
    assert run.calls == []
    assert list(tmp_path.iterdir()) == []


def test_hydra_takes_its_own_free_keys(run, start):
    run.act = lambda cfg: None
    assert start("train", "+hydra.job.env_set.MNVISION_TEST=5")[0] == 0
    assert run.calls[0][3]["MNVISION_TEST"] == "5"


def test_several_values_need_a_sweep(start):
    status, _, err = start("train", "seed=1,2")
    assert status == 1
    assert err.startswith("error: Ambiguous value for argument 'seed=1,2'")
    assert "--multirun" in err


@pytest.mark.parametrize(
    "text", ["task:\n  alpha: [1\n", "defaults:\n  - overide /data: coco\n", "defaults:\n  - override /data: coko\n"]
)
def test_a_broken_file_of_the_user_is_no_bug_of_the_program(start, tmp_path, text):
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "bad.yaml").write_text(f"# @package _global_\n{text}")
    status, out, err = start("train", "--config-dir", "mine", "experiment=bad")
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_wrong_usage_is_status_2(start):
    assert start("trian") == (
        2,
        "",
        "error: unknown command 'trian', expected one of train, eval, predict, profile, tables, shards, "
        "search, verify; did you mean train?\n",
    )
    status, _, err = start("train", "--foo")
    assert status == 2
    assert "unrecognized arguments: --foo" in err


# while it runs


def failing(error, *, context=None):
    def act(cfg):
        try:
            if context is not None:
                raise context
        except BaseException:
            raise error  # noqa: B904  (as Lightning does)
        raise error

    return act


def test_an_error_of_the_user_is_one_message(run, start):
    run.act = failing(UserError("no picture in photos/"))
    assert start("train") == (1, "", "error: no picture in photos/\n")


@pytest.mark.parametrize("variable", ["MNVISION_TRACEBACK", "HYDRA_FULL_ERROR"])
def test_its_traceback_on_request(run, start, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    run.act = failing(UserError("no picture in photos/"))
    status, _, err = start("train")
    assert status == 1
    assert err.startswith("Traceback")
    assert "in act" in err
    assert err.endswith("error: no picture in photos/\n")


def test_an_error_in_a_data_worker_is_the_same_message(run, start):
    from torch._utils import ExceptionWrapper

    try:
        raise UserError("photos/1.jpg: cannot be read\ngive data.bad_images=skip")
    except UserError:
        wrapped = ExceptionWrapper(sys.exc_info(), where="in DataLoader worker process 0")
    run.act = lambda cfg: wrapped.reraise()
    assert start("train") == (1, "", "error: photos/1.jpg: cannot be read\ngive data.bad_images=skip\n")


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), ValueError("a bug"), KeyError("a bug")])
def test_a_bug_keeps_its_traceback(run, start, error):
    run.act = failing(error)
    with pytest.raises(type(error)) as raised:
        start("train")
    assert raised.value is error
    assert "act" in [entry.name for entry in raised.traceback]


def test_interruption(run, start):
    run.act = failing(KeyboardInterrupt())
    assert start("train") == (130, "", "interrupted\n")
    run.act = failing(SystemExit(1), context=KeyboardInterrupt())  # Lightning's way
    assert start("train") == (130, "", "interrupted\n")
    run.act = failing(SystemExit(3))
    assert start("train")[0] == 3


def test_log_lines_are_short(run, start):
    def act(cfg):
        logging.getLogger("mnvision.x").info("three %s", "words")
        logging.getLogger("mnvision.x").warning("careful")
        logging.getLogger("mnvision.x").debug("not shown")

    run.act = act
    _, out, err = start("train")
    assert out == ""
    first, second = err.splitlines()
    assert first[2] == first[5] == ":"
    assert first[8:] == " three words"
    assert second[8:] == " warning: careful"


def test_further_processes_are_quiet(run, start, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    run.act = lambda cfg: logging.getLogger("mnvision.x").warning("careful")
    assert start("train") == (0, "", "")


# several runs


def test_multirun(run, start, tmp_path):
    status, out, err = start("train", "--multirun", "optimizer=sgd,adamw", "backbone.alpha=0.5,", "seed=3")
    assert status == 1  # what Hydra cannot read
    assert "backbone.alpha=0.5," in err
    status, out, err = start("train", "--multirun", "optimizer=sgd,adamw", "seed=3")
    assert (status, out) == (0, "")
    values = [(cfg["optimizer"]["_target_"], cfg["seed"]) for _, cfg, *_ in run.calls]
    assert values == [("torch.optim.SGD", 3), ("torch.optim.AdamW", 3)]
    assert [line[9:] for line in err.splitlines()] == [
        "run 0 of the sweep: optimizer=sgd seed=3",
        "run 1 of the sweep: optimizer=adamw seed=3",
    ]
    # one folder for the sweep, in it one for each run
    [sweep] = (tmp_path / "runs" / "multirun").iterdir()
    assert [cfg["output_dir"] for _, cfg, *_ in run.calls] == [str(sweep / str(number)) for number in range(2)]
    assert [path.name for path in sweep.iterdir()] == ["multirun.yaml"]


def test_a_process_of_a_sweep_runs_its_own_job_alone(run, start, tmp_path):
    (tmp_path / "mine").mkdir()
    start("train", "-m", "--config-dir", "mine", "backbone.alpha=0.5,0.75", "output_dir=out put")
    for number, alpha in enumerate(("0.5", "0.75")):
        argv = run.calls[number][2]
        assert argv == [
            "prog",
            "train",
            "--config-dir",
            "mine",
            f"++backbone.alpha={alpha}",
            '++output_dir="out put"',
            f'++output_dir="{tmp_path}/out put/{number}"',
        ]
        assert start(*argv[1:])[0] == 0
        assert run.calls[-1][1]["backbone"]["alpha"] == float(alpha)
        assert run.calls[-1][1]["output_dir"] == f"{tmp_path}/out put/{number}"
    assert [path.name for path in (tmp_path / "out put").iterdir()] == ["multirun.yaml"]
    assert not (tmp_path / "runs").exists()


def test_a_search_improves_the_number_of_the_best_checkpoint(run, start, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    run.act = lambda cfg: {"val/map": 1 - abs(cfg["optimizer"]["lr"] - 0.3), "val/loss": 0.0}
    words = ("hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=3")
    assert start("train", "-m", *words, "optimizer.lr=choice(0.1,0.3,0.9)", "output_dir=search")[0] == 0
    tried = [cfg["optimizer"]["lr"] for _, cfg, *_ in run.calls]
    found = yaml.safe_load((tmp_path / "search" / "optimization_results.yaml").read_text())
    assert len(tried) == 3
    assert found["best_value"] == pytest.approx(max(1 - abs(lr - 0.3) for lr in tried))


def test_a_run_does_not_inherit_the_environment_of_the_one_before(run, start):
    run.act = lambda cfg: os.environ.update(LOCAL_RANK="0", WORLD_SIZE="2")
    start("train", "-m", "seed=1,2")
    assert ["LOCAL_RANK" in environ for *_, environ in run.calls] == [False, False]


def test_every_run_has_its_own_process_group(run, start, tmp_path):
    from torch import distributed

    def act(cfg):
        assert not distributed.is_initialized()
        address = f"file://{tmp_path}/group{cfg['seed']}"
        distributed.init_process_group("gloo", init_method=address, rank=0, world_size=1)

    run.act = act
    assert start("train", "-m", "seed=1,2")[0] == 0
    assert len(run.calls) == 2
    assert not distributed.is_initialized()


def test_all_runs_are_checked_before_the_first(run, start, tmp_path):
    status, out, err = start("train", "-m", "backbone.alpha=0.5,-1", "seed=1,2")
    assert (status, out) == (1, "")
    assert err == (
        "error: job backbone.alpha=-1,seed=1: 1 problem in the configuration:\n"
        "  backbone.alpha: expected a number > 0, got -1\n"
    )
    assert run.calls == []
    assert list(tmp_path.iterdir()) == []


def test_a_failing_run_ends_the_sweep(run, start):
    run.act = failing(UserError("no"))
    status, _, err = start("train", "-m", "seed=1,2")
    assert status == 1
    assert err.endswith("error: no\n")
    assert len(run.calls) == 1


# words


def test_help_and_version(start):
    status, out, err = start("--help")
    assert (status, err) == (0, "")
    assert all(f"\n  {command} " in out for command in ("train", "eval", "predict"))
    assert start()[1] == out
    assert start("--version") == (0, f"mnvision {mnvision.__version__}\n", "")


@pytest.mark.parametrize("command", ["train", "eval", "predict"])
def test_help_of_a_command_lists_groups_and_values(start, command):
    status, out, err = start(command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"mnvision {command}: ")
    assert "\noptimizer: adamw, rmsprop, sgd\n" in out
    assert "\n  matching_iou: 0.5\n" in out
    assert "Powered by" not in out


def test_showing_the_configuration(start):
    status, out, _ = start("--cfg", "job", "backbone.alpha=0.5", program=cli.main_train)
    assert status == 0
    assert "\n  alpha: 0.5\n" in out


def test_groups_are_the_folders_of_conf():
    assert config_groups() == ["backbone", "data", "experiment", "optimizer", "scheduler", "task", "trainer"]


@pytest.mark.parametrize(
    ("typed", "rewritten"),
    [
        ("a.b=1", "++a.b=1"),
        ("seed=1", "++seed=1"),
        ("+a.b=1", "++a.b=1"),
        ("++a.b=1", "++a.b=1"),
        ("~a.b", "~a.b"),
        ("task=ssd", "task=ssd"),
        ("+task=ssd", "task=ssd"),
        ("task=null", "~task"),
        ("task.name=x", "++task.name=x"),
        ("task/x=y", "task/x=y"),
        ("hydra.run.dir=x", "hydra.run.dir=x"),
        ("+hydra.x=1", "+hydra.x=1"),
        ("hydra/launcher=joblib", "hydra/launcher=joblib"),
        ("a=b=c", "++a=b=c"),
        ("a=[1,2]", "++a=[1,2]"),
        ("ckpt=a=b", '++ckpt="a=b"'),
        ("ckpt=null", "++ckpt=null"),
        ("ckpt='a'", "++ckpt='a'"),
        ("--cfg", "--cfg"),
        ("--config-dir=x", "--config-dir=x"),
        ("word", "word"),
    ],
)
def test_rewriting(typed, rewritten):
    assert rewrite([typed], groups=["task"]) == [rewritten]


def test_rewriting_keeps_sweeps():
    typed = ["-m", "a=1,2", "task=x,y", "b=range(1,3)", "ckpt=a.ckpt,b=1.ckpt", "source=glob(*)"]
    assert rewrite(typed, groups=["task"]) == [
        "-m",
        "++a=1,2",
        "task=x,y",
        "++b=range(1,3)",
        '++ckpt="a.ckpt","b=1.ckpt"',
        "++source=glob(*)",
    ]


def test_shell_completion_is_hydras():
    assert rewrite(["-sc", "install=bash"], groups=[]) == ["-sc", "install=bash"]


@pytest.mark.parametrize("path", ["a", "a b", 'a"b', "a\\", 'a\\"b', "C:\\data\\x", "a'b", "a,b", ""])
def test_quoting_is_undone_by_hydra(path):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    [override] = OverridesParser.create().parse_overrides([f"key={quote(path)}"])
    assert override.value() == path


def test_override_keys():
    assert override_keys(["++a.b=1=2", "+c=3", "~d", "task=ssd"]) == ["a.b", "c", "d", "task"]


# as a program of its own


def command_line(*words, cwd):
    environ = {key: value for key, value in os.environ.items() if key not in ("HYDRA_FULL_ERROR", "MNVISION_TRACEBACK")}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=environ, capture_output=True, text=True, timeout=60)


def test_a_typo_is_answered(tmp_path):
    done = command_line(TRAIN, "backbone.alfa=1", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "error: 1 problem in the configuration:\n  backbone.alfa: unknown key; did you mean backbone.alpha?\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_typo_is_answered_before_anything_slow_is_loaded(tmp_path):
    code = (
        "import sys; from mnvision import cli; sys.argv = ['prog', 'train', 'backbone.alfa=1']\n"
        "try: cli.main()\n"
        "except SystemExit as error: status = error.code\n"
        "slow = {'torch', 'torchvision', 'lightning', 'numpy', 'cv2', 'albumentations', 'rich', 'mnvision.types'}\n"
        "print(status, sorted(slow & set(sys.modules)))"
    )
    done = command_line("-c", code, cwd=tmp_path)
    assert done.stdout == "1 []\n", done.stderr


@pytest.mark.parametrize("name", ["train", "eval", "predict"])
def test_scripts_of_tools(name, tmp_path):
    path = ROOT / "tools" / f"{name}.py"
    done = command_line(path, "--cfg", "job", "backbone.alpha=0.5", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n  alpha: 0.5\n" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_wheel_has_every_configuration_file(tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    source = tmp_path / "source"
    skipped = {".git", ".venv", "build", "runs", "__pycache__"}

    def ignore(folder, names):
        return [name for name in names if name in skipped or name.endswith((".egg-info", "_cache"))]

    shutil.copytree(ROOT, source, ignore=ignore)
    subprocess.run([*pip, "--wheel-dir", tmp_path, source], check=True, timeout=300)
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {f"mnvision/conf/{path.relative_to(ROOT / 'conf').as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert len(files) > 10
    assert files - names == set()
    # and it works from there: a folder that is not the repository, with the wheel alone
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import sys; sys.meta_path[:] = [one for one in sys.meta_path if 'editable' not in repr(one).lower()]\n"
        f"sys.path.insert(0, {str(site)!r}); sys.argv = ['mnvision', 'train', '--cfg', 'job']\n"
        "import mnvision; from mnvision import cli; print(mnvision.__file__); cli.main()"
    )
    done = command_line("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    assert "\nbackbone:\n" in done.stdout


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_waiting_threads_leave_their_core_unless_told_otherwise(given, start, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "as before")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    start("train", "typo=1")
    assert os.environ["OMP_WAIT_POLICY"] == (given or "PASSIVE")
