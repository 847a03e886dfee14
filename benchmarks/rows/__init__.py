"""One module for each thing that is measured; each function returns the rows it measured."""
