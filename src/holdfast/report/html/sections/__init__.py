"""The sections of the page, a module each.

``fill`` returns what the section's template, of the same name, shows; nothing where the section is to be left out.
"""
