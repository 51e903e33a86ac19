"""The command line, whether or not it is installed: ``python -m backprop_gpu``."""

import sys


def main() -> None:
    """Run the command line (extra ``cli``)."""
    try:
        from backprop_gpu.cli.commands import commands
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        from backprop_gpu.errors import MissingExtraError

        print(f"Error: {MissingExtraError('click', 'cli', 'the command line')}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    commands(prog_name="backprop-gpu")


if __name__ == "__main__":
    main()
