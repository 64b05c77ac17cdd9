"""The tasks and their checks: one module `chNN` a chapter, loaded when one of its tasks is asked for."""
