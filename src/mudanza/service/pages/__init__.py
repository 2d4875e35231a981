"""The dashboard: pages made here, in English and Spanish, that work without the internet and without a pointer.

Every page is a whole one, and every order a form: both work without any script. What is under way is drawn anew by
fragments of the same pages, which the server sends as events (``live``).
"""
