"""`python -m mmpu.cli`, for launchers that start modules."""

from mmpu.cli.main import main

if __name__ == "__main__":
    main()
