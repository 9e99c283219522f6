"""The files of Jupyter's file browser: a user's virtual folders, as one tree."""
