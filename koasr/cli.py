"""The command line: `koasr COMMAND …`."""

import sys
from dataclasses import replace
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from koasr import __version__
from koasr.errors import JobError, Reason
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.options import Options
from koasr.stopping import EXIT_STOPPED, Stopped

EXIT_USAGE, EXIT_INTERRUPTED = 2, 130
DEFAULT_OPTIONS = Options()
_Options = Annotated[Options, Parameter(name="*")]
_Limits = Annotated[Limits, Parameter(name="*", group="Limits of untrusted input")]

app = cyclopts.App(
    name="koasr",
    help="Bulk speech transcription for Korean: speech in, Parquet transcripts out.",
    version=__version__,
    default_parameter=Parameter(negative_iterable=()),
    suppress_keyboard_interrupt=False,
)
# By name, so that none is imported unless it is called: two bring torch.
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
app.command(
    "koasr.evaluate:evaluate",
    name="evaluate",
    help="""Compare transcripts with references: error rates, and what each confidence is worth.

    Rates are of all errors over all characters, with intervals from a bootstrap that draws whole
    speakers, else recordings. No text is printed unless asked for.

    Example: koasr evaluate s3://transcripts/zeroth-1b dev.trn --side pronunciation --json dev.json
    """,
)
app.command(
    "koasr.calibrate:calibrate",
    name="calibrate",
    help="""Learn from labelled speech what a confidence is worth: expected CER, and what to keep.

    Label 300 segments or more of the speech that is to be transcribed, of many speakers, drawn at
    random from what koasr made of it. Then koasr transcribe --calibration fills in expected_cer,
    and koasr select keeps what holds a CER.

    Example: koasr calibrate s3://out/labelled dev.trn --out calls.json --name calls
    """,
)
app.command(
    "koasr.select:select",
    name="select",
    help="""Keep what can be trusted, say how many hours that is, and write it as a training set.

    Ranks segments by confidence, leaves out what cannot be a good label, and prints what each hour
    more costs in expected CER. Needs koasr calibrate for that.

    Example: koasr select OUT --max-expected-cer 0.05 --to webdataset --out s3://sets/night-1
    """,
)
app.command(
    "koasr.status:status",
    name="status",
    help="""Say what an output holds, which runs it has, and what they have left to do.

    Reads names and footers, no rows: koasr verify counts the rows.
    """,
)
app.command(
    "koasr.verify:verify",
    name="verify",
    help="""Read everything an output holds and count it again.

    Holds rows against records, rejects, plans and summaries, looks for what is there twice, and
    verifies checksums. Exit code: 0 when nothing differs, 1 when something does.
    """,
)
app.command(
    "koasr.gc:gc",
    name="gc",
    help="""Remove what dead runs left: staged packs, orphan rejects, temporary files.

    Nothing that an unfinished run needs to go on is touched, nor any transcript.
    """,
)
app.command(
    "koasr.forget:forget",
    name="forget",
    help="""Take recordings out of an output, and keep every later run from bringing them back.

    Remembers a hash of each id first, then writes every object that holds one anew without it,
    and removes staged packs that may hold one. When it is cut off, run it again.
    """,
)
app.command(
    "koasr.export:export",
    name="export",
    help="""Write a text for each recording: subtitles, words with their times, lines or JSON.

    One file a recording, named after it; what is already there under that name is replaced.
    For example: koasr export s3://transcripts/lectures --to srt --out subtitles
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
    prune: bool = False,
    options: _Options = DEFAULT_OPTIONS,
    limits: _Limits = DEFAULT_LIMITS,
) -> int:
    """Transcribe everything the inputs hold and the output lacks.

    Run it again after a crash and it goes on; run it the next night and it does what is new.
    Exit code: 0 done; 1 the job could not be done; 2 wrong usage; 3 done, but more was rejected
    than --max-reject-rate; 4 stopped before the end, the same command goes on.

    Args:
        inputs: Files, folders, globs or URIs (s3://bucket/prefix): tar and Parquet shards, JSONL
            manifests, .trn scripts, audio files. What each is, is found out.
        output: Folder or URI. Transcripts come to OUTPUT/transcripts, rejects to OUTPUT/rejects.
        model: Directory, URI or hub id of a Wav2Vec2ForCTC checkpoint in safetensors.
        revision: Commit of a hub model, 40 hex digits.
        date: Partition of the rows, YYYY-MM-DD; today in UTC if not given.
        prune: Take out of the output what lay under the inputs and is no longer there.
        options: How it runs.
        limits: What untrusted input may ask.
    """
    from koasr.transcribe import check_stores, open_model
    from koasr.transcribe import transcribe as run

    console = Console(soft_wrap=True)
    check_stores([*inputs, output, model])
    options = replace(options, date=date, prune=prune)
    return run(inputs, output, open_model(model, revision), options, limits, console)


@app.command
def retry(
    output: str,
    /,
    *,
    model: str,
    revision: str | None = None,
    reason: tuple[Literal[Reason, "all"], ...] = (),
    options: _Options = DEFAULT_OPTIONS,
    limits: _Limits = DEFAULT_LIMITS,
) -> int:
    """Try rejected recordings again, and move what is recovered to the transcripts.

    Only what was rejected is read and computed; each object that holds some is written anew.
    Exit codes as of koasr transcribe.

    Args:
        output: Folder or URI of an earlier koasr transcribe.
        model: The checkpoint that made the output.
        revision: Commit of a hub model, 40 hex digits.
        reason: Reasons to try again; by default those that may have passed since.
        options: How it runs.
        limits: What untrusted input may ask.
    """
    from koasr.transcribe import check_stores, open_model
    from koasr.transcribe import retry as run

    console = Console(soft_wrap=True)
    check_stores([output, model])
    return run(output, reason, open_model(model, revision), options, limits, console)


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
    except Stopped as stopped:
        print(f"koasr: stopped ({stopped}); the same command goes on from here", file=sys.stderr)
        sys.exit(EXIT_STOPPED)
    except KeyboardInterrupt:
        print("koasr: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)
