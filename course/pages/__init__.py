"""The site behind `make site`: chapters, exercises, claims, literature and the reference of the library, as pages.

`site` brings them together and runs Sphinx. Each other module makes one kind of page from what it is written in, as
text; nothing of it is committed, and nothing is fetched.
"""
