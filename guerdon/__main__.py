"""``python -m guerdon``: the command ``guerdon``, of the interpreter that is named."""

from guerdon.cli.main import main

if __name__ == "__main__":
    main()
