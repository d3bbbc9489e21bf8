"""Options, files, checks and tables that every room shares."""
