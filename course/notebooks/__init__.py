"""From the text that is edited to notebooks: built, run, compared, and saved by JupyterLab."""
