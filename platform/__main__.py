"""`python -m platform`: what the standard library's module prints when it is run."""

import platform
import runpy

if __name__ == "__main__":
    runpy.run_path(platform.system.__code__.co_filename, run_name="__main__")
