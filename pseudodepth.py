"""python -m pseudodepth precompute-depth|train|analyze ...: the three commands, where they are not on the PATH."""

import sys
from importlib import import_module

COMMANDS = {"precompute-depth": "pipeline.cli", "train": "training.cli", "analyze": "analysis.cli"}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name not in COMMANDS:
        wrong = name not in ("--help", "-h")
        print(f"{__doc__ or ''}", file=sys.stderr if wrong else sys.stdout)
        if wrong:
            print(f"error: the command must be one of {', '.join(COMMANDS)}, got {name!r}", file=sys.stderr)
        sys.exit(2 if wrong else 0)
    sys.argv[:2] = [name]
    import_module(COMMANDS[name]).main()


if __name__ == "__main__":
    main()
