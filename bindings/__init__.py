"""What people use: the session, the command line."""
