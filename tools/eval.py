"""The same as `mnvision eval`."""

from mnvision.cli import main_eval

if __name__ == "__main__":
    main_eval()
