"""`python -m camrt` is the command line."""

from camrt.cli.main import app

if __name__ == "__main__":
    app(prog_name="camrt")
