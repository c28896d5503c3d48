"""What is read from a checkpoint is what transformers reads, and what cannot run is refused."""

import json
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import s3fs
import torch
from checkpoints import (
    CONJOINING_JAMO,
    edit_json,
    edit_weights,
    seed_2022,
    tiny,
    tiny_jamo,
    tiny_mms,
    write_json,
)
from hub import COMMIT, run_hub
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC

from koasr.checkpoint import open_checkpoint, stage_checkpoint
from koasr.errors import JobError
from koasr.model_files import ModelFolder

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    """A sound checkpoint of the test's own, to break."""
    return Path(shutil.copytree(sound, tmp_path / "model"))


def refusal(model: str | Path, revision: str | None = None) -> str:
    """The line with which a checkpoint is refused, within two seconds."""
    start = time.monotonic()
    with pytest.raises(JobError) as error:
        open_checkpoint(str(model), revision)
    assert time.monotonic() - start < 2
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_checkpoint_says_what_transformers_says(sound: Path) -> None:
    checkpoint = open_checkpoint(str(sound))
    network = Wav2Vec2ForCTC.from_pretrained(sound)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(sound)
    rows = list(range(network.lm_head.out_features))
    assert checkpoint.tokens == tuple(tokenizer.convert_ids_to_tokens(rows))
    assert checkpoint.blank_id == tokenizer.pad_token_id == network.config.pad_token_id
    assert checkpoint.unk_id == tokenizer.unk_token_id
    assert checkpoint.delimiter_id == tokenizer.word_delimiter_token_id
    assert checkpoint.special_ids == {checkpoint.blank_id, checkpoint.unk_id}
    assert checkpoint.model == checkpoint.directory == str(sound)
    assert checkpoint.do_normalize
    assert (checkpoint.revision, checkpoint.sample_rate_hz) == ("", 16_000)
    assert pickle.loads(pickle.dumps(checkpoint)) == checkpoint


@pytest.mark.parametrize(
    ("kernel", "stride", "field", "hop"),
    [
        ((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), 400, 320),
        ((25, 8, 4, 4, 4), (10, 4, 2, 2, 2), 935, 320),
        ((10, 3, 2), (5, 2, 4), 30, 40),
    ],
)
def test_frames_follow_from_kernels_and_strides(
    tmp_path: Path, kernel: tuple[int, ...], stride: tuple[int, ...], field: int, hop: int
) -> None:
    dims = (16,) * len(kernel)
    tiny(tmp_path / "m", conv_kernel=kernel, conv_stride=stride, conv_dim=dims)
    checkpoint = open_checkpoint(str(tmp_path / "m"))
    network = Wav2Vec2ForCTC.from_pretrained(tmp_path / "m")
    assert (checkpoint.receptive_field, checkpoint.samples_per_frame) == (field, hop)
    assert checkpoint.num_frames(field - 1) == 0
    assert checkpoint.num_frames(field) == 1
    for num_samples in range(field, field + 2 * hop):
        frames = int(network._get_feat_extract_output_lengths(torch.tensor(num_samples)))
        assert checkpoint.num_frames(num_samples) == frames
    with torch.inference_mode():
        logits = network(torch.zeros(1, field + 7 * hop)).logits
    assert logits.shape[1] == checkpoint.num_frames(field + 7 * hop) == 8


def test_jamo_keep_their_form(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(tiny_jamo(tmp_path / "m")))
    assert "".join(checkpoint.tokens[: len(CONJOINING_JAMO)]) == CONJOINING_JAMO


@pytest.mark.parametrize("num_rows", [1205, 1207])
def test_the_seeds_head_is_as_wide_as_its_weights(tmp_path: Path, num_rows: int) -> None:
    seed = seed_2022(tmp_path / "seed", small=True, num_rows=num_rows)
    network = Wav2Vec2ForCTC.from_pretrained(seed, use_safetensors=False)
    network.save_pretrained(seed)
    checkpoint = open_checkpoint(str(seed))
    assert len(checkpoint.tokens) == num_rows
    assert checkpoint.tokens[1203:] == ("[UNK]", "[PAD]", "<s>", "</s>")[: num_rows - 1203]
    assert checkpoint.special_ids == set(range(1203, num_rows))
    # config.json says bos 1 and eos 2, as most do: here these are syllables.
    assert checkpoint.tokens[1:3] == ("가", "갉")
    assert (checkpoint.blank_id, checkpoint.delimiter_id, checkpoint.unk_id) == (1204, 0, 1203)


def test_files_as_transformers_5_writes_them_are_read(model: Path, sound: Path) -> None:
    from transformers import Wav2Vec2Processor

    processor = Wav2Vec2Processor.from_pretrained(sound)
    for path in model.glob("*.json"):
        if path.name != "config.json":
            path.unlink()
    processor.save_pretrained(model)
    assert (model / "processor_config.json").exists()
    assert not (model / "preprocessor_config.json").exists()
    found, wanted = open_checkpoint(str(model)), open_checkpoint(str(sound))
    assert (found.tokens, found.special_ids) == (wanted.tokens, wanted.special_ids)


def test_sharded_weights_are_read(model: Path, sound: Path) -> None:
    network = Wav2Vec2ForCTC.from_pretrained(sound)
    (model / "model.safetensors").unlink()
    network.save_pretrained(model, max_shard_size="40KB")
    checkpoint = open_checkpoint(str(model))
    shards = [name for name in checkpoint.sha256 if name.endswith(".safetensors")]
    assert len(shards) > 1
    assert "model.safetensors.index.json" in checkpoint.sha256
    (model / shards[0]).unlink()
    assert shards[0] in refusal(model)


def test_every_loaded_file_has_its_checksum(model: Path) -> None:
    before = open_checkpoint(str(model))
    assert set(before.sha256) == {path.name for path in model.iterdir()}
    (model / "README.md").write_text("not loaded")
    assert open_checkpoint(str(model)) == before
    edit_json(model / "preprocessor_config.json", do_normalize=False)
    after = open_checkpoint(str(model))
    assert (before.do_normalize, after.do_normalize) == (True, False)
    assert after.weights_sha256 != before.weights_sha256


def edit(name: str, **changes: object) -> Callable[[Path], object]:
    return lambda model: edit_json(model / name, **changes)


def remove(name: str) -> Callable[[Path], object]:
    return lambda model: (model / name).unlink()


def change_vocabulary(change: Callable[[dict[str, int]], object]) -> Callable[[Path], object]:
    def apply(model: Path) -> None:
        vocabulary = json.loads((model / "vocab.json").read_text())
        change(vocabulary)
        write_json(model / "vocab.json", vocabulary)

    return apply


def cut_weights(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickle_weights(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def drop_head(model: Path) -> None:
    def drop(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if "lm_head" in name]:
            del weights[name]

    edit_weights(model, drop)


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"

REFUSALS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "no config": (remove("config.json"), ["no config.json", "directory"]),
    "config is a list": (lambda m: (m / "config.json").write_text("[]"), ["config.json", "copy"]),
    "config is cut off": (lambda m: (m / "config.json").write_text("{"), ["not JSON", "copy"]),
    "another model": (
        edit("config.json", model_type="hubert", architectures=["HubertForCTC"]),
        ["a hubert model (HubertForCTC)", "Wav2Vec2ForCTC"],
    ),
    "another head": (
        edit("config.json", architectures=["Wav2Vec2ForPreTraining"]),
        ["Wav2Vec2ForPreTraining", "only a Wav2Vec2ForCTC"],
    ),
    "adapter on top": (edit("config.json", add_adapter=True), ["adapter", "merge"]),
    "low-rank adapter": (lambda m: write_json(m / "adapter_config.json", {}), ["adapter", "merge"]),
    "strides": (edit("config.json", conv_stride=[5, 2]), ["7 kernels, 2 strides"]),
    "unknown norm": (edit("config.json", feat_extract_norm="batch"), ["'batch'"]),
    "pickled weights": (
        pickle_weights,
        ["only pytorch_model.bin", "`koasr convert ", "--out DIR`"],
    ),
    "no weights": (remove("model.safetensors"), ["no model.safetensors"]),
    "cut off weights": (cut_weights, ["not a whole safetensors file", "copy it again"]),
    "empty weights": (lambda m: (m / "model.safetensors").write_bytes(b""), ["copy it again"]),
    "weights are text": (
        lambda m: (m / "model.safetensors").write_bytes(b"<html>" * 9),
        ["not a whole safetensors file"],
    ),
    "pointer": (lambda m: (m / "model.safetensors").write_bytes(LFS_POINTER), ["git lfs pull"]),
    "no head": (drop_head, ["no lm_head", "fine-tune"]),
    "no vocabulary": (remove("vocab.json"), ["no vocab.json"]),
    "row without token": (
        change_vocabulary(lambda v: v.pop("가")),
        ["43 rows", "no token for 1 of them (first: 0)"],
    ),
    "id beyond the head": (
        change_vocabulary(lambda v: v.update({"힣": 43})),
        ["reaches id 43", "43 rows", "vocab.json"],
    ),
    "id twice": (change_vocabulary(lambda v: v.update({"힣": 0})), ["'힣'", "the id 0"]),
    "id is text": (change_vocabulary(lambda v: v.update({"가": "0"})), ["'가'", "'0'"]),  # type: ignore[dict-item]
    "head and config differ": (edit("config.json", vocab_size=50), ["vocab_size is 50", "43 rows"]),
    "blank beyond the head": (edit("config.json", pad_token_id=43), ["pad_token_id", "43 rows"]),
    "two blanks": (edit("config.json", pad_token_id=0), ["'가'", "42 ('[PAD]')", "agree"]),
    "no extractor": (remove("preprocessor_config.json"), ["no preprocessor_config.json"]),
    "telephone": (edit("preprocessor_config.json", sampling_rate=8000), ["8000 Hz", "16000 Hz"]),
}


@pytest.mark.parametrize("case", list(REFUSALS))
def test_refused_in_one_line(model: Path, case: str) -> None:
    spoil, wanted = REFUSALS[case]
    spoil(model)
    line = refusal(model)
    assert str(model) in line
    assert [part for part in wanted if part not in line] == [], line


_QUERY = "wav2vec2.encoder.layers.1.attention.q_proj.bias"
_LENGTH = "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0"
MISFITS: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor | None], str]] = {
    "missing": ({}, {_QUERY: None}, "q_proj.bias: found none, wanted \\(32,\\)"),
    "length": (
        {},
        {_LENGTH: torch.ones(1, 1, 15)},
        "original0: found \\(1, 1, 15\\), wanted \\(1, 1, 16\\)",
    ),
    "left over": ({}, {"odd": torch.ones(1)}, "odd: found \\(1,\\), wanted none"),
    "a line break": ({}, {"odd\nname": torch.ones(1)}, r"odd\\nname: found"),
    "short": ({}, {_QUERY: torch.zeros(31)}, "found \\(31,\\), wanted \\(32,\\)"),
    "broadcast": ({}, {"lm_head.bias": torch.zeros(1)}, "lm_head.bias: found \\(1,\\)"),
    "kernel": ({"conv_kernel": [8, 3, 3, 3, 3, 2, 2]}, {}, "conv.weight: found"),
    "size": ({"hidden_size": 48}, {}, "found"),
    "layers": ({"num_hidden_layers": 1}, {}, "layers.1"),
    "endless layers": ({"num_hidden_layers": 10**12}, {}, "layers.2"),
    "heads": ({"num_attention_heads": 5}, {}, "num_attention_heads is 5, hidden_size 32"),
    "groups": ({"num_conv_pos_embedding_groups": 3}, {}, "embedding_groups is 3"),
    "no eps": ({"layer_norm_eps": None}, {}, "layer_norm_eps is None"),
    "a list": ({"hidden_act": ["gelu"]}, {}, "hidden_act is"),
    "unknown function": ({"hidden_act": "snake"}, {}, "'snake' in config.json is not known"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_config_and_weights_that_do_not_fit_are_refused(model: Path, misfit: str) -> None:
    fields, changed, message = MISFITS[misfit]
    edit_json(model / "config.json", **fields)

    def edit(weights: dict[str, torch.Tensor]) -> None:
        for name, weight in changed.items():
            weights.pop(name, None)
            weights.update({} if weight is None else {name: weight})

    edit_weights(model, edit)
    line = refusal(model)
    assert str(model) in line
    assert re.search(message, line), line


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "vocab.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "preprocessor_config.json",
    ],
)
def test_no_value_in_a_file_leads_to_a_traceback(model: Path, name: str) -> None:
    content = json.loads((model / name).read_text())
    odd = [None, -1, 10**12, 1.5, True, "x", [], [None], [-1], {}, {"content": 3}]
    for key in content:
        for value in odd:
            write_json(model / name, content | {key: value})
            with suppress(JobError):
                open_checkpoint(str(model))


def test_no_damaged_header_leads_to_a_traceback(model: Path) -> None:
    path = model / "model.safetensors"
    sound_body = path.read_bytes()
    chance = random.Random(0)
    for _ in range(500):
        body = bytearray(sound_body)
        body[chance.randrange(0, 3000)] ^= 1 << chance.randrange(8)
        path.write_bytes(body)
        with suppress(JobError):
            open_checkpoint(str(model))


def test_without_a_blank_there_is_no_ctc(model: Path) -> None:
    edit_json(model / "config.json", pad_token_id=None)
    assert open_checkpoint(str(model)).tokens[open_checkpoint(str(model)).blank_id] == "[PAD]"
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        edit_json(model / name, pad_token=None)
    assert "no pad token" in refusal(model)


def test_many_languages_are_refused_with_the_command_that_keeps_one(tmp_path: Path) -> None:
    line = refusal(tiny_mms(tmp_path / "mms"))
    assert "2 languages" in line
    assert f"`koasr convert {tmp_path}/mms --out DIR --target-lang kor`" in line


def test_what_is_no_directory_is_refused(model: Path, tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nothing")
    assert "is a file" in refusal(model / "config.json")
    assert "no config.json" in refusal(tmp_path)
    assert "a revision is of a model on the hub" in refusal(model, "main")
    assert "cannot open" in refusal("nosuchscheme://bucket/model")
    assert "chained URI" in refusal("simplecache::s3://bucket/model")
    assert "sesame" not in refusal("s3://open:sesame@bucket/model")


def test_a_local_checkpoint_stays_where_it_is(model: Path) -> None:
    checkpoint = open_checkpoint(str(model))
    assert stage_checkpoint(checkpoint) == model
    body = bytearray((model / "model.safetensors").read_bytes())
    body[-1] ^= 1
    (model / "model.safetensors").write_bytes(body)
    with pytest.raises(JobError, match=r"wrong checksum of model.safetensors"):
        stage_checkpoint(checkpoint)
    shutil.rmtree(model)
    with pytest.raises(JobError, match="on this node: put the model where every node reads it"):
        stage_checkpoint(checkpoint)


@pytest.fixture
def remote(sound: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A sound checkpoint on S3, and an empty cache."""
    monkeypatch.setenv("KOASR_CACHE", str(tmp_path / "cache"))
    store = s3fs.S3FileSystem(use_listings_cache=False)
    store.put(f"{sound}/", f"{s3}/models/sound/", recursive=True)
    return f"{s3}/models/sound"


def test_a_checkpoint_on_s3_is_copied_once_a_node(
    remote: str, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    copy = ModelFolder.copy

    def counted(folder: ModelFolder, name: str, target: Path) -> None:
        copied.append(name)
        copy(folder, name, target)

    monkeypatch.setattr(ModelFolder, "copy", counted)
    checkpoint = open_checkpoint(f"{remote}/")
    assert checkpoint.sha256 == open_checkpoint(str(sound)).sha256
    assert (checkpoint.model, checkpoint.directory) == (f"{remote}/", remote)
    with ThreadPoolExecutor(4) as pool:
        staged = set(pool.map(stage_checkpoint, [checkpoint] * 4))
    (directory,) = staged
    assert sorted(copied) == sorted(checkpoint.sha256)
    assert directory.is_relative_to(tmp_path / "cache")
    assert {path.name for path in directory.iterdir()} == set(checkpoint.sha256)
    s3fs.S3FileSystem(use_listings_cache=False).rm(remote, recursive=True)
    assert stage_checkpoint(checkpoint) == directory


def test_a_spoilt_copy_is_made_anew(remote: str) -> None:
    checkpoint = open_checkpoint(remote)
    directory = stage_checkpoint(checkpoint)
    (directory / "vocab.json").write_text("{}")
    (directory / "model.safetensors").unlink()
    assert stage_checkpoint(checkpoint) == directory
    assert open_checkpoint(str(directory)).sha256 == checkpoint.sha256


def test_a_model_replaced_on_s3_is_refused(remote: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(remote)
    store = s3fs.S3FileSystem(use_listings_cache=False)
    store.pipe_file(f"{remote}/vocab.json", b"{}")
    with pytest.raises(JobError, match=r"wrong checksum of vocab.json"):
        stage_checkpoint(checkpoint)
    assert not [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]
    assert "vocab.json" in refusal(remote)


def test_what_is_not_on_s3_is_refused(
    remote: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "does not exist" in refusal(f"{s3}/models/other")
    assert "does not exist" in refusal("s3://no-such-bucket/model")
    assert "no config.json" in refusal(f"{s3}/models")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    s3fs.S3FileSystem.clear_instance_cache()
    line = refusal(remote)
    s3fs.S3FileSystem.clear_instance_cache()
    assert "access denied" in line
    assert "wrong-secret" not in line


def test_a_cache_that_cannot_be_written_says_how_to_move_it(
    remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KOASR_CACHE", str(tmp_path / "file"))
    with pytest.raises(JobError, match="set KOASR_CACHE"):
        stage_checkpoint(open_checkpoint(remote))


def ask_hub(endpoint: str, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Open a checkpoint where the hub is `endpoint`, in a process that must not import torch."""
    script = (
        "import sys\n"
        "from koasr.checkpoint import open_checkpoint, stage_checkpoint\n"
        "from koasr.errors import JobError\n"
        "try:\n"
        "    checkpoint = open_checkpoint(*sys.argv[1:])\n"
        "    print(checkpoint.revision, stage_checkpoint(checkpoint).name)\n"
        "except JobError as error:\n"
        "    print(error)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, check=True, timeout=30
    )


def test_a_model_of_the_hub_is_fetched_at_its_commit(sound: Path, tmp_path: Path) -> None:
    with run_hub("someone/korean", sound) as (endpoint, requests):
        assert ask_hub(endpoint, tmp_path, "someone/korean").stdout == f"{COMMIT} {COMMIT}\n"
        wrong = ask_hub(endpoint, tmp_path, "someone/other").stdout
        assert "no such model on the Hugging Face hub" in wrong
        assert "no revision 'v9'" in ask_hub(endpoint, tmp_path, "someone/korean", "v9").stdout
        assert f"GET /someone/korean/resolve/{COMMIT}/model.safetensors" in requests
        requests.clear()
        assert COMMIT in ask_hub(endpoint, tmp_path, "someone/korean", COMMIT).stdout
        assert requests == []
    assert COMMIT in ask_hub(endpoint, tmp_path, "someone/korean").stdout
    missing = ask_hub(endpoint, tmp_path / "empty", "someone/korean").stdout
    assert "does not answer" in missing
    assert missing.count("\n") == 1


def test_only_pickles_on_the_hub_are_refused_and_not_fetched(tmp_path: Path) -> None:
    seed = seed_2022(tmp_path / "seed", small=True)
    with run_hub("someone/korean", seed) as (endpoint, requests):
        line = ask_hub(endpoint, tmp_path, "someone/korean").stdout
    assert "no safetensors weights" in line
    assert "`koasr convert someone/korean --out DIR`" in line
    assert not [request for request in requests if request.endswith(".bin")]
