"""Training: what it learns from, by which formulas; stopped and continued, killed, and refused."""

import itertools
import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

import train_killed
from train_killed import CONFIG, TASK, TRAINING

from ngram_copy.models import LanguageModel
from ngram_copy.models.checkpoint import WEIGHTS, CheckpointError, load_model, read_extra, save_model, weights_hash
from ngram_copy.tasks.copy import Copy
from ngram_copy.tasks.phone_book import PhoneBook
from ngram_copy.train import Progress, Training, TrainingError, examples_to_solve, train
from ngram_copy.train.data import Seen
from ngram_copy.train.loop import Meter

TOTAL = TASK.vocab.total


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class Bigram(torch.nn.Module):
    """The next token from the last alone; it keeps what it was shown in training."""

    def __init__(self, total=TOTAL):
        super().__init__()
        self.table = torch.nn.Embedding(total, total)
        self.shown = []

    def forward(self, tokens):
        if self.training:
            self.shown.append(tokens.numpy())
        return self.table(tokens)


class Oracle(torch.nn.Module):
    """Right about copies of one length; its parameter changes nothing."""

    def __init__(self, length, total=TOTAL):
        super().__init__()
        self.length, self.total = length, total
        self.idle = torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens):
        said = tokens.roll(self.length, 1)
        said[:, 2 * self.length + 1 :] = TASK.vocab.eos
        logits = 50 * torch.nn.functional.one_hot(said, self.total).float()
        return logits + self.idle

    def __call__(self, tokens):
        return type("Output", (), {"logits": super().__call__(tokens)})


def run(tmp_path, config=CONFIG, training=TRAINING, task=TASK, seed=5, **options):
    return train(config, training, task, seed=seed, folder=tmp_path, device="cpu", **options)


def few(**options):
    return replace(TRAINING, **{"steps": 3, "cap_share": 0, "eval_every": 0, "eval_examples": 2, **options})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A training that nothing stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    torch.set_num_threads(1)
    return train_killed.run(folder), folder


def same(found, expected):
    (result, folder), (other, beside) = found, expected
    assert result.to_json() == other.to_json()
    assert weights_hash(result.model) == weights_hash(other.model) == other.weights_hash
    assert (Path(folder) / WEIGHTS).read_bytes() == (Path(beside) / WEIGHTS).read_bytes()


# --- Learning -------------------------------------------------------------------------------------------


def test_the_loss_falls_and_all_is_told(undisturbed):
    result, folder = undisturbed
    losses = [loss for _, loss in result.losses]
    assert [step for step, _ in result.losses] == list(range(1, 41))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.4
    assert [row[0] for row in result.evaluations] == [10, 20, 30, 40]
    assert result.evaluations[-1][1] == result.examples
    assert result.evaluations[-1][2:] == [result.grid[0]["correct"], 8]
    assert result.parameters == sum(p.numel() for p in result.model.parameters())
    assert (result.steps, result.lr, result.train_lengths, result.device) == (40, 8e-3, [1, 8], "cpu")
    assert json.loads(json.dumps(result.to_json())) == result.to_json()
    assert set(result.to_json()) == {
        *("data_hash", "lr", "grid", "steps", "examples", "tokens", "parameters", "losses", "evaluations"),
        *("examples_to_solve", "weights_hash", "train_lengths"),
    }
    assert not result.model.training
    assert weights_hash(load_model(folder)) == result.weights_hash
    assert {path.name for path in folder.iterdir()} == {WEIGHTS, "config.json"}


def test_a_finished_training_is_read(undisturbed, tmp_path):
    def never(progress):
        raise AssertionError

    same((train_killed.run(undisturbed[1], on_progress=never), undisturbed[1]), undisturbed)


def test_seeds_differ_and_the_callers_torch_stays_as_it_was(undisturbed, tmp_path):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    result = run(tmp_path, training=few(steps=1, threads=2), seed=6)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == 1
    assert result.data_hash != undisturbed[0].data_hash
    assert weights_hash(LanguageModel(CONFIG)) != result.weights_hash


def test_progress(tmp_path):
    seen = []
    result = run(tmp_path, training=few(eval_every=2, lr=[0.001, 0.002]), on_progress=seen.append)
    assert [(one.step, one.steps, one.lr) for one in seen] == [
        *((step, 6, 0.001) for step in (1, 2, 3)),
        *((step, 6, 0.002) for step in (4, 5, 6)),
    ]
    assert [one.exact_match is None for one in seen] == [True, False, False] * 2
    assert seen[-1].examples == result.examples == seen[2].examples
    assert seen[-1].seconds_left == 0 < seen[0].seconds_left
    assert all(isinstance(one, Progress) and one.tokens_per_second > 0 and one.loss > 0 for one in seen)


def test_the_first_step_does_not_count_for_the_time_left(monkeypatch):
    now, seen = [0.0], []
    monkeypatch.setattr("ngram_copy.train.loop.time.perf_counter", lambda: now[0])
    meter = Meter(seen.append, 10)
    for now[0] in (100.0, 101.0, 102.0):
        meter.advance(1, tokens=50)
        meter.report(Seen(), 0.5, 0.1)
    assert [(one.seconds_left, one.tokens_per_second) for one in seen] == [(900.0, 0.5), (8.0, 50.0), (7.0, 50.0)]


# --- Formulas -------------------------------------------------------------------------------------------


def test_the_rate():
    linear = Training(steps=100, warmup=10, schedule="linear", decay_share=0.3)
    assert [linear.rate(step) for step in (0, 4, 9, 10, 69, 70)] == pytest.approx([0.1, 0.5, 1, 1, 1, 1])
    assert [linear.rate(step) for step in (71, 85, 99)] == pytest.approx([29 / 30, 0.5, 1 / 30])
    cosine = replace(linear, schedule="cosine")
    assert [cosine.rate(step) for step in (70, 85, 90, 99)] == pytest.approx(
        [1, 0.5, 0.25, (1 - math.cos(math.pi / 30)) / 2]
    )
    constant = replace(linear, schedule="constant", warmup=0)
    assert [constant.rate(step) for step in (0, 50, 99)] == [1, 1, 1]
    whole = replace(linear, decay_share=1, warmup=20)  # the paper's: warm-up and decay at once
    assert whole.rate(9) == pytest.approx(0.5 * 0.91)
    assert replace(linear, decay_share=0).rate(99) == 1


def test_the_optimiser_follows_the_rate(tmp_path, monkeypatch):
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self: (rates.append({g["lr"] for g in self.param_groups}), step(self))
    )
    training = few(steps=6, warmup=2, decay_share=0.5)
    run(tmp_path, training=training)
    assert rates == [{0.008 * training.rate(step)} for step in range(6)]


def test_the_cap():
    growing = Training(steps=100, lengths=(1, 32), cap_start=4, cap_share=0.4)
    assert [growing.cap(step) for step in (0, 1, 2, 20, 39, 40, 99)] == [4, 4, 5, 18, 31, 32, 32]
    assert {Training(steps=100, lengths=(1, 32)).cap(step) for step in range(100)} == {32}


def shown_lengths(tmp_path, training):
    """L of each step, from what a module was shown."""
    result = run(tmp_path, Bigram, training)
    shapes = [tokens.shape for tokens in result.model.shown]
    assert all(rows == training.tokens_per_step // (width + 1) for rows, width in shapes)  # the last is only predicted
    return [(width - 2) // 2 for _, width in shapes], result


def test_lengths_are_drawn_by_their_law_within_the_cap(tmp_path):
    training = few(steps=600, tokens_per_step=19, cap_start=2, cap_share=0.5, length_power=1.5)
    lengths, result = shown_lengths(tmp_path, training)
    assert all(length <= training.cap(step) for step, length in enumerate(lengths))
    counts = Counter(lengths[300:])
    weights = np.arange(1, 9) ** 1.5
    expected = 300 * weights / weights.sum()
    assert sum((counts[length + 1] - expected[length]) ** 2 / expected[length] for length in range(8)) < 24.3  # 0.1%
    assert result.losses[0][0] == 6  # a hundred points
    assert len(result.losses) == 100


def test_each_example_is_used_once_and_nothing_is_padded(tmp_path):
    training = few(steps=30)
    result = run(tmp_path, Bigram, training)
    by_length = {}
    for tokens in result.model.shown:
        by_length.setdefault((tokens.shape[1] - 2) // 2, []).append(tokens)
    for length, shown in by_length.items():
        rows = np.concatenate(shown)
        batch = TASK.batch(length, seed=5, split="train", start=0, count=len(rows))
        assert np.array_equal(rows, batch.tokens[:, :-1])
    assert result.examples == sum(map(len, result.model.shown))
    assert result.tokens == sum(tokens.size + len(tokens) for tokens in result.model.shown)


def test_the_loss_is_that_of_the_answers_alone(tmp_path):
    result = run(tmp_path, Bigram, few(steps=1, lengths=(3, 3)))
    torch.manual_seed(5)
    table = Bigram().table.weight.detach().double().log_softmax(-1)
    batch = TASK.batch(3, seed=5, split="train", start=0, count=128 // 9)
    # <bos> x x x <copy> | x x x <eos>
    nats = [-table[row[at - 1], row[at]] for row in batch.tokens.astype(int) for at in range(5, 9)]
    assert result.losses == [[1, pytest.approx(float(np.mean(nats)), rel=1e-6)]]


def test_a_task_with_padding_and_queries(tmp_path):
    task = PhoneBook()
    result = run(tmp_path, Bigram, few(steps=1, lengths=(2, 2), tokens_per_step=300), task)
    torch.manual_seed(5)
    table = Bigram(task.vocab.total).table.weight.detach().double().log_softmax(-1)
    rows = len(result.model.shown[0])
    batch = task.batch(2, seed=5, split="train", start=0, count=rows)
    nats = [
        -table[row[at - 1], row[at]]
        for row, begin, end in zip(batch.tokens.astype(int), batch.answer, batch.lengths, strict=True)
        for at in range(begin, end)
    ]
    assert rows > 1
    assert result.losses == [[1, pytest.approx(float(np.mean(nats)), rel=1e-6)]]
    assert result.tokens == batch.lengths.sum()


@dataclass(frozen=True)
class Scored(Copy):
    """Copies of which every other token counts."""

    def batch(self, length, **options):
        batch = super().batch(length, **options)
        return replace(batch, scored=np.arange(length + 1)[None] % 2 == np.zeros((len(batch), 1)))


@pytest.mark.parametrize("packing", [False, True])
def test_only_what_is_scored_is_learned(tmp_path, packing):
    training = few(steps=1, lengths=(3, 3), tokens_per_step=27, context=27, packing=packing)
    result = run(tmp_path, Bigram, training, Scored(vocab_size=6))
    torch.manual_seed(5)
    table = Bigram().table.weight.detach().double().log_softmax(-1)
    batch = Scored(vocab_size=6).batch(3, seed=5, split="train", start=0, count=3)
    nats = [-table[row[at - 1], row[at]] for row in batch.tokens.astype(int) for at in (5, 7)]
    assert result.losses == [[1, pytest.approx(float(np.mean(nats)), rel=1e-6)]]


def gradients(tmp_path, monkeypatch, training):
    found = []

    def record(parameters, norm):
        found.append([parameter.grad.clone() for parameter in parameters])

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", record)
    return found, run(tmp_path / str(training.accumulation), training=training)


def test_parts_of_a_batch_add_up_to_its_gradient(tmp_path, monkeypatch):
    whole, result = gradients(tmp_path, monkeypatch, few(steps=1))
    for parts in (2, 1000):
        found, other = gradients(tmp_path, monkeypatch, few(steps=1, accumulation=parts))
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-7)
        assert other.data_hash == result.data_hash
        assert other.losses == [[1, pytest.approx(result.losses[0][1], rel=1e-6)]]


def test_weight_decay_spares_what_is_no_matrix(tmp_path):
    start = run(tmp_path / "0", training=few(steps=1, lr=1e-12)).model.state_dict()
    end = run(tmp_path / "1", training=few(steps=1, lr=1e-12, warmup=0, weight_decay=1e11)).model.state_dict()
    for name, x in start.items():
        factor = 0.9 if x.dim() > 1 else 1.0
        torch.testing.assert_close(end[name], x * factor, rtol=1e-5, atol=1e-6)


def test_bfloat16_is_near_float32(tmp_path):
    losses = [run(tmp_path / kind, training=few(precision=kind)).losses[0][1] for kind in ("float32", "bfloat16")]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


# --- Packing --------------------------------------------------------------------------------------------


def test_packing_gives_the_loss_of_the_examples_to_a_model_that_cannot_see_across(tmp_path):
    apart = few(steps=1, lengths=(5, 5), tokens_per_step=78)  # 6 examples of 13
    packed = replace(apart, packing=True, context=40, tokens_per_step=80)  # two contexts of three, and one pad
    for config in (Bigram, CONFIG):
        blind = config is Bigram
        one, other = (run(tmp_path / f"{blind}{t.packing}", config, t) for t in (apart, packed))
        assert one.data_hash == other.data_hash
        assert (one.examples, one.tokens) == (other.examples, other.tokens) == (6, 78)
        assert (one.losses[0][1] == pytest.approx(other.losses[0][1], rel=1e-5)) == blind


def test_packed_contexts_hold_whole_examples(tmp_path):
    training = few(steps=20, packing=True, context=50, tokens_per_step=250)
    result = run(tmp_path, Bigram, training)
    examples = Counter()
    lengths = []
    for tokens in result.model.shown:
        assert tokens.shape == (5, 49)
        for row in tokens:
            used = row[row != TASK.vocab.pad]
            assert (row[: len(used)] == used).all()
            begins = [*np.flatnonzero(used == TASK.vocab.bos), len(used)]
            assert begins[0] == 0
            for begin, end in itertools.pairwise(begins):
                one = used[begin:end]
                end_seen = one[-1] == TASK.vocab.eos  # the last token of a context is only predicted
                assert end_seen or end == 49
                lengths.append((len(one) - 2) // 2 if not end_seen else (len(one) - 3) // 2)
                examples[one[1 : lengths[-1] + 1].tobytes()] += 1
    assert len(lengths) == result.examples
    by_length = Counter(lengths)
    assert set(by_length) == set(range(1, 9))
    assert by_length[8] > by_length[1]
    for length, count in by_length.items():
        batch = TASK.batch(length, seed=5, split="train", start=0, count=count)
        expected = Counter(string.tobytes() for string in batch.tokens[:, 1 : length + 1].astype(np.int64))
        assert expected == {string: n for string, n in examples.items() if len(string) == 8 * length}


def test_a_packed_training_learns_and_resumes(tmp_path):
    training = few(steps=8, packing=True, context=40, tokens_per_step=120)
    expected = run(tmp_path / "a", training=training)
    stop(tmp_path / "b", 4, training=training)
    same((run(tmp_path / "b", training=training), tmp_path / "b"), (expected, tmp_path / "a"))


# --- The grid -------------------------------------------------------------------------------------------


def test_the_best_of_a_grid_is_kept(tmp_path):
    grid = few(steps=20, lr=[1e-6, 8e-3])
    result = run(tmp_path / "grid", training=grid)
    alone = [run(tmp_path / str(lr), training=replace(grid, lr=lr)) for lr in grid.lr]
    assert result.lr == 8e-3
    assert result.grid == [one.grid[0] for one in alone]
    assert result.grid[1]["loss"] < result.grid[0]["loss"]
    assert result.to_json() | {"grid": None} == alone[1].to_json() | {"grid": None}
    assert weights_hash(load_model(tmp_path / "grid")) == alone[1].weights_hash
    assert {path.name for path in (tmp_path / "grid").iterdir()} == {WEIGHTS, "config.json"}
    again = run(tmp_path / "grid", training=grid)
    assert again.to_json() == result.to_json()


def test_a_grid_goes_on_where_it_was(tmp_path):
    grid = few(steps=6, lr=[1e-3, 8e-3])
    expected = run(tmp_path / "a", training=grid)
    stop(tmp_path / "b", 9, training=grid)  # in the middle of the second
    steps = []
    result = run(tmp_path / "b", training=grid, on_progress=lambda progress: steps.append(progress.step))
    assert steps == [10, 11, 12]
    same((result, tmp_path / "b"), (expected, tmp_path / "a"))


class Weak(Bigram):
    """Diverges where the first step was large."""

    def forward(self, tokens):
        logits = super().forward(tokens)
        return logits * torch.where(self.table.weight.abs().max() > 100, math.nan, 1.0)


def test_a_rate_that_diverges_is_told_and_the_others_count(tmp_path):
    grid = few(lr=[1e5, 1e-3], warmup=0)
    result = run(tmp_path, Weak, grid)
    assert result.grid[0] == {"lr": 1e5, "correct": 0, "total": 2, "loss": None, "diverged": 2}
    assert result.lr == 1e-3
    with pytest.raises(TrainingError, match=r"not finite with any lr of \[100000.0, 1000000.0\]: try less"):
        run(tmp_path / "x", Weak, replace(grid, lr=[1e5, 1e6]))


# --- Evaluations ----------------------------------------------------------------------------------------


def test_examples_to_solve():
    rows = [[10, 100, 19, 20], [20, 200, 18, 20], [30, 300, 20, 20], [40, 400, 19, 20], [50, 500, 20, 20]]
    assert examples_to_solve(rows) == 300
    assert examples_to_solve(rows[:3]) is None
    assert examples_to_solve([]) is None


def test_a_solved_training_can_stop(tmp_path):
    training = few(steps=20, lengths=(4, 4), eval_every=3, stop_when_solved=True)
    result = run(tmp_path, lambda total: Oracle(4, total), training)
    assert result.steps == 6
    assert result.evaluations == [[3, 33, 2, 2], [6, 66, 2, 2]]
    assert result.examples_to_solve == 33
    assert result.grid[0]["loss"] == pytest.approx(0, abs=1e-6)
    assert result.losses[-1][0] == 6


def test_an_engine_and_a_plain_module_evaluate_alike(tmp_path):
    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = LanguageModel(CONFIG)

        def forward(self, tokens):
            return self.inner(tokens)

    one = run(tmp_path / "a", training=few(eval_examples=50))
    other = run(tmp_path / "b", lambda total: Plain(), few(eval_examples=50))
    # Ours computes no logits before the answer: equal but for rounding.
    assert [step for step, _ in one.losses] == [step for step, _ in other.losses]
    assert [loss for _, loss in one.losses] == pytest.approx([loss for _, loss in other.losses], rel=1e-6)
    assert one.grid[0]["loss"] == pytest.approx(other.grid[0]["loss"], rel=1e-5)
    assert one.evaluations == other.evaluations


def test_another_task_may_validate(tmp_path):
    result = run(tmp_path, lambda total: Oracle(8, total), few(), validation=Copy(vocab_size=6, source="zipf"))
    assert result.evaluations[-1][2:] == [2, 2]
    with pytest.raises(CheckpointError, match=r"another training \(other: validation\)"):
        run(tmp_path, lambda total: Oracle(8, total), few())


# --- Stopped and continued ------------------------------------------------------------------------------


def stop(folder, step, **options):
    """Press Ctrl-C after a step."""

    def press(progress):
        if progress.step == step:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(folder, on_progress=press, **options)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("step", [1, 10, 23, 40])
def test_ctrl_c_saves_and_a_resumed_training_ends_in_the_same_bytes(tmp_path, undisturbed, step):
    stop(tmp_path, step)
    assert read_extra(tmp_path)["seen"]["step"] == step
    assert load_model(tmp_path).config.to_json() == read_extra(tmp_path)["about"]["model"]
    steps = []
    result = run(tmp_path, on_progress=lambda progress: steps.append(progress.step))
    assert steps == list(range(step + 1, 41))
    same((result, tmp_path), undisturbed)


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    class Patient(Bigram):
        def forward(self, tokens):
            signal.raise_signal(signal.SIGINT)
            return super().forward(tokens)

    training = few(accumulation=2)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Patient, training)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_after_the_last_step_is_not_lost(tmp_path, monkeypatch):
    def press(model):
        signal.raise_signal(signal.SIGINT)
        return weights_hash(model)

    monkeypatch.setattr("ngram_copy.train.loop.weights_hash", press)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, training=few())
    assert read_extra(tmp_path)["result"]["steps"] == 3


def test_random_numbers_of_a_model_go_on_too(tmp_path):
    class Dropping(Bigram):
        def forward(self, tokens):
            return torch.nn.functional.dropout(super().forward(tokens), 0.5, self.training)

    expected = run(tmp_path / "a", Dropping, few(steps=6))
    stop(tmp_path / "b", 3, config=Dropping, training=few(steps=6))
    torch.manual_seed(99)
    result = run(tmp_path / "b", Dropping, few(steps=6))
    same((result, tmp_path / "b"), (expected, tmp_path / "a"))


def child(*arguments, **environment):
    support = Path(train_killed.__file__)
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(support), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_a_killed_training_is_resumed_to_the_same_bytes(tmp_path, undisturbed):
    with child(tmp_path) as process:
        for line in process.stdout:
            if int(line) == 17:
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    assert 16 <= read_extra(tmp_path)["seen"]["step"] < 40
    same((train_killed.run(tmp_path), tmp_path), undisturbed)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    team = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    processes = [child(tmp_path / "team", 8, RANK=str(rank), LOCAL_RANK=str(rank), **team) for rank in range(2)]
    results = []
    for process in processes:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        results.append(json.loads(out.splitlines()[-1]))
    expected = run(tmp_path / "alone", training=replace(TRAINING, steps=8)).to_json()
    assert results[0] == results[1]
    for name in ("data_hash", "steps", "examples", "tokens", "parameters"):
        assert results[0][name] == expected[name]
    for (_, loss), (_, other) in zip(results[0]["losses"], expected["losses"], strict=True):
        assert loss == pytest.approx(other, rel=1e-4)
    assert weights_hash(load_model(tmp_path / "team")) == results[0]["weights_hash"]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"training": few(steps=4)}, "training"),
        ({"seed": 6}, "seed"),
        ({"task": Copy(vocab_size=6, source="zipf")}, "task, validation"),
        ({"config": replace(CONFIG, head_bias=True)}, "model"),
    ],
)
def test_the_folder_of_another_training_is_refused(tmp_path, change, name):
    run(tmp_path, training=few())
    with pytest.raises(CheckpointError, match=rf"holds another training \(other: {name}\): choose another folder"):
        run(tmp_path, **{"training": few(), **change})


def test_a_strange_or_damaged_checkpoint_is_refused(tmp_path):
    save_model(tmp_path, LanguageModel(CONFIG), {})
    with pytest.raises(CheckpointError, match="holds another training"):
        run(tmp_path)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="is truncated or no checkpoint"):
        run(tmp_path)


# --- What goes wrong ------------------------------------------------------------------------------------


def one_line(caught):
    assert "\n" not in str(caught.value)


class Failing(Bigram):
    """Goes wrong in a later pass of training."""

    def __init__(self, total, what, after=4):
        super().__init__(total)
        self.what, self.after = what, after

    def forward(self, tokens):
        logits = super().forward(tokens)
        return self.what(logits) if self.training and len(self.shown) > self.after else logits


def nan_loss(logits):
    return logits * math.nan


def nan_gradient(logits):
    return logits + (logits * 0).sqrt()


@pytest.mark.parametrize(("what", "step"), [(nan_loss, 5), (nan_gradient, 5)])
@pytest.mark.parametrize("seconds", [0, 1000], ids=["saved", "not saved"])
def test_a_loss_that_is_not_finite_stops_and_the_last_good_checkpoint_stays(tmp_path, what, step, seconds):
    with pytest.raises(TrainingError) as caught:
        run(tmp_path, lambda total: Failing(total, what), few(steps=10), checkpoint_seconds=seconds)
    one_line(caught)
    stays = f"the checkpoint of step 4 stays in {tmp_path}" if seconds == 0 else "there is no checkpoint yet"
    if seconds == 0:
        assert str(caught.value) == f"the loss is not finite at step {step} with lr = 0.008: try less; {stays}"
        assert read_extra(tmp_path)["seen"]["step"] == 4
    else:  # found a step later where only the gradient was wrong
        assert stays in str(caught.value)
        assert not (tmp_path / WEIGHTS).exists()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
    ids=["torch", "python", "cpu"],
)
def test_out_of_memory_says_what_was_too_much(tmp_path, error):
    def fail(logits):
        raise error

    with pytest.raises(TrainingError) as caught:
        run(tmp_path, lambda total: Failing(total, fail, after=1), few(lengths=(8, 8)))
    one_line(caught)
    assert str(caught.value).startswith("out of memory at step 2: 6 rows of 19 tokens (L up to 8); try fewer tokens")


def test_other_errors_pass_through(tmp_path):
    def fail(logits):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match=r"^something else$"):
        run(tmp_path, lambda total: Failing(total, fail), few(steps=10))


def test_out_of_memory_in_the_evaluation(tmp_path):
    class Large(Bigram):
        def forward(self, tokens):
            if not self.training:
                raise MemoryError
            return super().forward(tokens)

    with pytest.raises(TrainingError, match="out of memory in the evaluation at step 3: 2 strings of L = 8; try"):
        run(tmp_path, Large, few())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"tokens_per_step": 1.5}, "tokens_per_step must be an integer, not 1.5"),
        ({"lengths": [3]}, r"lengths must be two numbers, not \[3\]"),
        ({"lengths": "ab"}, "lengths must be two numbers, not 'ab'"),
        ({"lengths": [0, 3]}, "lengths must be at least 1, not 0"),
        ({"lengths": [4, 3]}, r"lengths must be \[least, greatest\], not \[4, 3\]"),
        ({"length_power": -1}, "length_power must be at least 0"),
        ({"cap_share": 1.5}, r"cap_share must be in \[0, 1\], not 1.5"),
        ({"cap_share": 0.5, "cap_start": 99}, r"cap_start must be within lengths \[1, 32\], not 99"),
        ({"packing": True, "context": 4096}, "context must be at most tokens_per_step = 2048, not 4096"),
        ({"lr": 0}, "lr must be a positive number or several different ones"),
        ({"lr": [1e-3, 1e-3]}, "lr must be a positive number or several different ones"),
        ({"lr": []}, "lr must be a positive number or several different ones"),
        ({"lr": "fast"}, "lr must be a number, not 'fast'"),
        ({"lr": math.inf}, "lr must be at least 0 and finite"),
        ({"betas": [0.9, 1]}, r"betas must be in \[0, 1\)"),
        ({"clip": math.nan}, "clip must be at least 0"),
        ({"schedule": "step"}, "schedule must be one of constant, linear, cosine, not 'step'"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, not 'float16'"),
        ({"threads": 0}, "threads must be at least 1, not 0"),
        ({"eval_examples": 0}, "eval_examples must be at least 1, not 0"),
    ],
)
def test_options_are_checked(options, text):
    with pytest.raises((ValueError, TypeError), match=text) as caught:
        Training(**options)
    one_line(caught)


def test_options_are_json():
    training = Training(lr=[1, 2], lengths=[2, 9], betas=[0, 0.5])
    values = json.loads(json.dumps(training.to_json()))
    assert Training(**values) == training
    assert values["lr"] == [1.0, 2.0]
    assert Training(lr=0.1) == Training(lr=[0.1])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"config": replace(CONFIG, vocab_size=9)}, "the model has 9 tokens, and the task 10"),
        ({"config": replace(CONFIG, max_positions=17)}, "max_positions must be at least 18 for these lengths, not 17"),
        ({"config": LanguageModel(CONFIG)}, "must be a ModelConfig or a function that makes a module, not a Lang"),
        ({"config": 3}, "config must be a ModelConfig or a function that makes a module, not a int"),
        ({"config": lambda total: 3}, r"config\(10\) must make a torch module, not a int"),
        ({"config": lambda total: torch.nn.Embedding(total, 9)}, r"must give logits of shape .* not shape"),
        (
            {"training": few(tokens_per_step=18)},
            "tokens_per_step = 18 has no room for an example of length 8: it has 19",
        ),
        ({"training": few(packing=True, context=18)}, "context = 18 has no room for an example of length 8"),
        (
            {"task": Copy(vocab_size=6), "validation": Copy(vocab_size=5)},
            "validation must have the task's 6 data tokens",
        ),
        ({"seed": -1}, r"seed must be 0 to 2\^63 - 1, not -1"),
        ({"checkpoint_seconds": -1}, "checkpoint_seconds must be at least 0"),
    ],
)
def test_arguments_are_checked(tmp_path, options, text):
    with pytest.raises((ValueError, RuntimeError), match=text) as caught:
        run(tmp_path, **{"training": few(), **options})
    if text:
        one_line(caught)
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == 1


def test_a_device_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match='device must be "auto", "cpu", "cuda"'):
        train(CONFIG, few(), TASK, seed=0, folder=tmp_path, device="quantum")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device 'cuda' was asked for, and torch finds no such GPU here") as caught:
            train(CONFIG, few(), TASK, seed=0, folder=tmp_path, device="cuda")
        one_line(caught)


# --- TensorBoard ----------------------------------------------------------------------------------------


class Writer:
    """In place of TensorBoard's."""

    made: ClassVar = []

    def __init__(self, where, purge_step):
        self.where, self.purge_step, self.rows = where, purge_step, []
        self.made.append(self)

    def add_scalar(self, name, value, step):
        self.rows.append((name, step))

    def close(self):
        self.rows.append("closed")


def test_tensorboard_is_told_if_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", type("module", (), {"SummaryWriter": Writer}))
    monkeypatch.setattr(Writer, "made", [])
    training = few(eval_every=2)
    stop(tmp_path / "a", 2, training=training, log_dir=tmp_path / "log")
    run(tmp_path / "a", training=training, log_dir=tmp_path / "log")
    first, second = Writer.made
    assert first.rows == [("loss", 1), ("exact match", 2), ("loss", 2), "closed"]
    assert second.rows == [("exact match", 3), ("loss", 3), "closed"]
    assert (first.where, first.purge_step, second.purge_step) == (str(tmp_path / "log"), 1, 3)


def test_tensorboard_is_missed_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="log_dir needs TensorBoard: pip install tensorboard"):
        run(tmp_path / "a", log_dir=tmp_path / "log")
    assert list(tmp_path.iterdir()) == []
