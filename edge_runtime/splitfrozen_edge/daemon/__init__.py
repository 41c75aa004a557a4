"""`run`: joined datasets followed for years by one process."""
