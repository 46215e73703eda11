"""The command line, on a checkpoint of random weights: answers, errors, exit codes."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import scatter, small_config, small_model

import minqwen
from minqwen import terminal
from minqwen.cli import commands as cli
from minqwen.cli.drawn import heat, sketch
from minqwen.cli.evidence import evidence
from minqwen.cli.tour import experts_by_task
from minqwen.model.config import Config
from minqwen.model.taps import listen
from minqwen.prompt.processor import CONFIG_IDS, Processor
from minqwen.weights.checkpoint.hub import UNFINISHED

ASSETS = Path(__file__).resolve().parent.parent / "assets"
PRINTED = {"tokens", "token_ids", "text", "thinking", "prompt_tokens", "finish_reason"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with everything a checkpoint has, under its own assets folder."""
    folder = tmp_path_factory.mktemp("assets") / "tiny"
    processor = Processor.load(ASSETS / "tiny")
    changes = dict(mtp_num_hidden_layers=1, vocab_size=processor.vocab_size)
    values = small_config(**changes, max_position_embeddings=150).to_dict()
    for key, token in CONFIG_IDS.items():
        values[key] = processor.tokenizer.token_to_id(token)
    values["text_config"]["wheels"] = 4  # a key that nobody knows
    model = scatter(minqwen.Qwen(Config.from_dict(values)))
    minqwen.save(model, folder)
    processor.save(folder)
    (folder / "config.json").write_text(json.dumps(values))
    shutil.copy(ASSETS / "seven.png", folder.parent)
    return folder


def one_line(err):
    return err.startswith("minqwen: ") and err.count("\n") == 1 and err.endswith("\n")


# ---- answers


def test_generate_with_quantised_weights(run, checkpoint):
    args = ["generate", checkpoint, "--prompt", "Hello", "--max-new-tokens", 3]
    code, out, err = run(*args, "--quantize", "int4:int8")
    assert code == 0 and "3 written" in err
    code, out, err = run(*args, "--quantize", "int8", "--activations", "int8")
    assert code == 0 and "3 written" in err
    code, out, err = run(*args, "--activations", "int8")
    assert (
        (code, out) == (1, "")
        and one_line(err)
        and "for weights in int8, int4, Q8_0" in err
    )
    code, out, err = run(*args, "--quantize", "int3")
    assert (code, out) == (1, "") and one_line(err) and "int3" in err


def test_generate_prints_the_answer_alone(run, checkpoint):
    args = ["generate", checkpoint, "--prompt", "Hello", "--max-new-tokens", 12]
    code, out, err = run(*args)
    assert code == 0 and out.endswith("\n") and "12 written" in err
    assert err.count("\n") == 1 and "cut off after the 12 tokens asked for" in err
    code, out_json, err = run(*args, "--json")
    answer = json.loads(out_json)
    assert code == 0 and answer["text"] + "\n" == out and answer.keys() >= PRINTED
    assert answer["tokens"] == len(answer["token_ids"]) == 12
    assert answer["finish_reason"] == "length" and answer["thinking"] == ""


def test_generate_writes_what_the_package_writes(run, checkpoint):
    options = dict(temperature=0.9, top_k=50, top_p=0.9, min_p=0.01, seed=3)
    options |= dict(presence_penalty=0.5, max_new_tokens=15)
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]
    image = checkpoint.parent / "seven.png"
    args = ["generate", checkpoint, "--prompt", "Look", "--image", image, *flags]
    args += ["--device", "cpu"]  # as `load` below
    model, processor = minqwen.load(checkpoint), Processor.load(checkpoint)
    content = [{"type": "image", "image": image}, {"type": "text", "text": "Look"}]
    inputs = processor.chat([{"role": "user", "content": content}])
    steps = minqwen.generate(model, inputs, processor=processor, **options)
    want = [step.token for step in steps]
    for extra in ([], ["--draft", 2]):
        _, out, _ = run(*args, "--json", *extra)
        assert json.loads(out)["token_ids"] == want
    assert json.loads(out)["prompt_tokens"] == inputs["input_ids"].shape[1]


def test_experts_on_disk_write_the_same_and_tell_what_they_read(run, checkpoint):
    args = ["generate", checkpoint, "--prompt", "Hello", "--max-new-tokens", 9]
    args += ["--json"]
    want = json.loads(run(*args)[1])
    args += ["--experts", "disk", "--expert-cache", "200kB", "--stats"]
    code, out, err = run(*args)
    answer = json.loads(out)
    assert code == 0 and answer["token_ids"] == want["token_ids"]
    told = answer["experts"]
    one = 3 * 24 * 64 * 4  # bytes of an expert in fp32
    assert told["cache_bytes"] == 200_000 // one * one and not told["mapped"]
    assert told["answer"]["chosen"] == 8 * 4 * 5
    for part, tokens in (("prompt", answer["prompt_tokens"]), ("answer", 8)):
        total = told[part]["read"] * one
        assert told[part]["bytes_read"] == total
        assert told[part]["bytes_read_a_token"] == round(total / tokens)
        spent = [told[part][f"{k}_seconds"] for k in ("wait", "compute", "other")]
        whole = answer["prompt_seconds"] if part == "prompt" else answer["seconds"]
        assert len(spent) == 3 and 0 < sum(spent) < 1.1 * whole + 0.1
    assert "[answer: " in err and "read a token" in err and "elsewhere" in err
    code, out, err = run(*args[:-3], "--stats")
    assert "files are mapped" in err or "read into a cache" in err
    code, out, err = run("generate", checkpoint, "--prompt", "Hello", "--stats")
    assert (code, out) == (1, "") and one_line(err) and "--experts disk" in err
    code, out, err = run(*args[:-3], "--expert-cache", "12 apples")
    assert code == 2 and one_line(err) and "12 apples" in err


def test_threads_sleep_where_experts_are_read(monkeypatch):
    """Before torch is there, and unless somebody has asked for something else."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    for args, policy in (
        (["--experts", "disk"], "active"), ([], None),
        (["--experts", "disk"], "passive"), (["--experts=disk"], "passive"),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["minqwen", "generate", "x", *args])
        minqwen.cli.leave_cores()
        assert os.environ.get("OMP_WAIT_POLICY") == policy
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    code = "import sys, minqwen.cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_train_goes_on_only_with_its_own_recipe(run, tmp_path):
    """All of the command's options reach the trainer, which then finds fault."""
    old, out_folder = tmp_path / "old.pt", tmp_path / "out"
    torch.save({"recipe": {"steps": 9}}, old)
    args = ["--out", out_folder, "--steps", 3, "--seed", 1, "--threads", 1]
    code, out, err = run("train", *args, "--resume", old)
    assert (code, out) == (1, "") and one_line(err)
    assert "old.pt is of another recipe" in err and not out_folder.exists()
    old.write_bytes(b"nothing of the kind")
    code, out, err = run("train", *args, "--resume", old)
    assert (code, out) == (1, "") and one_line(err)
    assert "old.pt is not what minqwen train wrote" in err
    code, out, err = run("train", *args, "--recipe", old)
    assert (code, out) == (1, "") and one_line(err) and "old.pt is no TOML" in err


def test_thinking_goes_to_stderr(run, checkpoint):
    args = ["generate", checkpoint, "--prompt", "Hi", "--max-new-tokens", 10]
    code, out, err = run(*args, "--thinking")
    assert code == 0 and out == "\n" and err.count("\n") >= 2
    answer = json.loads(run(*args, "--thinking", "--json")[1])
    assert answer["thinking"] and answer["text"] == ""


def test_stop_text_and_the_end_of_the_positions(run, checkpoint):
    args = ["generate", checkpoint, "--prompt", "Hello", "--json"]
    answer = json.loads(run(*args, "--max-new-tokens", 30)[1])
    stop = answer["text"][10:14]
    stopped = json.loads(run(*args, "--stop", stop)[1])
    assert stopped["text"] == answer["text"][: answer["text"].find(stop)]
    assert stopped["finish_reason"] == "stop"
    code, out, err = run(*args, "--max-new-tokens", 1000, "--temperature", 5)
    answer = json.loads(out)
    assert answer["finish_reason"] == "context" and "positions end" in err
    assert answer["tokens"] + answer["prompt_tokens"] == 150
    code, out, err = run("generate", checkpoint, "--prompt", "Hello " * 150)
    assert code == 1 and one_line(err) and "max_position_embeddings" in err and not out


def test_chat_keeps_history_and_goes_on_after_a_mistake(checkpoint):
    lines = [
        "Hello",
        "/image missing.png",
        f"/image {checkpoint.parent / 'seven.png'}",
        "Which digit?",
        f"/image {checkpoint / 'config.json'}",
        "And this?",
        "",
        "Bye",
        "/new",
        "Hello",
        "/quit",
        "not reached",
    ]
    args = ["chat", checkpoint, "--max-new-tokens=5", "--temperature=1"]
    done = minqwen_process(*args, input="\n".join(lines))
    assert done.returncode == 0
    errors = [line for line in done.stderr.split("\n") if line.startswith("minqwen:")]
    assert len(errors) == 2 and "missing.png: no such file" in errors[0]
    assert "config.json" in errors[1]
    read = [int(e.split()[0][1:]) for e in done.stderr.split("\n") if "read in" in e]
    assert len(read) == 4  # Hello, Which digit?, Bye, Hello
    # Each prompt holds the turns before it, the picture's placeholders too.
    assert read[0] + 20 < read[1] < read[2] and read[3] == read[0]
    assert "not reached" not in done.stdout


def say_generation(folder, **said):
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | said))


def test_chat_samples_as_the_checkpoint_says(run, checkpoint, tmp_path, monkeypatch):
    """Where nothing else is asked; one answer is that of generate, asked the same."""
    folder = shutil.copytree(checkpoint, tmp_path / "f")
    say_generation(folder, do_sample=True, temperature=1.5, top_k=40, top_p=0.9,
                   repetition_penalty=1.05, num_beams=1)  # fmt: skip
    short = [folder, "--max-new-tokens=12", "--seed=4", "--device=cpu"]

    def chat(*flags):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
        code, out, err = run("chat", *short, *flags)
        assert code == 0
        return out, err

    def written(*flags):
        return run("generate", *short, "--prompt=Hello", *flags)[1]

    out, err = chat()
    asked = "--temperature=1.5", "--top-k=40", "--top-p=0.9"
    assert "[temperature 1.5, top_k 40, top_p 0.9, as generation_config.json" in err
    assert "repetition_penalty is 1.05, which is not followed" in err
    assert "num_beams" not in err and out == written(*asked) != written()
    out, err = chat("--temperature=0")
    assert out == written() and "[top_k 40, top_p 0.9, as" in err
    say_generation(folder, do_sample=False)
    out, err = chat()
    assert out == written() and "as generation_config" not in err
    say_generation(folder, do_sample=True, top_p=7)
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
    code, out, err = run("chat", *short)
    assert code == 1 and one_line(err) and "generation_config.json: top_p is 7" in err


# ---- info


def test_info_tells_a_folder(run, checkpoint):
    code, out, err = run("info", checkpoint)
    model = minqwen.load(checkpoint)
    count = model.num_parameters()
    assert code == 0 and not err
    for name in ("text", "vision", "mtp"):
        assert f"{count[name]:,} {name}\n" in out
    assert f"{count['total']:,}\n" in out and f"{count['active']:,} active" in out
    assert "wheels" in out and "kernels      torch" in out
    stored = sum(p.numel() * p.element_size() for p in model.parameters())
    assert f"{stored:,}, which is" in out
    assert max(map(len, out.splitlines())) <= 80 + len(str(checkpoint))


@pytest.mark.parametrize(
    "name, facts",
    [
        (
            "397B-A17B",
            ("396,346,350,336 text", "403,397,928,944", "806.8 GB", "2,924:"),
        ),
        (
            "Qwen/Qwen3.5-0.8B",
            ("752,393,024 text", "488:", "1.747 GB", "18 delta, 6 full"),
        ),
    ],
)
def test_info_knows_the_family_without_weights(run, name, facts):
    code, out, _ = run("info", name)
    assert code == 0 and all(fact in out for fact in facts)
    assert "unknown keys none" in out and max(map(len, out.splitlines())) <= 80


def test_info_counts_what_the_files_hold(run, tmp_path):
    """transformers writes a config that names the draft head, and no such head."""
    model = small_model(mtp_num_hidden_layers=1)
    minqwen.save(model, tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = {n: t for n, t in load_file(file).items() if not n.startswith("mtp.")}
    save_file(tensors, file)
    code, out, _ = run("info", tmp_path)
    count = model.num_parameters()
    assert code == 0 and " mtp" not in out
    assert f"{count['total'] - count['mtp']:,}\n" in out


def test_info_of_a_config_alone(run, checkpoint, tmp_path):
    shutil.copy(checkpoint / "config.json", tmp_path)
    code, out, _ = run("info", tmp_path)
    assert code == 0 and "no weights here" in out and "BF16" in out


# ---- errors and exit codes


@pytest.mark.parametrize(
    "args, words",
    [
        ([], "COMMAND"),
        (["fly"], "fly"),
        (["generate", "x"], "--prompt"),
        (["generate", "x", "--prompt", "y", "--wings", "2"], "--wings"),
        (["generate", "x", "--prompt", "y", "--temperature", "-1"], "from 0"),
        (["generate", "x", "--prompt", "y", "--temperature", "nan"], "'nan' is not"),
        (["generate", "x", "--prompt", "y", "--top-p", "0"], "over 0 to 1"),
        (["generate", "x", "--prompt", "y", "--max-new-tokens", "1.5"], "whole number"),
        (["generate", "x", "--prompt", "y", "--dtype", "int3"], "int3"),
        (["chat", "x", "--seed", "-1"], "--seed"),
        (["train"], "--out"),
    ],
    ids=str,
)
def test_bad_use_is_one_line_and_exit_code_2(run, args, words):
    code, out, err = run(*args)
    assert code == 2 and not out and one_line(err) and words in err
    assert "--help" in err


def test_failures_are_one_line_and_exit_code_1(run, checkpoint, tmp_path):
    generate = ["generate", checkpoint, "--prompt", "x"]
    not_a_picture = tmp_path / "note\x1b[31m.png"
    not_a_picture.write_text("words")
    for args, words in (
        (["generate", tmp_path / "absent", "--prompt", "x"], "absent"),
        (["generate", tmp_path, "--prompt", "x"], "tokenizer.json"),
        (["info", "398B"], "397B-A17B"),
        (["info", tmp_path], "config.json"),
        ([*generate, "--image", tmp_path / "absent.png"], "absent.png"),
        ([*generate, "--image", not_a_picture], ".png"),
        ([*generate, "--video", tmp_path / "absent.mp4"], "absent.mp4"),
        ([*generate, "--device", "abacus"], "abacus"),
    ):
        code, out, err = run(*args)
        assert code == 1 and not out and one_line(err) and words in err, err
        assert "\x1b" not in err


def test_a_broken_checkpoint_is_named(run, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "broken")
    shard = next((tmp_path / "broken").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:5000])
    for args in (["info"], ["generate", "--prompt", "x"], ["chat"]):
        code, out, err = run(args[0], tmp_path / "broken", *args[1:])
        assert code == 1 and one_line(err) and shard.name in err


def test_where_the_answer_goes_is_asked_before_the_work(run, checkpoint, tmp_path):
    (tmp_path / "file").touch()
    for out, words in (
        (tmp_path / "no" / "x", "x cannot be saved to: No such file"),
        (tmp_path / "file" / "x", "x cannot be saved to: Not a directory"),
        (tmp_path, "cannot be saved to: Is a directory"),
        (".", "cannot be saved to: Is a directory"),
        ("/dev/null", "/dev/null cannot be saved to: it is not a regular file"),
    ):
        code, answer, err = run("trace", checkpoint, "--prompt", "x", "-o", out)
        assert code == 1 and not answer and one_line(err) and words in err, err
    code, answer, err = run("bench", "--out", tmp_path / "file")
    assert code == 1 and not answer and one_line(err) and "file" in err, err


def minqwen_process(*args, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "minqwen", *map(str, args)],
        capture_output=True, text=True, timeout=120, env=environment,
        cwd=ASSETS.parent, **options,
    )  # fmt: skip


def started(checkpoint, *args):
    """`minqwen generate` in a process of its own that has written its first text."""
    command = ["generate", checkpoint, "--prompt", "x", *args]
    process = subprocess.Popen(
        [sys.executable, "-m", "minqwen", *map(str, command)], cwd=ASSETS.parent,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert process.stdout.read(1)
    return process


@pytest.fixture(scope="module")
def endless(checkpoint, tmp_path_factory):
    """The same checkpoint with room for an answer that takes minutes."""
    folder = tmp_path_factory.mktemp("endless") / "tiny"
    shutil.copytree(checkpoint, folder)
    values = json.loads((folder / "config.json").read_text())
    values["text_config"]["max_position_embeddings"] = 100_000
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.slow
def test_ctrl_c_is_quiet_and_130(endless):
    process = started(endless, "--max-new-tokens", 99_000, "--temperature", 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.strip() == b""


def test_sigterm_is_one_line_and_143(endless):
    process = started(endless, "--max-new-tokens", 99_000, "--temperature", 3)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and err.strip() == b"minqwen: stopped by SIGTERM"


# Runs a command; on the import of a module that takes long, a signal comes.
INTERRUPTED = """
import os, signal, sys
class Watch:
    def find_spec(name, *_):
        if name == "torch":
            os.kill(os.getpid(), int(sys.argv[1]))
import minqwen.cli
sys.meta_path.insert(0, Watch)
sys.argv[1:] = [sys.argv[1], "info", "0.8B"]
sys.exit(minqwen.cli.main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts(number):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(int(number))], capture_output=True,
        cwd=ASSETS.parent, timeout=120,
    )  # fmt: skip
    assert done.returncode == 128 + number
    assert done.stdout == b"" and done.stderr.strip() == b""


# Runs a command that reads weights slowly, and says when the first are read.
SLOWLY = """
import sys, time
from minqwen import files
fill = files.Reader.fill
def slowly(self, target, at, *rest):
    if at > 8:  # beyond a header
        print("reading", flush=True)
        time.sleep(0.1)
    return fill(self, target, at, *rest)
files.Reader.fill = slowly
import minqwen.cli
sys.exit(minqwen.cli.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["generate", "convert"])
def test_a_signal_while_weights_are_read(run, checkpoint, tmp_path, command, number):
    convert = ["convert", str(checkpoint), str(tmp_path / "out"), "--quantize", "int8"]
    generate = ["generate", str(checkpoint), "--prompt", "x"]
    args = convert if command == "convert" else generate
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *args], cwd=ASSETS.parent,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == b"reading\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    said = b"minqwen: stopped by SIGTERM" if number == signal.SIGTERM else b""
    assert err.strip() == said
    if command == "convert":  # no part of a file is left, and it goes on from there
        assert [file.name for file in (tmp_path / "out").iterdir()] == [UNFINISHED]
        assert run(*convert)[0] == 0
        assert minqwen.load(tmp_path / "out").cfg.text.num_experts
    else:
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "closed, args, code",
    [
        (">&-", "info 0.8B", 0),
        ("<&-", "chat {checkpoint}", 0),
        ("2>&-", "info nowhere", 1),
        (">&- 2>&- <&-", "info 0.8B", 0),
        (">/dev/full", "info 0.8B", 1),
    ],
)
def test_streams_that_are_closed_or_full(checkpoint, closed, args, code):
    command = f"{sys.executable} -m minqwen {args.format(checkpoint=checkpoint)}"
    done = subprocess.run(
        f"{command} {closed}", shell=True, capture_output=True, text=True,
        cwd=ASSETS.parent, timeout=120,
    )  # fmt: skip
    assert done.returncode == code and done.stderr.count("minqwen:") <= 1
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.parametrize(
    "environment, words",
    [
        ({"WORLD_SIZE": "2"}, "RANK and MASTER_ADDR and MASTER_PORT does not go"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two' is not a number"),
        ({"WORLD_SIZE": "9" * 5000}, "is not a number"),
        (
            {"WORLD_SIZE": "2", "RANK": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"},
            "RANK does not go with it",
        ),
    ],
)
def test_half_of_what_torchrun_says(run, monkeypatch, environment, words):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, out, err = run("info", "0.8B")
    assert code == 1 and not out and one_line(err) and words in err, err


@pytest.mark.parametrize(
    "args",
    [
        ["plan", "0.8B", "--memory", "9" * 400],
        ["plan", "0.8B", "--disk-speed", "9" * 400 + "GB/s"],
        ["plan", "0.8B", "--batch", "9" * 400],
        ["plan", "0.8B", "--context", "9" * 5000],
        ["plan", "0.8B", "--gpus", "9" * 5000 + "xH100-80GB"],
        ["generate", "x", "--prompt", "x", "--top-k", "9" * 400],
        ["trace", "x", "--prompt", "x", "-o", "x", "--state", "9" * 5000 + ".0"],
    ],
    ids=lambda args: args[-2],
)
def test_numbers_beyond_all_measure(run, args):
    code, out, err = run(*args)
    assert code in (1, 2) and not out and one_line(err)


def test_style_is_for_terminals_that_want_it(monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value, styled in (
        ("TERM", "xterm", True), ("TERM", "dumb", False), ("TERM", "", False),
        ("NO_COLOR", "1", False),
    ):  # fmt: skip
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv(name, value)
        assert ("\x1b" in terminal.styled("x", 1, Terminal())) == styled


COMMANDS = "tour info plan generate chat trace explore train convert bench".split()
PLAIN = {"COLUMNS": "40", "TERM": "dumb", "NO_COLOR": "1"}


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_on_a_narrow_terminal(run, monkeypatch, command):
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)
    code, out, err = run(*command, "--help")
    assert code == 0 and not err and out.isascii() and "\x1b" not in out
    for line in out.splitlines():  # an option and its choices are not parted
        assert len(line) <= 40 or line.lstrip().startswith(("-", "[-")), line


def test_commands_on_a_narrow_plain_terminal(run, monkeypatch, checkpoint, tmp_path):
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)
    trace, short = tmp_path / "x", ["--max-new-tokens", 2]
    monkeypatch.setattr("sys.stdin", io.StringIO("Gr\u00fc\u00dfe\n/image no\n"))
    for args in (
        ["info", checkpoint], ["plan", checkpoint], ["chat", checkpoint, *short],
        ["generate", checkpoint, "--prompt", "x", *short],
        ["trace", checkpoint, "--prompt", "x", *short, "-o", trace],
        ["explore", trace, "--html", tmp_path / "x.html"],
        ["convert", checkpoint, tmp_path / "out", "--quantize", "int8"],
    ):  # fmt: skip
        code, out, err = run(*args)
        assert code == 0, err
        assert "\x1b" not in out + err and "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_terminal_that_has_no_letters_but_ascii(tmp_path, more):
    """Under LC_ALL=C Python writes UTF-8 all the same, unless it is told not to."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONIOENCODING"}
    environment |= PLAIN | {"LC_ALL": "C", "OMP_NUM_THREADS": "1"} | more
    for args, code in (
        (["tour"], 0),
        (["generate", tmp_path / "Gr\u00fc\u00dfe", "--prompt", "\u00fc\U0001f600"], 1),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "minqwen", *map(str, args)], capture_output=True,
            env=environment, cwd=ASSETS.parent, timeout=120,
        )  # fmt: skip
        assert done.returncode == code and b"Traceback" not in done.stderr
        assert b"\x1b" not in done.stdout + done.stderr
        assert not more or (done.stdout + done.stderr).isascii()
        assert code == 0 or done.stderr.count(b"\n") == 1


def test_a_reader_who_leaves_is_no_error(endless):
    process = started(endless, "--max-new-tokens", 99_000, "--temperature", 3)
    process.stdout.close()
    assert process.wait(timeout=60) == 141 and process.stderr.read() == b""
    process.stderr.close()


# ---- the tour


def test_tour(run, checkpoint, monkeypatch):
    monkeypatch.setattr(cli, "tour", lambda: minqwen.cli.tour.tour(checkpoint.parent))
    code, out, err = run("tour")
    lines = out.splitlines()
    assert code == 0 and "\x1b" not in out and "minqwen:" not in err  # it thinks
    asked = [line for line in lines if line.startswith("> ")]
    assert asked == [f"> {stop.question}" for stop in minqwen.cli.tour.STOPS]
    assert out.count("not write what was expected") == 4 and "MB of memory" in out
    shown = checkpoint.parent / "note.safetensors"  # in a clone it is `make lab`
    assert (
        f" explore {shown} shows" in lines[-1] and f" chat {checkpoint} " in lines[-1]
    )
    (head,) = (i for i, line in enumerate(lines) if "expert 0 ..." in line)
    table = lines[head + 1 : head + 5]
    assert [line.split()[0] for line in table] == ["note", "picture", "sum", "tool"]
    assert max(map(len, lines[head - 1 : head + 5])) <= 80 and "5 of 33 experts" in out


def test_tour_without_its_checkpoint(run, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "tour", lambda: minqwen.cli.tour.tour(tmp_path))
    code, out, err = run("tour")
    assert code == 1 and not out and one_line(err) and "clone" in err


def test_experts_are_counted_from_the_routers(checkpoint):
    """The table against ids recomputed from each router's own logits."""
    model = minqwen.load(checkpoint)
    seen = []
    for layer in model.model.language_model.layers:
        layer.mlp.gate.register_forward_hook(lambda m, a, out: seen.append(out[2]))
    ids = Processor.load(checkpoint).chat([{"role": "user", "content": "Hello"}])
    with minqwen.cli.tour.watch(model) as fired:
        model(**ids)
    k = model.cfg.text.num_experts_per_tok
    for count, logits in zip(fired, seen, strict=True):
        top = logits.argsort(descending=True)[:, :k].flatten()
        assert count.tolist() == top.bincount(minlength=33).tolist()


def test_the_layer_is_shown_whose_experts_differ_by_task():
    alike = torch.full((3, 8), 5)
    apart = {"a": alike.clone(), "b": alike.clone()}
    apart["a"][1], apart["b"][1] = 0, 0
    apart["a"][1, 2], apart["b"][1, 6] = 40, 40
    lines = experts_by_task(apart, 2).splitlines()
    assert "in layer 1:" in lines[0] and "25%" in lines[0]
    assert lines[2].endswith(" 2 (200% of tokens)"), "each token chose it twice here"
    assert lines[3].split()[2] == "6"


def test_shares_of_a_logit_add_up_and_looks_are_attention(checkpoint):
    """Beside the model's own logits, and softmax worked out at the same tap."""
    model, processor = minqwen.load(checkpoint), Processor.load(checkpoint)
    inputs = processor.chat([{"role": "user", "content": "Hello"}])
    written = [7, 11, 13]
    found = evidence(model, inputs, written, 2)
    ids = torch.cat([inputs["input_ids"], torch.tensor([written[:2]])], 1)
    logits = model(ids)[0, -1]
    assert found.logit == pytest.approx((logits[13] - logits.mean()).item(), abs=1e-4)
    kinds = model.cfg.text.layer_types
    assert len(found.shares) == 1 + 2 * len(kinds)
    full = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
    assert list(found.looks) == full
    heard = []
    with listen(model, qkv=lambda layer, **said: heard.append(said)):
        model(ids)
    said = heard[0]
    H = said["q"].shape[2]
    for head in range(H):
        own = said["k"][0, :, head * said["k"].shape[2] // H]
        scores = own @ said["q"][0, -1, head] / own.shape[1] ** 0.5
        want = scores.softmax(0)
        assert torch.allclose(found.looks[full[0]][head], want, atol=1e-5)


def test_pictures_in_characters(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(sys, "stdout", open(os.devnull, "w", encoding="ascii"))
    picture = Image.new("L", (64, 64), 255)
    picture.paste(0, (0, 0, 64, 16))  # dark on bright: the dark part is drawn
    picture.save(tmp_path / "x.png")
    rows = sketch(tmp_path / "x.png", 8, 8).split("\n")
    assert rows[0] == "  " + "@" * 8 and rows[-1].strip() == ""
    line = heat(torch.tensor([0, 1, 50, 100]))
    assert line[0] == " " and line[1] == "." and line[3] == "@" and len(line) == 4
    assert len(heat(torch.arange(512))) == 32
    sys.stdout.close()


def test_style_only_where_it_is_wanted(monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert terminal.styled("x", 1, Terminal()) == "\x1b[1mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert terminal.styled("x", 1, Terminal()) == "x"
    assert terminal.printable("a\x1b[31m\n\tb\x00é日") == "a[31m\n\tbé日"
