"""The same as `mnvision profile`."""

from mnvision.cli import main_profile

if __name__ == "__main__":
    main_profile()
