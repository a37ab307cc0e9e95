"""`python -m runtime COMMAND`."""

import sys


def main() -> int:
    if sys.argv[1:2] == ["top"]:
        from runtime._top import main

        return main(sys.argv[2:])
    print("usage: python -m runtime top ADDR", file=sys.stderr)
    return 2


sys.exit(main())
