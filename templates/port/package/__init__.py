"""PORT_NAME: a port for the porting workbench. See README.md."""
