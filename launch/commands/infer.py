"""`castor infer`: writes, draws, captions and scores with a trained model. Needs only the run's MODEL_DIR.

Prompts come from the command line (--text, --draw, --describe), from a file (--prompts: launch/inference/prompts.py) or
from a conversation (--interactive: launch/inference/interactive.py). `--samples=DIR` writes the results of any number
of --text and --draw to DIR and lists them in samples.json, for a recipe's report.
"""

import argparse
import pathlib

from castor.launch import devices, terminal
from castor.tasks.configuration import Flags
from castor.tasks.errors import ConfigurationError
from castor.tasks.storage import storage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model_dir", metavar="DIR", help="MODEL_DIR of a castor train run")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint (default: the latest)")
    parser.add_argument(
        "--vocabulary", metavar="DIR", help="vocabulary folder (default: the one recorded in MODEL_DIR)"
    )
    what = parser.add_argument_group("what to do")
    what.add_argument("--text", action="append", default=[], metavar="PROMPT", help="continue a text")
    what.add_argument(
        "--draw", action="append", default=[], metavar="CAPTION", help="draw an image from its caption, into --output"
    )
    what.add_argument(
        "--describe", action="append", default=[], metavar="IMAGE", help="write a caption for an image file"
    )
    what.add_argument(
        "--interactive", action="store_true", help="hold a conversation on the terminal; /help lists its commands"
    )
    what.add_argument(
        "--prompts", metavar="FILE", help="answer every line of a .jsonl file into --output; see docs/inference.md"
    )
    what.add_argument(
        "--score", action="store_true", help="with --prompts: score the continuations of each line by log-probability"
    )
    what.add_argument(
        "--output", metavar="FILE", help="output file of --draw (.png, .jpg or .webp) or --prompts (.jsonl)"
    )
    what.add_argument("--samples", metavar="DIR", help="write all results, and samples.json, into this folder instead")
    how = parser.add_argument_group("how tokens are chosen")
    how.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default %(default)s)")
    how.add_argument(
        "--top_k", type=int, default=40, help="sample from the K likeliest tokens; 0 for all (default %(default)s)"
    )
    how.add_argument(
        "--top_p",
        type=float,
        default=1.0,
        help="sample from the fewest tokens with this total probability (default %(default)s)",
    )
    how.add_argument("--seed", type=int, default=0, help="equal seeds give equal results (default %(default)s)")
    how.add_argument(
        "--max_tokens",
        type=int,
        metavar="N",
        help="at most N tokens of text (default: as many as fit; 64 for a caption)",
    )
    how.add_argument(
        "--size",
        metavar="ROWSxCOLUMNS",
        help="grid of a drawing in patches of 8 x 8 pixels (default: the model decides)",
    )
    group = parser.add_argument_group("devices")
    group.add_argument("--batch_size", type=int, default=32, help="rows decoded together (default %(default)s)")
    group.add_argument(
        "--mesh", metavar="AXIS=N,...", help="shard the model over devices, e.g. data=2,tensor=4 (default: one device)"
    )
    devices.add_arguments(group)


def run(arguments: argparse.Namespace, flags: Flags) -> int:
    from castor.launch.inference import pictures

    _check(arguments, flags)
    mesh = _mesh(arguments.mesh)
    size = pictures.parse_size(arguments.size)
    devices.start_jax(arguments)
    from castor.train.inference import inference

    sampling = inference.Sampling(arguments.temperature, arguments.top_k, arguments.seed, arguments.top_p)
    with pictures.Reader() as read_picture:
        described = [(path, read_picture(path)) for path in arguments.describe]
        model = inference.Model.load(
            arguments.model_dir, arguments.step, arguments.vocabulary, mesh, arguments.batch_size
        )
        if arguments.interactive:
            from castor.launch.inference.interactive import Conversation

            return Conversation(model, sampling, arguments.max_tokens, read_picture, arguments.samples or ".").run()
        if arguments.prompts:
            from castor.launch.inference.prompts import BatchInference

            job = BatchInference(
                arguments.prompts, arguments.output, arguments.score, sampling, arguments.max_tokens, size
            )
            return job.run(model, read_picture)
    if not arguments.samples:
        return _answer(arguments, model, sampling, size, described)
    from castor.tasks.storage import lock

    with lock.hold(arguments.samples, "--samples"):
        return _answer(arguments, model, sampling, size, described)


def _answer(arguments: argparse.Namespace, model, sampling, size, described) -> int:
    from castor.launch.inference import pictures

    rows: list[dict] = []
    for prompt in arguments.text:
        rows.append({"prompt": prompt, "text": model.generate_text(prompt, sampling, arguments.max_tokens)})
        print(terminal.printable(prompt + rows[-1]["text"]))
    for number, caption in enumerate(arguments.draw):
        path = storage.join(arguments.samples, f"drawn-{number:02d}.png") if arguments.samples else arguments.output
        pictures.write(path, model.generate_image(caption, sampling, size))
        rows.append({"prompt": caption, "image": pathlib.Path(path).name})
        print(path)
    for path, pixels in described:
        rows.append({"prompt": path, "text": model.caption_image(pixels, sampling, arguments.max_tokens or 64)})
        print(terminal.printable(rows[-1]["text"]))
    if arguments.samples:
        storage.write_json_atomic(storage.join(arguments.samples, "samples.json"), rows)
    return 0


def _check(arguments: argparse.Namespace, flags: Flags) -> None:
    from castor.launch.inference import pictures

    if not arguments.model_dir:
        raise ConfigurationError("castor infer needs --model_dir.", "Give the MODEL_DIR of a castor train run.")
    if flags != Flags():
        raise ConfigurationError(
            "castor infer takes no gin flags.", "The model's shape is read from MODEL_DIR; see castor infer --help."
        )
    single = bool(arguments.text or arguments.draw or arguments.describe)
    if single + arguments.interactive + bool(arguments.prompts) > 1:
        raise ConfigurationError(
            "--interactive and --prompts cannot be combined with each other or with --text, --draw and --describe.",
            "Give one of them.",
        )
    if not (single or arguments.interactive or arguments.prompts):
        remedy = (
            "Give --text=PROMPT, --draw=CAPTION --output=X.png, --describe=IMAGE, "
            "--prompts=FILE.jsonl --output=FILE.jsonl, or --interactive."
        )
        raise ConfigurationError("castor infer has nothing to do.", remedy)
    if arguments.score and not arguments.prompts:
        raise ConfigurationError(
            "--score needs --prompts.", "Give --prompts=FILE.jsonl with a prompt and a continuation in every line."
        )
    if arguments.prompts and not arguments.output:
        raise ConfigurationError("--prompts needs --output=FILE.jsonl.", "Name the file for the answers.")
    if arguments.draw and not arguments.samples:
        if not arguments.output or len(arguments.draw) > 1:
            raise ConfigurationError(
                "--draw needs --output=X.png, and takes one caption with it.",
                "For several drawings give --samples=DIR.",
            )
        pictures.check_name(arguments.output)
    if arguments.samples:
        storage.makedirs(arguments.samples)


def _mesh(text: str | None) -> dict[str, int] | None:
    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(axis and size.lstrip("-").isdigit() for axis, _, size in pairs):
        raise ConfigurationError(f"--mesh={text} is not a mesh.", "Write AXIS=N,AXIS=N, e.g. --mesh=data=2,tensor=4.")
    return {axis: int(size) for axis, _, size in pairs}
