"""The same as `mnvision train`."""

from mnvision.cli import main_train

if __name__ == "__main__":
    main_train()
