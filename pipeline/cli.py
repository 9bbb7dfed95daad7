"""precompute-depth: what labels (imagenet, nyu, rgbd, folder, ...) and what looks, a file each in `commands/`."""

import typer

from pipeline import errors
from pipeline.commands.add import add
from pipeline.commands.compare import compare
from pipeline.commands.digits import digits
from pipeline.commands.folder import folder
from pipeline.commands.imagenet import imagenet
from pipeline.commands.inspect import inspect
from pipeline.commands.nyu import nyu
from pipeline.commands.rgbd import rgbd
from pipeline.commands.toyrooms import toyrooms
from pipeline.commands.verify import verify
from pipeline.terminal import add_version

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Stage 1: photographs in, RGB-D shards out. A teacher estimates depth for every image, once.\n\n"
    "Start with `precompute-depth folder PHOTOS OUT --teacher toy`, then `precompute-depth inspect OUT`.",
)
add_version(app)
for command in (imagenet, nyu, rgbd, folder, toyrooms, digits, add, verify, inspect, compare):
    app.command()(command)


def main() -> None:
    """Entry point."""
    errors.main(app, interrupted="interrupted: the same line again goes on where this stopped")


if __name__ == "__main__":
    main()
