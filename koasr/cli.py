"""The command line: `koasr COMMAND …`."""

import sys
from typing import Annotated

import cyclopts
from cyclopts import Parameter, validators
from rich.console import Console

from koasr import __version__
from koasr.errors import JobError
from koasr.options import Device, Options, Precision

EXIT_USAGE, EXIT_INTERRUPTED = 2, 130

app = cyclopts.App(
    name="koasr",
    help="Bulk speech transcription for Korean: speech in, Parquet transcripts out.",
    version=__version__,
    default_parameter=Parameter(negative_iterable=()),
    suppress_keyboard_interrupt=False,
)
# By name, so that neither is imported unless it is called: both bring torch.
app.command(
    "koasr.convert:convert",
    name="convert",
    help="""Make a clean safetensors directory of an older model, once.

    Pickled weights (pytorch_model.bin) are read in a process of its own that runs no code from
    them; weights, config and vocabulary are checked against each other, and one second is
    transcribed. The commit it came from is noted in koasr.json.
    """,
)
app.command(
    "koasr.finetune:finetune",
    name="finetune",
    help="""Fine-tune a checkpoint on speech with references, or train one from scratch.

    Reads what koasr transcribe reads. Recordings without a reference are left out and counted; an
    empty reference is silence, and is learned. Speech is held in memory: 115 MB an hour.
    """,
)


@app.command
def transcribe(
    inputs: Annotated[list[str], Parameter(consume_multiple=True)],
    /,
    *,
    output: str,
    model: str,
    revision: str | None = None,
    date: str | None = None,
    max_reject_rate: Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1))] = 0.05,
    device: Device = "auto",
    precision: Precision = "auto",
    num_actors: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    batch_seconds: Annotated[float | None, Parameter(validator=validators.Number(gt=0))] = None,
) -> int:
    """Transcribe everything the inputs hold and the output lacks.

    Run it again after a crash and it goes on; run it the next night and it does what is new.
    Exit code: 0 done; 1 the job could not be done; 2 wrong usage; 3 done, but more was rejected
    than --max-reject-rate.

    Args:
        inputs: Files, folders, globs or URIs (s3://bucket/prefix): tar and Parquet shards, JSONL
            manifests, .trn scripts, audio files. What each is, is found out.
        output: Folder or URI. Transcripts come to OUTPUT/transcripts, rejects to OUTPUT/rejects.
        model: Directory, URI or hub id of a Wav2Vec2ForCTC checkpoint in safetensors.
        revision: Commit of a hub model, 40 hex digits.
        date: Partition of the rows, YYYY-MM-DD; today in UTC if not given.
        max_reject_rate: Share of rejected recordings above which the exit code is 3.
        device: auto takes the cluster's GPUs where it has some.
        precision: Of the model's body; auto is float16 on a GPU, float32 on a CPU.
        num_actors: Copies of the model; as many as there are GPUs, or one for 4 CPUs.
        batch_seconds: Padded seconds of a micro-batch; 240 on a GPU, 40 on a CPU.
    """
    from koasr.transcribe import check_stores, open_model
    from koasr.transcribe import transcribe as run

    console = Console(soft_wrap=True)
    options = Options(device, precision, num_actors, batch_seconds, date, max_reject_rate)
    check_stores([*inputs, output, model])
    return run(inputs, output, open_model(model, revision, console), options, console)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code; a user's mistake is one line."""
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        message = " ".join(str(error).split())
        print(f"koasr: {message} See koasr COMMAND --help.", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    except JobError as error:
        print(f"koasr: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("koasr: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)
