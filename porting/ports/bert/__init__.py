"""bert: a port for the porting workbench. See README.md."""
