"""The instant checks: they know right, rounding, unfinished, and the famous wrongs."""

import inspect
import json
import re
from types import SimpleNamespace

import nbformat
import pytest
import torch

import minqwen
from minqwen import check
from minqwen.check.core import Exercise, Verdict
from minqwen.errors import InputError
from tools import notebooks

NAMES = list(check.EXERCISES)
WRONG = [(name, i) for name in NAMES for i in range(len(check.EXERCISES[name].wrong))]


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """A progress file of this test's own."""
    path = tmp_path / "progress.json"
    monkeypatch.setenv("MINQWEN_PROGRESS", str(path))
    return path


def solution(S, k, v):
    return S + torch.outer(k, v - S.T @ k)


@pytest.mark.parametrize("name", NAMES)
def test_the_right_answer_is_exact(name):
    exercise = check.EXERCISES[name]
    assert repr(exercise(exercise.right)).startswith("✓ exact")


@pytest.mark.parametrize("name", NAMES)
def test_a_check_leaves_the_readers_own_draws_alone(name):
    before = torch.get_rng_state()
    check.EXERCISES[name].cases(seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("name", "i"), WRONG)
def test_a_famous_wrong_answer_is_told_why(name, i):
    exercise = check.EXERCISES[name]
    why, function = exercise.wrong[i]
    for _ in range(5):  # on any draw
        verdict = exercise(function)
        assert not verdict and repr(verdict).endswith(f": {why}")


@pytest.mark.parametrize("name", NAMES)
def test_a_stub_is_unfinished_and_nothing_is_raised(name, kept):
    def stub(*_, **__):
        return ...

    verdict = getattr(check, name)(stub)
    assert not verdict and repr(verdict).startswith("… not finished yet")
    assert not kept.exists()


def test_rounding_is_close_and_more_is_not():
    def other_order(S, k, v):
        return ((S.double() + torch.outer(k, v - S.T @ k).double()) * 1.000001).float()

    def far(S, k, v):
        return solution(S, k, v) * 1.01

    verdict = check.write(other_order)
    assert verdict and "within rounding" in repr(verdict)
    assert "1.01 times what is right" in repr(check.write(far))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda S, k, v: solution(S, k, v).T, "transposed"),
        (lambda S, k, v: -solution(S, k, v), "wrong sign"),
        (lambda S, k, v: None, "None; does every path end in `return`?"),
        (lambda S, k, v: solution(S, k, v)[0], "has shape [2]; [2, 2] is asked for"),
        (lambda S, k, v: (S, S), "returns 2 things where one tensor is asked for: the"),
        (lambda S, k, v: solution(S, k, v).tolist(), "torch.tensor(...) makes one of"),
        (lambda S, k, v: "S", "is a str; a tensor is asked for"),
        (lambda S, k, v: solution(S, k, v) / 0, "inf or nan"),
        (lambda S, k, v: solution(S, k, v) + (S > 0), "differs first at ["),
        (lambda S, k, v: S @ v[:1], "raised RuntimeError"),
        (lambda S, k: S, "takes (S, k); it is called by name, so keep the names (S, k"),
        (
            lambda S, key, v: S,
            "takes (S, key, v); it is called by name, so keep the na",
        ),
        (torch.outer, "raised TypeError"),  # a built-in one does not tell its names
        (lambda S, k, v: S + ..., "… not finished yet: there is a `...` left"),
        (lambda S, k, v: S.add_(torch.outer(k, v - S.T @ k)), "`S` in place"),
        (torch.zeros(2, 2), "is not a function"),
    ],
)
def test_what_is_said_of_other_mistakes(answer, said, kept):
    verdict = check.write(answer)
    assert isinstance(verdict, Verdict) and not verdict
    assert said in repr(verdict) and "\n" not in repr(verdict)
    assert not kept.exists()


def test_two_things_in_the_other_order_are_told():
    right = check.EXERCISES["gated_step"].right
    said = repr(check.gated_step(lambda **case: right(**case)[::-1]))
    assert said.endswith("right, but in the other order: the output and the new S are "
                         "asked for")  # fmt: skip


def test_a_guess_may_be_a_small_letter_and_a_slip_is_told():
    assert repr(check.predict("overlap", "c")).startswith("✓ C: ")
    with pytest.raises(InputError, match="'overlaps'; is it 'overlap'"):
        check.predict("overlaps", "C")
    with pytest.raises(InputError, match="has no option D; choose A or B or C"):
        check.predict("overlap", "d")


def test_a_list_where_a_tensor_is_asked_for_is_told_how_to_become_one():
    said = repr(check.three_axes(lambda sections: [0] * sum(sections)))
    assert "returns a list of" in said and "thing(s)" not in said
    assert said.endswith(
        " where one tensor is asked for: the axis of each pair; "
        "torch.tensor(...) makes one of a list"
    )
    rows = repr(check.write(lambda S, k, v: list(solution(S, k, v))))
    assert rows.endswith("the new S; torch.stack(...) makes one of a list")
    assert "2 things where one number is asked" in repr(
        check.expert_size(lambda D, width: (D, width))
    )
    assert "returns 1 thing; 2 are asked for: " in repr(
        check.gated_step(lambda S, q, k, v, g, beta: S)
    )
    assert check.write(lambda S, k, v: (solution(S, k, v),))  # a comma too many


def test_what_was_right_and_is_not_enough_is_told():
    """Answers that passed once: in written text, without slopes, by reading anew."""

    def in_the_text(tokens, left, right):
        return "|".join(tokens).replace(f"{left}|{right}", left + right).split("|")

    assert in_the_text(["ba", "n"], "a", "n") == ["ban"]
    assert "is not a, n. Compare whole tokens" in repr(check.merge(in_the_text))

    def numbers(a, A_log, dt_bias):
        rows = [[(x + dt_bias[h]).exp().log1p() for h, x in enumerate(r)] for r in a]
        return torch.tensor(
            [[-A_log[h].exp() * x for h, x in enumerate(r)] for r in rows]
        )

    def numpys(a, A_log, dt_bias):
        return torch.from_numpy(check.decay.right(a, A_log, dt_bias).numpy())

    def kept(a, A_log, dt_bias):
        return -A_log.exp() * torch.log1p((a + dt_bias).exp())

    for answer in (numbers, numpys):
        assert "no slope comes back. Work on the tensors" in repr(check.decay(answer))
    assert check.decay(kept)

    def where(g):
        gap = g.cumsum(0)[:, None] - g.cumsum(0)
        return torch.where(torch.ones_like(gap).tril() > 0, gap.exp(), 0)

    assert "and its slope nan even where a mask" in repr(check.decays(where))

    def anew(model, ids, count):
        start = ids.shape[1]
        for _ in range(count):
            logits = model(input_ids=ids)
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
        return ids[0, start:]

    assert "the whole text is read again for each" in repr(check.greedy(anew))


def test_a_mistake_that_fails_on_some_inputs_is_told_all_the_same():
    """S @ k fails where S is not square, and is told by what it gave where it was."""
    said = repr(check.write(lambda S, k, v: S + torch.outer(k, v - S @ k)))
    assert "S @ k is another product" in said and "raised" not in said
    assert "raised RuntimeError" in repr(check.write(lambda S, k, v: S + v @ k))


def test_lists_are_compared_item_by_item():
    def halves(words):
        return [w[: len(w) // 2] for w in words]

    words = [{"words": ["even", "odd"]}]
    exercise = Exercise("00", "t", halves, lambda rand: words, returns=("the halves",))

    def in_place(words):
        words.append("x")
        return halves(words)

    assert repr(exercise(lambda words: halves(words))).startswith("✓ exact")
    said = repr(exercise(lambda words: ["ev", "od"]))
    assert said.endswith("the halves: item 1 is 'od', not 'o'")
    said = repr(exercise(lambda words: halves(words)[:1]))
    assert said.endswith("the halves: 1 item; 2 are asked for")
    assert "changes its input `words` in place" in repr(exercise(in_place))
    assert words == [{"words": ["even", "odd"]}]
    assert "are of type str; list is asked for" in repr(exercise(lambda words: "ev"))


def test_what_it_was_called_with_is_told_where_it_can_be_read():
    said = repr(check.expert_size(lambda D, width: D * width + 1))
    assert re.search(
        r"with D=(\d+), width=\d+, the number of parameters is \d+, n", said
    )
    said = repr(check.prompt(lambda messages, thinking: "<|im_start|> "))
    assert "the prompt differs first at character 12: ' ', not 'user" in said
    assert "with" not in repr(check.write(lambda S, k, v: S + (S > 0)))
    assert "the outputs differ first at [" in repr(check.one_head(lambda q, k, v: q))


def test_a_mistake_is_placed_in_its_cell():
    def mine(S, k, v):
        k = k
        return S[9]

    line = mine.__code__.co_firstlineno + 2
    assert f"in line {line} of its cell" in repr(check.write(mine))


def test_each_call_draws_anew():
    seen = []
    exercise = Exercise("00", "t", lambda x: x, lambda rand: [{"x": rand(3)}])
    for _ in range(2):
        exercise(lambda x: seen.append(x) or x)
    assert not torch.equal(*seen)


def test_unknown_exercise_names_those_there_are():
    with pytest.raises(AttributeError, match="no exercise is called nonsense.*write"):
        _ = check.nonsense


def test_later_cells_go_on_with_what_is_right(capsys, kept):
    def my_write(S, k, v):
        return solution(S, k, v)

    assert check.write.settled(my_write) is my_write
    assert "go on with yours, my_write" in capsys.readouterr().out
    for unsolved, how in [
        (lambda S, k, v: ..., "finished"),
        (lambda S, k, v: S, "right"),
    ]:
        assert check.write.settled(unsolved) is check.write.right
        said = capsys.readouterr().out
        assert f"is not {how} yet, so later cells go on with the course's" in said
    assert not kept.exists()


@pytest.mark.parametrize("name", NAMES)
def test_the_right_answer_can_be_called_as_the_stub_can(name):
    """By position, too: later cells of the notebooks do."""
    exercise = check.EXERCISES[name]
    [path] = notebooks.find([exercise.notebook])
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells]
    [stub] = [s for s in sources if re.search(rf"^check\.{name}\(my_", s, flags=re.M)]
    scope = {
        "triton": SimpleNamespace(jit=lambda f: f),
        "tl": SimpleNamespace(constexpr=0),
    }
    exec(stub.rsplit("\n\n\n", 1)[0], scope)
    [mine] = [f for n, f in scope.items() if n in re.findall(r"my_\w+", stub)[-1:]]
    wanted, given = (
        [(p.name, p.kind) for p in inspect.signature(f).parameters.values()]
        for f in (mine, exercise.right)
    )
    assert given[: len(wanted)] == wanted


def test_progress_is_kept_and_shown(kept):
    before = repr(minqwen.progress())
    total = sum(e.notebook == "04" for e in check.EXERCISES.values())
    assert f"04  {'□' * total}  0 of {total}, next: a corrected write" in before

    def solution_1(S, k, v):
        return solution(S, k, v)

    assert check.write(solution_1) and not kept.exists()  # the one that is given

    def mine(S, k, v):
        return solution(S, k, v)

    assert check.write(mine) and check.write(mine)
    assert json.loads(kept.read_text()) == {"04": ["a corrected write"]}
    assert f"04  ■{'□' * (total - 1)}  1 of {total}" in repr(minqwen.progress())


@pytest.mark.parametrize("content", ["", "[1]", '{"04": 3}', "\xff"])
def test_a_damaged_progress_file_counts_as_none(kept, content):
    kept.write_text(content, encoding="latin-1")
    assert "0 of" in repr(minqwen.progress())
    assert check.write(lambda S, k, v: solution(S, k, v))
    assert json.loads(kept.read_text()) == {"04": ["a corrected write"]}


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(monkeypatch, tmp_path):
    monkeypatch.setenv("MINQWEN_PROGRESS", str(tmp_path / "no" / "such" / "folder"))
    assert check.write(lambda S, k, v: solution(S, k, v))
