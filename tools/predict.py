"""The same as `mnvision predict`."""

from mnvision.cli import main_predict

if __name__ == "__main__":
    main_predict()
