"""What precompute-depth does, a file a command. Heavy imports happen inside the commands, so that --help is quick."""

from pipeline.terminal import make_console

console = make_console()
