"""The same as `mnvision tables`."""

from mnvision.cli import main_tables

if __name__ == "__main__":
    main_tables()
