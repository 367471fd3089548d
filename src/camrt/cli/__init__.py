"""The command line; `camrt.cli.main` is where it begins."""
