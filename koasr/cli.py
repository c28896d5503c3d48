"""The command line: `koasr COMMAND …`."""

import sys
from dataclasses import replace
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from koasr import __version__
from koasr.ending import EXIT_INTERRUPTED
from koasr.errors import JobError, Reason
from koasr.help import ARGUMENTS, LIMITS, LIMITS_AGAIN, OPTIONS, HelpPage
from koasr.job_file import read_job_file
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.mistakes import mistake_text
from koasr.options import Options
from koasr.stopping import EXIT_STOPPED, Stopped

EXIT_USAGE = 2
DEFAULT_OPTIONS = Options()
_Options = Annotated[Options, Parameter(name="*")]
_Limits = Annotated[Limits, Parameter(name="*", group=LIMITS)]
_LimitsAgain = Annotated[Limits, Parameter(name="*", group=LIMITS_AGAIN)]

app = cyclopts.App(
    name="koasr",
    help="""Bulk speech transcription for Korean: speech in, Parquet transcripts out.

    Example: koasr transcribe examples/speech --output out --model examples/model
    """,
    version=__version__,
    default_parameter=Parameter(negative_iterable=()),
    help_format="plaintext",
    help_formatter=HelpPage(),
    group_arguments=ARGUMENTS,
    group_parameters=OPTIONS,
    suppress_keyboard_interrupt=False,
)
_COMMANDS = {
    "status": """Say what an output holds, and what its runs have left to do.

    Reads names and footers, no rows: koasr verify counts the rows.

    With --watch it shows how far the run at work is, from any machine that reaches the store.

    Example: koasr status s3://transcripts/zeroth-1b --watch
    """,
    "verify": """Read everything an output holds and count it again.

    Holds rows against records, rejects, plans and summaries, looks for what is there twice, and
    verifies checksums. Exit code: 0 when nothing differs, 1 when something does.

    Example: koasr verify s3://transcripts/zeroth-1b
    """,
    "evaluate": """Compare transcripts with references, and scores with errors.

    Rates are of all errors over all characters, with intervals from a bootstrap that draws whole
    speakers, else recordings. No text is printed unless asked for.

    Example: koasr evaluate s3://transcripts/zeroth-1b dev.trn --json dev.json
    """,
    "calibrate": """Learn from labelled speech what a confidence is worth.

    Label 300 segments or more of the speech that is to be transcribed, of many speakers, drawn at
    random from what koasr made of it. Then koasr transcribe --calibration fills in expected_cer,
    and koasr select keeps what holds a CER.

    Example: koasr calibrate s3://out/labelled dev.trn --out calls.json --name calls
    """,
    "select": """Keep what can be trusted, and write it as a training set.

    Ranks segments by confidence, leaves out what cannot be a good label, and prints what each hour
    more costs in expected CER; koasr calibrate is needed for that.

    Example: koasr select OUT --max-expected-cer 0.05 --to hf --out s3://sets/one
    """,
    "report": """Write the page of a run: what happened, and what to listen to.

    One file that needs no network: figures in words, charts, rejects with examples, and the least
    confident, typical and random segments with their sound. It holds speech and texts of people.

    Example: koasr report s3://transcripts/zeroth-1b --gpu-hour-price 2.5
    """,
    "export": """Write subtitles, words with their times, lines or JSON.

    One file a recording, named after it; what is already there under that name is replaced.

    Example: koasr export s3://transcripts/lectures --to srt --out subtitles
    """,
    "convert": """Make a clean safetensors directory of an older model, once.

    Pickled weights (pytorch_model.bin) are read in a process of its own that runs no code from
    them; weights, config and vocabulary are checked against each other, and one second is
    transcribed. The commit it came from is noted in koasr.json.

    Example: koasr convert anantoj/wav2vec2-xls-r-1b-korean --out xlsr-1b-korean
    """,
    "finetune": """Fine-tune a checkpoint on speech with references, or train one.

    Reads what koasr transcribe reads, less what has no reference; an empty reference is silence,
    and is learned. Speech is held in memory: 115 MB an hour.

    Example: koasr finetune train --eval dev --model MODEL --output mine
    """,
    "gc": """Remove what dead runs left: staged packs, temporary files.

    Nothing that an unfinished run needs to go on is touched, nor any transcript.

    Example: koasr gc s3://transcripts/zeroth-1b --dry-run
    """,
    "forget": """Take recordings out of an output, and never let them back.

    Remembers a hash of each id first, then writes every object that holds one anew without it,
    and removes staged packs that may hold one. When it is cut off, run it again.

    Example: koasr forget s3://transcripts/zeroth-1b --ids withdrawn.txt
    """,
    "doctor": """Check that a night can run on this machine, and say what to do.

    Tries packages, memory, GPUs, audio formats, Ray and a model, and the places that are named.
    No credential and no text is printed. Exit code: 0 when nothing failed, 1 when something did.

    Example: koasr doctor --model MODEL --input s3://corpus --output s3://out
    """,
}
_NIGHTLY = """Do a whole night: transcribe, verify, evaluate, report, tell.

    Every step is recorded, and the same command does again what failed. Each key of the job file
    is a flag (hours under [select] is --select.hours), and what is typed counts; --limits.… are
    those of koasr transcribe. Exit codes too; 1 also where a later step failed.

    Example: koasr nightly --job koasr.toml --date 2026-11-22 --dry-run
    """
app.command(
    "koasr.nightly:nightly", name="nightly", help=_NIGHTLY, sort_key=2, config=read_job_file
)
for place, (name, text) in enumerate(_COMMANDS.items(), start=3):
    # By name, so that none is imported unless it is called: two bring torch.
    app.command(f"koasr.{name}:{name}", name=name, help=text, sort_key=place)


@app.command(sort_key=0)
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
    Exit code: 0 done; 1 not possible; 2 wrong usage; 3 done, but too much was rejected; 4 stopped
    before the end.

    Example: koasr transcribe s3://corpus/2026-11 --output s3://out --model s3://1b

    Args:
        inputs: Files, folders, globs or URIs (s3://bucket/prefix): tar and Parquet shards, JSONL
            manifests, .trn scripts, audio files. What each is, is found out.
        output: Folder or URI for transcripts/ and rejects/.
        model: Folder, URI or hub id of a Wav2Vec2ForCTC in safetensors.
        revision: Commit of a hub model, 40 hex digits.
        date: Partition of the rows, YYYY-MM-DD; else today in UTC.
        prune: Take out what has vanished from the inputs.
        options: How it runs.
        limits: What untrusted input may ask.
    """
    from koasr.telling import telling
    from koasr.transcribe import check_stores, open_model
    from koasr.transcribe import transcribe as run

    console = Console(soft_wrap=True)
    with telling(output) as call:
        check_stores([*inputs, output, model])
        options = replace(options, date=date, prune=prune)
        checkpoint = open_model(model, revision)
        return run(inputs, output, checkpoint, options, limits, console, call.runs)


@app.command(sort_key=1)
def retry(
    output: str,
    /,
    *,
    model: str,
    revision: str | None = None,
    reason: tuple[Literal[Reason, "all"], ...] = (),
    options: _Options = DEFAULT_OPTIONS,
    limits: _LimitsAgain = DEFAULT_LIMITS,
) -> int:
    """Try rejected recordings again, and keep what is recovered.

    Only what was rejected is read and computed; each object that holds some is written anew.
    Exit codes as of koasr transcribe.

    Example: koasr retry OUT --model MODEL --reason too_long --max-duration-s 40000

    Args:
        output: Folder or URI of an earlier koasr transcribe.
        model: The checkpoint that made the output.
        revision: Commit of a hub model, 40 hex digits.
        reason: Reasons to try again; by default those that may have passed since.
        options: How it runs.
        limits: What untrusted input may ask.
    """
    from koasr.telling import telling
    from koasr.transcribe import check_stores, open_model
    from koasr.transcribe import retry as run

    console = Console(soft_wrap=True)
    with telling(output) as call:
        check_stores([output, model])
        return run(output, reason, open_model(model, revision), options, limits, console, call.runs)


def main(arguments: list[str] | None = None, script: str | None = None) -> None:
    """Run the command line and exit with its code; a user's mistake is one line.

    Args:
        arguments: The command and what follows; by default those of this process.
        script: A file that is this one command, to be called so in its help.
    """
    if script is not None and arguments:
        app.help_formatter = HelpPage(f"koasr {arguments[0]}", f"python {script}")
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        print(f"koasr: {mistake_text(error, script)}", file=sys.stderr)
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
