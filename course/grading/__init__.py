"""Marks the sheets of a class: `python -m course grade FOLDER`.

`submissions` finds the sheets and what is to be asked of each; `process` runs each in a process of its own, with
limits; `worker` is what runs there, with `guard` and `seal`; `marking` puts the three together, and `report` writes the
table and a page for each learner.

It keeps apart what learners do by mistake or to see what happens. It is no prison: for people who mean harm, run it in
a virtual machine.
"""
