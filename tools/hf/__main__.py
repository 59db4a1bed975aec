"""Hugging Face in and out: a run as a folder that transformers loads, such a folder as a run.

    python -m tools.hf export RUN DIR                  the best weights; DIR is not there yet
    python -m tools.hf export RUN DIR --checkpoints    and DIR/chck_1M ..., a revision each
    python -m tools.hf import DIR RUN                  of a Llama or GPT-2; RUN is not there yet
                                      [--dev=PATH | --bos=TOKEN]

AutoModelForCausalLM and AutoTokenizer of transformers 4 and 5 load an export without code of ours.

A stranger's folder is data: only safetensors are read, names and shapes must agree with
config.json, nothing is executed. If model or tokenizer would differ from the original, the import
is refused by name. An imported run can teach, be evaluated, be `init`; students take the same
vocabulary: tokenizer = "RUN". The token that opens a text is the folder's bos, or --bos, or with
--dev the special token that predicts development text best.
"""
from onecoach.config import Arguments, UserError, run_folder, run_main


def main(argv):
    parser = Arguments("-m tools.hf", __doc__)
    parser.add_argument("direction", choices=["export", "import"])
    parser.add_argument("source", metavar="FROM", type=run_folder, help="RUN, or DIR to import")
    parser.add_argument("target", metavar="TO", help="DIR, or RUN to import; not there yet")
    parser.add_argument("--checkpoints", action="store_true", help="export word checkpoints too")
    parser.add_argument("--bos", default="", help="import: the token that opens a text")
    parser.add_argument("--dev", default="", help="import: development text to choose it by")
    args = parser.parse_args(argv)

    from tools.hf.export import export
    from tools.hf.importing import import_folder
    if args.direction == "export":
        export(args.source, args.target, args.checkpoints)
    elif args.checkpoints:
        raise UserError("--checkpoints is about export")
    else:
        import_folder(args.source, args.target, args.bos, args.dev)


if __name__ == "__main__":
    run_main(main)
