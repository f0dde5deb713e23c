"""What every part of the package uses: checks of arguments, and files written whole."""
