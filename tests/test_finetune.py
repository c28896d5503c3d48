"""A real training of a few steps on a handful of recordings, and the rules around it."""

import io
import json
import math
import re
import tarfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import cyclopts
import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

from koasr.errors import JobError
from koasr.finetune import finetune
from koasr.recipe import Recipe
from koasr.rows import SAMPLE_RATE
from koasr.training_data import Collator, Example, LengthBatches, SpeechDataset, make_noise
from koasr.vocabulary import (
    Vocabulary,
    build_vocabulary,
    load_vocabulary,
    normalize_reference,
)

SENTENCES = ["나는 간다", "학교에 가요", "네", "", "오늘은 비가 와요", "물 좀 주세요!"]
JAMO = ["[PAD]", "|", "[UNK]", *map(chr, [*range(0x1100, 0x1113), *range(0x1161, 0x1176)])]


def tone(seconds: float, pitch_hz: float = 220.0) -> NDArray[np.int16]:
    time_s = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (8_000 * np.sin(2 * np.pi * pitch_hz * time_s)).astype(np.int16)


def write_tar(path: Path, recordings: Sequence[tuple[NDArray[np.int16], str | None]]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, (samples, reference) in enumerate(recordings):
            buffer = io.BytesIO()
            soundfile.write(buffer, samples, SAMPLE_RATE, format="FLAC")
            members = [("flac", buffer.getvalue())]
            members += [] if reference is None else [("txt", reference.encode())]
            for extension, data in members:
                info = tarfile.TarInfo(f"utt{number:03d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    spoken = [(tone(1.0 + 0.1 * n, 200 + 40 * n), text) for n, text in enumerate(SENTENCES)]
    write_tar(folder / "train.tar", [*spoken, (tone(1.0), None), (tone(30.0), "너무 길다")])
    write_tar(folder / "dev.tar", spoken[:3])
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.json"
    settings = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": [16, 16],
        "conv_kernel": [20, 16],
        "conv_stride": [20, 16],
        "conv_bias": True,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "mask_time_prob": 0.0,
        "layerdrop": 0.0,
    }
    path.write_text(json.dumps(settings))
    return path


def recipe(**changes: object) -> Recipe:
    quick: dict[str, object] = {"max_steps": 6, "warmup_steps": 2, "eval_steps": 3, "save_steps": 3}
    quick |= {"logging_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
    return Recipe(**(quick | {"noise_share": 0.5} | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(speech: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained")
    finetune(
        [str(speech / "train.tar")],
        output=output,
        eval=[str(speech / "dev.tar")],
        config=config,
        recipe=recipe(),
    )
    return output


def history(output: Path) -> list[dict[str, float]]:
    lines = (output / "training_log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def weights(output: Path) -> dict[str, torch.Tensor]:
    with safe_open(output / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_the_output_loads_with_transformers_and_fits_its_vocabulary(trained: Path) -> None:
    model, report = Wav2Vec2ForCTC.from_pretrained(trained, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(trained)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(trained)
    ids = load_vocabulary(trained / "vocab.json").ids
    assert tokenizer.get_vocab() == ids
    assert model.config.vocab_size == model.lm_head.out_features == len(ids)
    assert model.config.pad_token_id == tokenizer.pad_token_id == ids["[PAD]"]
    assert (extractor.do_normalize, extractor.return_attention_mask) == (True, True)
    assert extractor.sampling_rate == SAMPLE_RATE
    special = json.loads((trained / "special_tokens_map.json").read_text())
    assert special == {"unk_token": "[UNK]", "pad_token": "[PAD]"}
    assert not list(trained.glob("*.bin"))


def test_the_vocabulary_has_what_is_said_and_nothing_of_what_was_left_out(trained: Path) -> None:
    ids = load_vocabulary(trained / "vocab.json").ids
    assert "길" not in ids  # only the recording of 30 s says it
    assert "!" not in ids
    assert list(ids)[-3:] == ["|", "[UNK]", "[PAD]"]


def test_the_log_and_the_card_hold_the_curve(trained: Path) -> None:
    evaluations = [entry for entry in history(trained) if "eval_cer" in entry]
    assert [entry["step"] for entry in evaluations] == [3, 6]
    assert all(math.isfinite(entry["eval_loss"]) for entry in evaluations)
    losses = [entry["loss"] for entry in history(trained) if "loss" in entry]
    assert len(losses) == 6
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    card = (trained / "README.md").read_text()
    assert f"| {evaluations[1]['eval_loss']:.4f} |" in card
    assert "| `learning_rate` | 0.001 |" in card


def test_an_interrupted_run_goes_on_to_the_same_weights(
    trained: Path, speech: Path, config: Path, tmp_path: Path
) -> None:
    # The scheduler of 6 steps, stopped after 3: what an interruption leaves behind.
    source = trained / "checkpoints"
    (tmp_path / "checkpoints").mkdir()
    (source / "checkpoint-3").rename(tmp_path / "checkpoints" / "checkpoint-3")
    (tmp_path / "vocab.json").write_bytes((trained / "vocab.json").read_bytes())
    finetune(
        [str(speech / "train.tar")],
        output=tmp_path,
        eval=[str(speech / "dev.tar")],
        config=config,
        recipe=recipe(),
    )
    assert [entry["step"] for entry in history(tmp_path) if "eval_cer" in entry] == [3, 6]
    resumed, straight = weights(tmp_path), weights(trained)
    assert all(torch.allclose(resumed[name], straight[name], atol=1e-6) for name in straight)


def test_no_resume_refuses_an_output_that_holds_a_run(
    trained: Path, speech: Path, config: Path
) -> None:
    with pytest.raises(JobError, match="--resume"):
        finetune(
            [str(speech / "train.tar")],
            output=trained,
            eval=[str(speech / "dev.tar")],
            config=config,
            resume=False,
        )


def test_a_resumed_run_refuses_another_vocabulary(
    trained: Path, speech: Path, config: Path, tmp_path: Path
) -> None:
    tokens = build_vocabulary([*SENTENCES, "힣"])
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps(tokens.ids))
    with pytest.raises(JobError, match="another vocabulary"):
        finetune(
            [str(speech / "train.tar")],
            output=trained,
            eval=[str(speech / "dev.tar")],
            config=config,
            vocabulary=path,
            max_unknown_share=0.1,
        )


def test_a_checkpoint_is_fine_tuned_with_its_own_vocabulary_and_frozen_convolutions(
    trained: Path, speech: Path, tmp_path: Path
) -> None:
    finetune(
        [str(speech / "train.tar")],
        output=tmp_path,
        eval=[str(speech / "dev.tar")],
        model=str(trained),
        recipe=recipe(max_steps=2, eval_steps=2, save_steps=2, gradient_accumulation_steps=2),
    )
    before, after = weights(trained), weights(tmp_path)
    frozen = [name for name in before if "feature_extractor" in name]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    assert load_vocabulary(trained / "vocab.json") == load_vocabulary(tmp_path / "vocab.json")


def test_accumulated_batches_are_averaged_not_summed(
    speech: Path, config: Path, tmp_path: Path
) -> None:
    """transformers believes that Wav2Vec2ForCTC scales its loss; it does not."""
    norms = []
    for steps in (1, 3):
        finetune(
            [str(speech / "train.tar")],
            output=tmp_path / str(steps),
            eval=[str(speech / "dev.tar")],
            config=config,
            recipe=recipe(
                max_steps=1,
                eval_steps=1,
                save_steps=1,
                noise_share=0.0,
                per_device_train_batch_size=6 // steps,
                gradient_accumulation_steps=steps,
            ),
        )
        norms.append(history(tmp_path / str(steps))[0]["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_the_head_alone_learns_in_the_first_steps(
    trained: Path, speech: Path, tmp_path: Path
) -> None:
    finetune(
        [str(speech / "train.tar")],
        output=tmp_path,
        eval=[str(speech / "dev.tar")],
        model=str(trained),
        recipe=recipe(max_steps=2, eval_steps=2, save_steps=2, head_only_steps=2),
    )
    before, after = weights(trained), weights(tmp_path)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"lm_head.weight", "lm_head.bias"}


def test_a_jamo_head_is_learned_kept_over_a_resume_and_not_saved(
    speech: Path, config: Path, tmp_path: Path
) -> None:
    def run(output: Path) -> None:
        finetune(
            [str(speech / "train.tar")],
            output=output,
            eval=[str(speech / "dev.tar")],
            config=config,
            recipe=recipe(jamo_loss_weight=0.5, head_only_steps=1),
        )

    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    run(straight)
    checkpoint = straight / "checkpoints" / "checkpoint-3"
    (resumed / "checkpoints").mkdir(parents=True)
    (resumed / "vocab.json").write_bytes((straight / "vocab.json").read_bytes())
    assert "jamo_head.weight" in weights(checkpoint)
    checkpoint.rename(resumed / "checkpoints" / "checkpoint-3")
    run(resumed)
    first, second = weights(straight), weights(resumed)
    assert not any("jamo" in name for name in first)
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    _, report = Wav2Vec2ForCTC.from_pretrained(straight, output_loading_info=True)
    assert not report["unexpected_keys"]


def test_the_command_line_has_a_flag_for_every_hyperparameter(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    app = cyclopts.App(result_action="return_value")
    app.default(finetune)
    app(["--help"])
    shown = capsys.readouterr().out
    flags = set(re.findall(r"--(?:\[no-\])?([a-z0-9-]+)", shown))
    assert {name.replace("_", "-") for name in Recipe.__dataclass_fields__} <= flags


def test_the_defaults_are_the_recipe_of_the_seed() -> None:
    seed = Recipe()
    assert (seed.learning_rate, seed.warmup_steps, seed.num_train_epochs) == (7.5e-5, 2000, 50)
    assert (seed.per_device_train_batch_size, seed.per_device_eval_batch_size) == (8, 8)
    assert (seed.gradient_accumulation_steps, seed.seed, seed.fp16) == (4, 42, True)
    assert (seed.adam_beta1, seed.adam_beta2, seed.adam_epsilon) == (0.9, 0.999, 1e-8)
    assert seed.lr_scheduler_type == "linear"


def test_speech_without_references_is_refused_in_one_line(
    speech: Path, config: Path, tmp_path: Path
) -> None:
    write_tar(tmp_path / "silent.tar", [(tone(1.0), None)])
    with pytest.raises(JobError, match="no recording with a reference") as failure:
        finetune(
            [str(tmp_path / "silent.tar")],
            output=tmp_path / "out",
            eval=[str(speech / "dev.tar")],
            config=config,
        )
    assert "\n" not in str(failure.value)


def test_a_vocabulary_that_lacks_the_references_is_refused(
    speech: Path, config: Path, tmp_path: Path
) -> None:
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps(build_vocabulary(["가나다"]).ids))
    with pytest.raises(JobError, match=r"lacks .*% of the references"):
        finetune(
            [str(speech / "train.tar")],
            output=tmp_path / "out",
            eval=[str(speech / "dev.tar")],
            config=config,
            vocabulary=path,
        )


def test_model_and_config_together_or_neither_is_wrong_usage(speech: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError) as failure:
        finetune([str(speech)], output=tmp_path, eval=[str(speech)])
    assert failure.value.exit_code == 2


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"가": 0, "|": 2}', '{"가": 0, "|": 1}'])
def test_a_file_that_is_no_vocabulary_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "vocab.json"
    path.write_text(content)
    with pytest.raises(JobError):
        load_vocabulary(path)


def test_decoding_collapses_ids_before_it_maps_them() -> None:
    tokens = build_vocabulary(["가나"])
    blank = tokens.ids["[PAD]"]
    assert tokens.decode([0, 0, blank, 0, 1, 1]) == "가가나"
    assert tokens.decode([0, 0, 0]) == "가"
    assert tokens.decode([blank, -100]) == ""


def test_a_jamo_vocabulary_takes_syllables_apart_and_puts_them_together() -> None:
    letters = [*JAMO, *map(chr, range(0x11A8, 0x11C3))]
    tokens = Vocabulary({token: token_id for token_id, token in enumerate(letters)})
    ids = tokens.encode("한국 말")
    assert len(ids) == 3 + 3 + 1 + 3
    blank = tokens.ids["[PAD]"]
    assert tokens.decode([i for token_id in ids for i in (token_id, blank)]) == "한국 말"
    assert tokens.unknown_share(["한국 말"]) == 0.0


def test_a_decomposed_reference_is_the_same_as_a_composed_one() -> None:
    text = "학교에, 가요?"
    assert normalize_reference(unicodedata.normalize("NFD", text)) == "학교에 가요"


def test_an_empty_reference_gives_a_finite_loss_also_when_alone(config: Path) -> None:
    tokens = build_vocabulary(["가나"])
    dataset = SpeechDataset([Example(tone(1.0), ""), Example(tone(1.2), "가")], tokens)
    extractor = Wav2Vec2FeatureExtractor(return_attention_mask=True)
    settings = json.loads(config.read_text()) | {"vocab_size": 5, "pad_token_id": 4}
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**settings, ctc_loss_reduction="mean"))
    for items in ([dataset[0]], [dataset[0], dataset[1]]):
        loss = model(**Collator(extractor)(items)).loss
        loss.backward()
        assert torch.isfinite(loss)


def test_padding_is_masked_and_left_out_of_the_normalization() -> None:
    tokens = build_vocabulary(["가나"])
    dataset = SpeechDataset([Example(tone(0.5), "가"), Example(tone(1.0), "나가")], tokens)
    batch = Collator(Wav2Vec2FeatureExtractor(return_attention_mask=True))([dataset[0], dataset[1]])
    assert batch["attention_mask"].sum(-1).tolist() == [8_000, 16_000]
    assert batch["labels"].tolist() == [[0, -100], [1, 0]]
    assert batch["input_values"][0, :8_000].var().item() == pytest.approx(1.0, abs=1e-3)
    assert not batch["input_values"][0, 8_000:].any()


@pytest.mark.parametrize("kind", ["white", "pink", "brown", "babble"])
def test_noise_has_unit_power_and_the_wanted_length(kind: str) -> None:
    voices = [Example(tone(0.3, 300), "가"), Example(tone(0.7), "나")]
    noise = make_noise(kind, 12_345, np.random.default_rng(0), voices)
    assert noise.shape == (12_345,)
    assert noise.dtype == np.float32
    assert np.mean(noise**2) == pytest.approx(1.0, rel=1e-3)


def test_noise_comes_at_its_ratio_and_differs_between_epochs() -> None:
    tokens = build_vocabulary(["가"])
    dataset = SpeechDataset(
        [Example(tone(1.0), "가")], tokens, noise_share=1.0, noise_snr_db=(10.0, 10.0)
    )
    clean = tone(1.0).astype(np.float32) / 32_768
    noise = dataset[0]["waveform"] - clean
    assert 10 * np.log10(np.mean(clean**2) / np.mean(noise**2)) == pytest.approx(10.0, abs=0.05)
    assert np.array_equal(dataset[0]["waveform"] - clean, noise)
    dataset.set_epoch(1)
    assert not np.array_equal(dataset[0]["waveform"] - clean, noise)


def test_batches_hold_every_example_once_and_keep_their_bounds() -> None:
    lengths_s = np.linspace(0.2, 4.0, 50)
    examples = [Example(tone(length_s), "가") for length_s in lengths_s]
    dataset = SpeechDataset(examples, build_vocabulary(["가"]))
    batches = LengthBatches(dataset, 8, 10.0)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        drawn = list(batches)
        assert len(drawn) == len(batches)
        assert sorted(index for batch in drawn for index in batch) == list(range(50))
        assert max(map(len, drawn)) <= 8
        padded_s = [lengths_s[batch].max() * len(batch) for batch in drawn]
        assert max(padded_s) <= 10.0 * 1.25  # jitter of lengths, ± 10 % each
    first = list(batches)
    dataset.set_epoch(0)
    assert list(batches) != first
