"""`python -m rectool`, so that launchers such as `accelerate launch -m rectool` work."""

from rectool.cli import main

if __name__ == "__main__":
    main()
