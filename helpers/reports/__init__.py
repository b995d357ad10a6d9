"""Papermill runs, HTML reports and the `course` command; knows notebooks by path, never a chapter's code."""
