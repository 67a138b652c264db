"""python -m metadist_cli"""

from metadist_cli.cli import main

if __name__ == "__main__":
    main()
