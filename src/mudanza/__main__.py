"""``python -m mudanza``."""

from mudanza.cli.main import main

if __name__ == "__main__":
    main()
