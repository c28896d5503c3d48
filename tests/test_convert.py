"""Converted models compute what the originals compute, and what does not fit is refused."""

import json
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import children
import numpy as np
import pytest
import s3fs
import torch
from checkpoints import (
    edit_json,
    seed_2022,
    tiny,
    tiny_group_norm,
    tiny_jamo,
    tiny_mms,
)
from hub import COMMIT, run_hub
from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

from koasr.checkpoint import open_checkpoint, stage_checkpoint
from koasr.convert import convert, run_apart
from koasr.errors import JobError
from koasr.model import AcousticModel
from koasr.model_description import read_tokenizer
from koasr.model_files import ModelFolder
from koasr.recognize import recognize
from koasr.rewrite import rewrite


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seed_2022(tmp_path_factory.mktemp("seed") / "seed", small=True)


@pytest.fixture
def broken(seed: Path, tmp_path: Path) -> Path:
    """The seed's small twin, of the test's own, to break."""
    return Path(shutil.copytree(seed, tmp_path / "broken"))


@torch.inference_mode()
def logits(model: Path, *, is_pickled: bool = False) -> torch.Tensor:
    """Logits of two seconds by plain transformers."""
    network = Wav2Vec2ForCTC.from_pretrained(
        model, dtype=torch.float32, use_safetensors=not is_pickled
    ).eval()
    extractor = Wav2Vec2Processor.from_pretrained(model).feature_extractor
    waveform = torch.randn(32_000, generator=torch.Generator().manual_seed(7)).numpy()
    inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
    found: torch.Tensor = network(**inputs).logits[0]
    return found


def test_the_seeds_small_twin_converts(
    seed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "models" / "seed"
    convert(str(seed), out=str(out))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[1] == "head: 1207 tokens, blank [PAD] (1204); 50 frames a second"
    assert lines[2] == "check: 1 s gave 49 frames, finite and equal to the original's"
    assert (logits(out) - logits(seed, is_pickled=True)).abs().max() <= 1e-6
    checkpoint = open_checkpoint(str(out))
    assert len(checkpoint.tokens) == 1207
    assert checkpoint.tokens[1203:] == ("[UNK]", "[PAD]", "<s>", "</s>")
    assert checkpoint.special_ids == {1203, 1204, 1205, 1206}
    assert (checkpoint.blank_id, checkpoint.delimiter_id, checkpoint.unk_id) == (1204, 0, 1203)
    assert stage_checkpoint(checkpoint) == out
    record = json.loads((out / "koasr.json").read_text())
    assert record["source"] == str(seed)
    assert list(record["source_sha256"]) == ["pytorch_model.bin"]
    assert {n: f["sha256"] for n, f in record["files"].items()} == checkpoint.sha256
    assert os.listdir(tmp_path / "models") == ["seed"]


def test_plain_transformers_reads_the_same_tokens(seed: Path, tmp_path: Path) -> None:
    out = rewritten(seed, tmp_path / "out")
    tokenizer = Wav2Vec2Processor.from_pretrained(out).tokenizer
    assert (
        tuple(tokenizer.convert_ids_to_tokens(list(range(1207))))
        == open_checkpoint(str(out)).tokens
    )
    assert len(tokenizer) == 1207
    assert tokenizer.decode([2, 1204, 2, 0, 3, 3]) == "갉갉 값"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_seed_in_full_size_converts(tmp_path: Path) -> None:
    seed = seed_2022(tmp_path / "seed", small=False)
    convert(str(seed), out=str(tmp_path / "out"))
    (seed / "pytorch_model.bin").unlink()
    checkpoint = open_checkpoint(str(tmp_path / "out"))
    assert len(checkpoint.tokens) == 1207
    model = AcousticModel(checkpoint, stage_checkpoint(checkpoint))
    rng = np.random.default_rng(0)
    lengths = (48_000, 32_000)
    segments = [rng.normal(0, 3000, length).astype(np.int16) for length in lengths]
    for length, path in zip(lengths, recognize(model, segments, batch_seconds=10), strict=True):
        assert path is not None
        assert path.num_frames == checkpoint.num_frames(length)
    # pytest keeps the folders of three runs, and this one is 4 GB.
    shutil.rmtree(tmp_path / "out")


def rewritten(source: Path, target: Path, *, target_lang: str | None = None) -> Path:
    """What the child process of `convert` does, done in this one."""
    folder = ModelFolder(str(source), "the model")
    tokenizer = read_tokenizer(folder)
    if target_lang:
        tokenizer["vocab.json"] = tokenizer["vocab.json"][target_lang]
    extractor = folder.read_json("preprocessor_config.json")
    rewrite(
        source,
        target,
        model="the model",
        tokenizer=tokenizer,
        extractor=extractor,
        target_lang=target_lang,
    )
    return target


@pytest.mark.parametrize("write", [tiny, tiny_jamo, tiny_group_norm])
def test_a_clean_model_stays_what_it_is(write: Callable[[Path], Path], tmp_path: Path) -> None:
    source = write(tmp_path / "source")
    out = rewritten(source, tmp_path / "out")
    assert torch.equal(logits(out), logits(source))
    before, after = open_checkpoint(str(source)), open_checkpoint(str(out))
    for name in ("tokens", "blank_id", "delimiter_id", "unk_id", "special_ids"):
        assert getattr(after, name) == getattr(before, name)


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    source = tiny(tmp_path / "source")
    Wav2Vec2ForCTC.from_pretrained(source).half().save_pretrained(source)
    out = rewritten(source, tmp_path / "out")
    network = Wav2Vec2ForCTC.from_pretrained(out)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("width", [1205, 1207])
def test_the_head_may_lack_the_added_tokens(tmp_path: Path, width: int) -> None:
    source = seed_2022(tmp_path / "source", small=True, num_rows=width)
    assert len(open_checkpoint(str(rewritten(source, tmp_path / "out"))).tokens) == width


@pytest.fixture
def without_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """`convert` in one process, for what the child has no part in: it takes seconds to start."""

    def run_here(
        function: object, source: Path, clean: Path, arguments: dict[str, Any], **_: object
    ) -> dict[str, int]:
        return rewrite(source, clean, **arguments)

    monkeypatch.setattr("koasr.convert.run_apart", run_here)


@pytest.mark.usefixtures("without_child")
def test_one_language_of_many_is_kept(tmp_path: Path) -> None:
    source = tiny_mms(tmp_path / "source")
    convert(str(source), out=str(tmp_path / "out"), target_lang="kor")
    checkpoint = open_checkpoint(str(tmp_path / "out"))
    assert checkpoint.tokens[:4] == ("[PAD]", "|", "[UNK]", "가")
    network = Wav2Vec2ForCTC.from_pretrained(
        source, target_lang="kor", ignore_mismatched_sizes=True
    ).eval()
    noise = torch.randn(1, 16_000)
    converted = Wav2Vec2ForCTC.from_pretrained(tmp_path / "out").eval()
    with torch.inference_mode():
        assert torch.equal(converted(noise).logits, network(noise).logits)


def change_weights(model: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = torch.load(model / "pytorch_model.bin", weights_only=True)
    change(weights)
    torch.save(weights, model / "pytorch_model.bin")


EXTRA = {"wav2vec2.encoder.layers.2.layer_norm.weight": torch.ones(64)}
MISFITS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str]] = {
    "missing": (lambda w: w.pop("lm_head.bias"), "the weights lack lm_head.bias"),
    "left over": (lambda w: w.update(EXTRA), "hold, besides the model, wav2vec2.encoder.layers.2"),
    "of another model": (lambda w: w.update(quantizer=torch.ones(1)), "besides the model, quantiz"),
    "misshapen": (
        lambda w: w.update({"lm_head.weight": torch.ones(1204, 64)}),
        "have another shape than config.json says for lm_head.weight",
    ),
    "not finite": (lambda w: w["lm_head.bias"].fill_(torch.nan), "noise are not finite"),
}


@pytest.mark.parametrize("case", list(MISFITS))
def test_weights_that_do_not_fit_are_refused(broken: Path, tmp_path: Path, case: str) -> None:
    change, message = MISFITS[case]
    change_weights(broken, change)
    with pytest.raises(JobError, match=message):
        rewritten(broken, tmp_path / "out")


@pytest.mark.parametrize("probability", [0.0, 0.05])
@pytest.mark.parametrize("is_there", [True, False])
def test_what_only_training_uses_may_lack_or_be_left_over(
    broken: Path, tmp_path: Path, probability: float, is_there: bool
) -> None:
    edit_json(broken / "config.json", mask_time_prob=probability)
    if not is_there:
        change_weights(broken, lambda w: w.pop("wav2vec2.masked_spec_embed"))
    out = rewritten(broken, tmp_path / "out")
    _, report = Wav2Vec2ForCTC.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] | report["unexpected_keys"]


def test_a_vocabulary_that_does_not_fit_is_refused(broken: Path, tmp_path: Path) -> None:
    (broken / "added_tokens.json").unlink()
    with pytest.raises(JobError, match=r"1207 rows but .* no token for 2 of them"):
        rewritten(broken, tmp_path / "out")


class Malicious:
    """Makes a file when it is unpickled without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_that_would_run_a_program_is_refused(broken: Path, tmp_path: Path) -> None:
    torch.save({"weight": Malicious(tmp_path / "mark")}, broken / "pytorch_model.bin")
    with pytest.raises(JobError, match=r"system beside tensors: refused") as error:
        convert(str(broken), out=str(tmp_path / "out"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "out").exists()
    assert os.listdir(tmp_path) == ["broken"]


def test_weights_that_unpack_without_end_are_refused(broken: Path, tmp_path: Path) -> None:
    endless = torch.zeros(1, dtype=torch.float16).expand(10**9, 64)
    change_weights(broken, lambda w: w.update({"lm_head.weight": endless}))
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(JobError, match="far more memory than their size"):
        convert(str(broken), out=str(tmp_path / "out"))
    assert resource.getrlimit(resource.RLIMIT_AS) == before


@pytest.mark.parametrize("content", [b"version https://git-lfs", b"", b"<html>"])
def test_what_holds_no_tensors_is_refused(broken: Path, tmp_path: Path, content: bytes) -> None:
    (broken / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(JobError, match="holds no tensors"):
        rewritten(broken, tmp_path / "out")


def test_weights_that_were_cut_off_are_refused(broken: Path, tmp_path: Path) -> None:
    os.truncate(broken / "pytorch_model.bin", 100_000)
    with pytest.raises(
        JobError, match=r"cannot be read: fetch them again \(RuntimeError: "
    ) as error:
        convert(str(broken), out=str(tmp_path / "out"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("child", "message"),
    [
        (children.crash, "the process that reads the weights died of SIGSEGV"),
        (children.leave, "the process that reads the weights ended with 3"),
        (children.hang, "took over 3 s: given up"),
        (children.refuse, "not good enough"),
    ],
)
def test_a_child_that_fails_is_one_line(child: Callable[..., None], message: str) -> None:
    start = time.monotonic()
    with pytest.raises(JobError, match=message):
        run_apart(child, model="the model", limit_s=3)
    assert time.monotonic() - start < 10


def test_a_child_that_succeeds_is_heard() -> None:
    assert run_apart(children.count, 7, model="the model", limit_s=60) == {"number": 7}


def test_the_output_must_be_free(seed: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("")
    (tmp_path / "file").write_text("")
    for out, message in (
        ("full", "exists and is not empty"),
        ("file", "exists and is not empty"),
        ("file/below", "cannot be made"),
    ):
        with pytest.raises(JobError, match=message):
            convert(str(seed), out=str(tmp_path / out))
    with pytest.raises(JobError, match="give a local directory"):
        convert(str(seed), out="s3://bucket/model")
    assert (tmp_path / "full" / "precious").exists()


def test_what_cannot_be_converted_is_said_before_any_work(tmp_path: Path) -> None:
    mms = tiny_mms(tmp_path / "mms")
    start = time.monotonic()
    for language, message in (
        (None, "--target-lang kor"),
        ("xyz", "only eng, kor … .2. languages"),
        ("eng", "no adapter.eng.safetensors"),
    ):
        with pytest.raises(JobError, match=message):
            convert(str(mms), out=str(tmp_path / "out"), target_lang=language)
    (mms / "model.safetensors").unlink()
    with pytest.raises(JobError, match=r"neither model.safetensors nor pytorch_model.bin"):
        convert(str(mms), out=str(tmp_path / "out"), target_lang="kor")
    seed = seed_2022(tmp_path / "seed", small=True)
    with pytest.raises(JobError, match=r"vocab.json has no languages"):
        convert(str(seed), out=str(tmp_path / "out"), target_lang="kor")
    with pytest.raises(JobError, match="does not exist"):
        convert(str(tmp_path / "nothing"), out=str(tmp_path / "out"))
    assert time.monotonic() - start < 2


@pytest.mark.usefixtures("without_child")
def test_a_model_on_s3_converts_and_its_copy_there_is_not_read_for_its_checksum(
    seed: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = s3fs.S3FileSystem(use_listings_cache=False)
    store.put(f"{seed}/", f"{s3}/seed/", recursive=True)
    with pytest.raises(JobError, match=f"koasr convert {s3}/seed --out DIR"):
        open_checkpoint(f"{s3}/seed")
    convert(f"{s3}/seed", out=str(tmp_path / "out"))
    store.put(f"{tmp_path}/out/", f"{s3}/clean/", recursive=True)
    read: list[str] = []
    original = ModelFolder.sha256

    def sha256(folder: ModelFolder, name: str) -> str:
        read.append(name)
        return original(folder, name)

    monkeypatch.setattr(ModelFolder, "sha256", sha256)
    checkpoint = open_checkpoint(f"{s3}/clean")
    assert "model.safetensors" not in read
    assert checkpoint.sha256 == open_checkpoint(str(tmp_path / "out")).sha256
    monkeypatch.setenv("KOASR_CACHE", str(tmp_path / "cache"))
    assert stage_checkpoint(checkpoint).is_relative_to(tmp_path / "cache")


@pytest.mark.usefixtures("without_child")
def test_a_model_of_the_hub_keeps_its_commit(
    seed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as hub_constants

    with run_hub("someone/korean", seed) as (endpoint, requests):
        url = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(hub_constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(hub_constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
        monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        convert("someone/korean", out=str(tmp_path / "out"), revision="main")
    assert not [request for request in requests if request.endswith("training_args.bin")]
    checkpoint = open_checkpoint(str(tmp_path / "out"))
    assert checkpoint.revision == COMMIT
    # Other weights under an old note: the note is not believed.
    network = Wav2Vec2ForCTC.from_pretrained(tmp_path / "out")
    torch.nn.init.zeros_(network.lm_head.weight)
    network.save_pretrained(tmp_path / "out")
    assert open_checkpoint(str(tmp_path / "out")).revision == ""
